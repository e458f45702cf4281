"""The tools inside jobs and over graphs of jobs: lineage, dependencies, batches as a whole, runs by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from mcp_types import TextContent
from support_app import ended
from support_mcp import Surface, asking, models, surface

from claude_jobs.domain.job import JobState
from claude_jobs.factory import now_ms
from claude_jobs.mcp_server.app import McpApp
from claude_jobs.mcp_server.server import build_server
from claude_jobs.services.caller import Caller

SOME_FAIL = """
case "$line" in *fail*) exit 3;; esac
"""


async def call(client: Client[Any], name: str, **arguments: object) -> dict[str, Any]:
    answer = await client.call_tool(name, arguments)
    assert answer.structured_content is not None
    return answer.structured_content


async def text(client: Client[Any], name: str, **arguments: object) -> str:
    (block,) = (await client.call_tool(name, arguments)).content
    assert isinstance(block, TextContent)
    return block.text


async def refusal(client: Client[Any], name: str, **arguments: object) -> str:
    answer = await client.call_tool(name, arguments, raise_on_error=False)
    assert answer.is_error
    (block,) = answer.content
    assert isinstance(block, TextContent) and "\n" not in block.text
    return block.text


def inside(here: Surface, job_id: str) -> Client[Any]:
    """A client that asks from inside a job."""
    who = Caller(cwd=here.caller.cwd, submitter=here.caller.submitter, env=here.caller.env, inside_job=job_id)
    return Client(
        build_server(
            McpApp(
                jobs=here.app.jobs,
                **asking(here.app),
                models=models,
                clock=now_ms,
                default_caller=who,
            )
        )
    )


async def running(here: Surface, job_id: str) -> None:
    async for situation in here.app.jobs.wait(job_id, 20):
        if situation.job.state is JobState.RUNNING:
            return


async def test_a_spawn_inside_a_job_says_its_depth_and_what_is_left(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=60.0) as here, Client(here.server) as outside:
        root = await call(outside, "spawn", prompt="root")
        await running(here, root["job_id"])
        async with inside(here, root["job_id"]) as client:
            child = await call(client, "spawn", prompt="child")
            more = await text(client, "batch", items=[{"prompt": "a"}, {"prompt": "b"}])
        job = await here.app.jobs.get(child["job_id"])

    assert "tree" not in root
    assert child["tree"] == "Depth 1 of 3, 2 of 30 jobs in this tree."
    assert "Depth 1 of 3, 4 of 30 jobs in this tree." in more
    assert (job.parent_id, job.root_id, job.depth) == (root["job_id"], root["job_id"], 1)
    assert (child["depth"], child["parent_id"]) == (1, root["job_id"])


async def test_a_limit_is_an_answer_with_a_way_out(tmp_path: Path) -> None:
    async with (
        surface(tmp_path, seconds=60.0, CLAUDE_MAX_TOTAL_JOBS="2") as here,
        Client(here.server) as outside,
    ):
        root = await call(outside, "spawn", prompt="root")
        await running(here, root["job_id"])
        async with inside(here, root["job_id"]) as client:
            await call(client, "spawn", prompt="child")
            message = await refusal(client, "spawn", prompt="one too many")

    assert message.startswith("recursion_refused: ")
    assert "CLAUDE_MAX_TOTAL_JOBS=2" in message and root["job_id"] in message


async def test_a_wait_inside_a_job_blocks_it_and_says_for_whom(tmp_path: Path) -> None:
    told: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    child = 'while [ ! -e "$TMPDIR/go" ]; do sleep 0.02; done'
    body = f'case "$line" in *root*) sleep 60;; *) {child};; esac'
    async with surface(tmp_path, body=body) as here, Client(here.server) as outside:
        root = (await call(outside, "spawn", prompt="root"))["job_id"]
        await running(here, root)
        async with inside(here, root) as client:
            child = (await call(client, "spawn", prompt="child"))["job_id"]
            waiting = client.call_tool("result", {"job_id": child, "wait_s": 30}, progress_handler=note)
            seen: list[dict[str, Any]] = []

            async def look() -> None:
                while not seen:
                    found = (await call(outside, "status", job_ids=[root]))["jobs"][0]
                    seen.extend([found] if found["state"] == "blocked" and told else [])
                (tmp_path / "tmp" / "go").touch()

            async with asyncio.TaskGroup() as tasks:
                answer = tasks.create_task(waiting)
                tasks.create_task(look())
        after = await here.app.jobs.get(root)

    assert not answer.result().is_error
    assert (seen[0]["note"], seen[0]["waiting_for"]) == (f"waits for {child}", [child])
    assert told and all(message.startswith(child) for message in told)
    assert after.state is JobState.RUNNING


async def test_a_job_sees_and_steers_its_own_tree_only(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=60.0) as here, Client(here.server) as outside:
        root = (await call(outside, "spawn", prompt="root"))["job_id"]
        stranger = (await call(outside, "spawn", prompt="stranger"))["job_id"]
        await running(here, root)
        async with inside(here, root) as client:
            child = (await call(client, "spawn", prompt="child"))["job_id"]
            listed = await call(client, "status")
            hidden = await refusal(client, "result", job_id=stranger)
            denied = await refusal(client, "cancel", job_ids=[stranger])
            log = await client.read_resource("job://recent")
            cancelled = await call(client, "cancel", job_ids=[child])

    assert {job["job_id"] for job in listed["jobs"]} == {root, child}
    assert "counts" not in listed
    assert hidden.startswith("job_not_found: ")
    assert denied.startswith("not_permitted: ")
    assert stranger not in str(log)
    assert cancelled["jobs"][0]["state"] == "cancelled"


async def test_items_of_a_batch_wait_for_each_other_and_hand_on_results(tmp_path: Path) -> None:
    items = [
        {"id": "first", "prompt": "one"},
        {"id": "second", "prompt": "use {{first.result}}"},
        {"prompt": "three", "depends_on": ["second"], "label": "last"},
    ]
    held = 'while [ ! -e "$TMPDIR/go" ]; do sleep 0.02; done'
    async with surface(tmp_path, text="Paris", body=held) as here, Client(here.server) as client:
        made = await call(client, "batch", items=items)
        ids = [job["job_id"] for job in made["jobs"]]
        early = {job["job_id"]: job for job in (await call(client, "status", batch=made["batch_id"]))["jobs"]}
        (tmp_path / "tmp" / "go").touch()
        jobs = [await ended(here.app, job_id) for job_id in ids]

    assert [job["label"] for job in made["jobs"]] == ["first", "second", "last"]
    assert (early[ids[2]]["state"], early[ids[2]]["waiting_for"]) == ("queued", [ids[1]])
    assert early[ids[2]]["note"] == f"waits for {ids[1]}"
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 3
    assert jobs[0].finished_ms is not None and jobs[1].started_ms is not None
    assert jobs[0].finished_ms <= jobs[1].started_ms


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"prompt": "a", "depends_on": ["b"]}], "There is no job 'b' to depend on"),
        (
            [{"id": "a", "prompt": "x", "depends_on": ["b"]}, {"id": "b", "prompt": "x", "depends_on": ["a"]}],
            "wait for each other: a -> b -> a",
        ),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "Two jobs have the id 'a'"),
        ([{"prompt": "x", "modle": "y"}], "is not a parameter"),
    ],
)
async def test_a_graph_that_cannot_be_is_refused(tmp_path: Path, items: list[dict[str, Any]], said: str) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        message = await refusal(client, "batch", items=items)
        listed = await call(client, "status")

    assert said in message
    assert listed["jobs"] == []


async def test_a_batch_takes_the_options_of_a_spawn_and_names_unknown_ones(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        made = await call(client, "batch", items=[{"prompt": "p"}], options={"strict": True, "priority": 3})
        job = await here.app.jobs.get(made["jobs"][0]["job_id"])
        message = await refusal(client, "batch", items=[{"prompt": "p"}], options={"stict": True})

    assert (job.spec.strict, job.priority) == (True, 3)
    assert "Unknown field 'stict'" in message


async def test_status_of_a_batch_has_its_figures_in_one_line(tmp_path: Path) -> None:
    async with (
        surface(tmp_path, body=SOME_FAIL, seconds=0.2, CLAUDE_RETRY_ATTEMPTS="1") as here,
        Client(here.server) as client,
    ):
        made = await call(client, "batch", items=[{"prompt": "fine"}, {"prompt": "fail"}])
        for job in made["jobs"]:
            await ended(here.app, job["job_id"])
        listed = await call(client, "status", batch=made["batch_id"])

    assert (listed["batch"]["jobs"], listed["batch"]["ended"]) == (2, 2)
    assert sum(listed["batch"]["failures"].values()) == 1
    assert listed["batch"]["line"].startswith("2/2 done, 1 failed")
    assert "counts" not in listed


async def test_fail_fast_cancels_the_rest(tmp_path: Path) -> None:
    items = [{"prompt": "fail"}, {"prompt": "never", "id": "n"}]
    async with (
        surface(tmp_path, body=SOME_FAIL, seconds=30.0, CLAUDE_RETRY_ATTEMPTS="1") as here,
        Client(here.server) as client,
    ):
        made = await call(client, "batch", items=items, fail_fast=True, max_parallel=1)
        states = [(await ended(here.app, job["job_id"])).state for job in made["jobs"]]

    assert states == [JobState.FAILED, JobState.CANCELLED]


async def test_retry_runs_a_failed_job_again_under_its_id(tmp_path: Path) -> None:
    flag = tmp_path / "works-now"
    body = f"[ -e {flag} ] || exit 3"
    async with surface(tmp_path, body=body, CLAUDE_RETRY_ATTEMPTS="1") as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        first = await ended(here.app, job_id)
        flag.touch()
        again = await call(client, "retry", job_ids=[job_id])
        second = await ended(here.app, job_id)
        refused = await refusal(client, "retry", job_ids=[job_id])

    assert (first.state, second.state) == (JobState.FAILED, JobState.SUCCEEDED)
    assert [job["job_id"] for job in again["jobs"]] == [job_id]
    assert "note" not in again
    assert second.session_id != first.session_id
    assert refused.startswith("invalid_request: ") and job_id in refused


async def test_options_of_time_and_shape_reach_the_job(tmp_path: Path) -> None:
    options = {"deadline": "2h", "not_before": "1h", "accept": "true", "nest": False}
    async with surface(tmp_path) as here, Client(here.server) as client:
        spawned = await call(client, "spawn", prompt="p", options=options)
        job = await here.app.jobs.get(spawned["job_id"])
        past = await refusal(client, "spawn", prompt="p", options={"deadline": "2020-01-01T00:00Z"})

    assert job.not_before_ms is not None and job.deadline_ms is not None
    assert 3_500_000 < job.not_before_ms - job.created_ms <= 3_600_000
    assert 7_100_000 < job.deadline_ms - job.created_ms <= 7_200_000
    assert (job.spec.accept, job.spec.nest) == ("true", False)
    assert past.startswith("invalid_request: ") and "deadline" in past


async def test_a_job_that_ended_goes_on_with_a_new_prompt(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        first = await call(client, "spawn", prompt="p")
        done = await ended(here.app, first["job_id"])
        second = await call(client, "spawn", prompt="and now?", options={"resume": first["job_id"]})
        job = await here.app.jobs.get(second["job_id"])

    assert job.spec.resume_session == done.session_id
