"""The tools against a real store and worker, with a stand-in claude."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from mcp_types import ResourceTemplateReference, TextContent, TextResourceContents
from support_app import ended
from support_mcp import Surface, asking, surface
from support_processes import PATIENCE_S

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import JobState
from claude_jobs.factory import now_ms
from claude_jobs.mcp_server import wait
from claude_jobs.mcp_server.app import McpApp, ModelInfo
from claude_jobs.mcp_server.server import build_server
from claude_jobs.stores.base import JobFilter

MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])
LONG = 60.0
LONG_ANSWER = """
i=10000; while [ $i -lt 19000 ]; do w="$w $i"; i=$((i+1)); done
echo '{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0.01,"num_turns":1,"result":"'"$w"'"}'
exit 0
"""
LONE_ANSWER = """
printf '%s\\n' '{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0,"num_turns":1,"result":"a\\ud800b"}'
exit 0
"""


async def call(client: Client[Any], name: str, **arguments: object) -> dict[str, Any]:
    answer = await client.call_tool(name, arguments)
    assert answer.structured_content is not None
    return answer.structured_content


async def text(client: Client[Any], name: str, **arguments: object) -> str:
    answer = await client.call_tool(name, arguments)
    assert answer.structured_content is None
    return _text_of(answer.content)


def _text_of(blocks: Sequence[object]) -> str:
    (block,) = blocks
    assert isinstance(block, TextContent | TextResourceContents)
    return block.text


async def refusal(client: Client[Any], name: str, **arguments: object) -> str:
    answer = await client.call_tool(name, arguments, raise_on_error=False)
    assert answer.is_error
    message = _text_of(answer.content)
    assert "http" not in message and "Traceback" not in message and "\n" not in message
    return message


@MODES
async def test_generate_answers_and_says_which_job_and_who_pays(tmp_path: Path, mode: Any) -> None:
    async with surface(tmp_path, text="Paris") as here, Client(here.server, mode=mode) as client:
        answer = await text(client, "generate", prompt="Capital of France?", system="Short.")
        page, _ = await here.app.jobs.list(JobFilter())
        job = await here.app.jobs.get(page.jobs[0].id)

    assert answer.startswith("Paris\n")
    assert job.id in answer and "your Claude subscription" in answer
    assert (job.spec.tools, job.spec.system, job.spec.project) == ((), "Short.", "none")
    assert job.read_ms is not None


async def test_generate_hands_over_the_id_when_it_takes_longer_than_the_wait(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=1.0) as here, Client(here.server) as client:
        early = await text(client, "generate", prompt="q", timeout_s=0.1)
        job_id = early.split()[1]
        assert f'result(job_id="{job_id}", wait_s=110)' in early

        late = await text(client, "result", job_id=job_id, wait_s=500)

    assert late.startswith("done\n")


async def test_a_failed_generate_is_an_error_that_names_the_job_and_the_cause(tmp_path: Path) -> None:
    async with surface(tmp_path, body="exit 3", CLAUDE_RETRY_ATTEMPTS="1") as here, Client(here.server) as client:
        message = await refusal(client, "generate", prompt="q")
        listed = await call(client, "status")

    assert message.startswith("job_failed: Job 'j-")
    assert listed["jobs"][0]["state"] == "failed"


@MODES
async def test_spawn_returns_at_once_and_result_waits(tmp_path: Path, mode: Any) -> None:
    options = {"labels": ["a", "b"], "priority": 5, "strict": True, "max_attempts": 2, "system": "Be brief."}
    async with surface(tmp_path, seconds=0.3) as here, Client(here.server, mode=mode) as client:
        spawned = await call(
            client, "spawn", prompt="p", model="haiku", label="one", effort="low", max_cost_usd=1.5, options=options
        )
        job = await here.app.jobs.get(spawned["job_id"])
        full = await call(client, "result", job_id=spawned["job_id"], wait_s=20, detail="full")

    assert (spawned["is_new"], spawned["label"], spawned["model"]) == (True, "one", "haiku")
    assert spawned["next"] == f'result(job_id="{job.id}", wait_s=110)'
    assert (job.priority, job.labels, job.spec.strict, job.spec.max_attempts) == (5, ("a", "b"), True, 2)
    assert (job.spec.effort, job.spec.max_cost_usd, job.spec.system, job.spec.tools) == ("low", 1.5, "Be brief.", None)
    assert (full["state"], full["text"], full["session_id"]) == ("succeeded", "done", job.session_id)


async def test_no_tools_differs_from_tools_left_out(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        asked: list[dict[str, object]] = [{}, {"tools": None}, {"tools": []}, {"tools": ["Read", "Bash(git *)"]}]
        ids = [(await call(client, "spawn", prompt="p", **extra))["job_id"] for extra in asked]
        tools = [(await here.app.jobs.get(job_id)).spec.tools for job_id in ids]

    assert tools == [None, None, (), ("Read", "Bash(git *)")]


async def test_the_same_key_names_the_same_job_and_another_request_is_refused(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        first = await call(client, "spawn", prompt="p", key="k")
        second = await call(client, "spawn", prompt="p", key="k")
        message = await refusal(client, "spawn", prompt="other", key="k")

    assert (first["job_id"], first["is_new"]) == (second["job_id"], True)
    assert second["is_new"] is False
    assert message.startswith("key_conflict: ") and first["job_id"] in message


async def test_a_batch_is_accepted_whole_repeatable_by_key_and_listed(tmp_path: Path) -> None:
    items = [{"prompt": f"p{n}", "label": f"l{n}"} for n in range(200)]
    items[1]["model"] = "opus"
    async with surface(tmp_path, seconds=LONG) as here, Client(here.server) as client:
        first = await call(client, "batch", items=items, key="b", max_parallel=2, model="haiku")
        again = await call(client, "batch", items=items, key="b", max_parallel=2, model="haiku")
        listed = await call(client, "status", batch=first["batch_id"], limit=200)
        models = [(await here.app.jobs.get(job["job_id"])).spec.model for job in first["jobs"][:2]]

    assert [job["label"] for job in first["jobs"]] == [item["label"] for item in items]
    assert models == ["haiku", "opus"]
    assert [job["job_id"] for job in again["jobs"]] == [job["job_id"] for job in first["jobs"]]
    assert {job["is_new"] for job in first["jobs"]} == {True} and {job["is_new"] for job in again["jobs"]} == {False}
    assert (listed["total"], again["batch_id"]) == (200, first["batch_id"])
    assert sum(job["state"] == "running" for job in listed["jobs"]) <= 2


async def test_a_batch_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    async with surface(tmp_path, CLAUDE_QUEUE_SIZE="3") as here, Client(here.server) as client:
        full = await refusal(client, "batch", items=[{"prompt": "p"}] * 4)
        one_bad = await refusal(client, "batch", items=[{"prompt": "p"}, {"prompt": "p", "cwd": "/nowhere"}])
        listed = await call(client, "status")

    assert full.startswith("queue_full: ") and "CLAUDE_QUEUE_SIZE" in full
    assert "/nowhere" in one_bad
    assert listed["jobs"] == []


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("generate", {}, "invalid_arguments: 'prompt' is missing."),
        ("spawn", {"prompt": "p", "color": 1}, "invalid_arguments: 'color' is not a parameter."),
        ("spawn", {"prompt": "p", "options": {"color": 1}}, "invalid_arguments: 'options.color' is not a parameter."),
        ("spawn", {"prompt": "p", "effort": "huge"}, "'effort'"),
        ("spawn", {"prompt": "p", "max_cost_usd": -1}, "'max_cost_usd"),
        ("spawn", {"prompt": "p", "options": {"priority": 9_999}}, "'priority'"),
        ("batch", {"items": []}, "'items'"),
        ("batch", {"items": [{"prompt": "p"}] * 201}, "200"),
        ("batch", {"items": [{"model": "x"}]}, "invalid_arguments: 'items.0.prompt' is missing."),
        ("status", {"state": "done"}, "'state'"),
        ("status", {"job_ids": ["j-none"]}, "job_not_found: No job 'j-none'"),
        ("result", {"job_id": "j-none", "wait_s": 5}, "job_not_found: No job 'j-none'"),
        ("cancel", {"job_ids": ["j-none"]}, "job_not_found: No job 'j-none'"),
        ("spawn", {"prompt": "  "}, "invalid_request: The prompt is empty"),
        ("spawn", {"prompt": "p", "model": "two words"}, "list_models"),
        ("spawn", {"prompt": "p", "cwd": "/nowhere"}, "/nowhere"),
        ("spawn", {"prompt": "p", "tools": ["no tool!"]}, "'no tool!'"),
        ("spawn", {"prompt": "p", "options": {"permission_mode": "bypassPermissions"}}, "not_permitted: "),
        ("spawn", {"prompt": "p", "options": {"project": "full"}}, "not_permitted: "),
        ("nothing", {}, "unknown_tool: There is no tool 'nothing'"),
    ],
)
async def test_bad_input_gets_one_line_of_advice(
    tmp_path: Path, name: str, arguments: dict[str, object], expected: str
) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        assert expected in await refusal(client, name, **arguments)


async def test_without_any_credential_a_spawn_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with surface(tmp_path, tokens=0) as here, Client(here.server) as client:
        message = await refusal(client, "spawn", prompt="p")

    assert message.startswith("no_credential: ") and "CLAUDE_CODE_TOKEN" in message


async def test_status_puts_unread_results_first_until_they_are_read(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        ids = [(await call(client, "spawn", prompt="p"))["job_id"] for _ in range(3)]
        for job_id in ids:
            await ended(here.app, job_id)
        await text(client, "result", job_id=ids[2])
        await text(client, "result", job_id=ids[0])
        listed = await call(client, "status")
        newest_first = await call(client, "status", state="succeeded")

    assert [(job["job_id"], job.get("unread", False)) for job in listed["jobs"]] == [
        (ids[1], True),
        (ids[2], False),
        (ids[0], False),
    ]
    assert (listed["unread"], listed["counts"]) == (1, {"succeeded": 3})
    assert [job["job_id"] for job in newest_first["jobs"]] == ids[::-1]


async def test_status_pages_and_names_unknown_ids(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        ids = [job["job_id"] for job in (await call(client, "batch", items=[{"prompt": "p"}] * 5))["jobs"]]
        for job_id in ids:
            await ended(here.app, job_id)
        seen: list[str] = []
        cursor = ""
        while True:
            page = await call(client, "status", limit=2, cursor=cursor, state="any", batch="")
            seen += [job["job_id"] for job in page["jobs"]]
            if not (cursor := page.get("cursor", "")):
                break
        some = await call(client, "status", job_ids=[ids[0], "j-none"])

    assert sorted(seen) == sorted(ids)
    assert ([job["job_id"] for job in some["jobs"]], some["unknown"]) == ([ids[0]], ["j-none"])


async def test_status_calls_no_job_unknown_that_another_filter_leaves_out(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="x"))["job_id"]
        await ended(here.app, job_id)
        by_batch = await call(client, "status", job_ids=[job_id, "j-none"], batch="b-none")
        by_state = await call(client, "status", job_ids=[job_id, "j-none"], state="failed")
        refused = await refusal(client, "status", job_ids=["j-none"], state="failed")

    assert [(page["jobs"], page["unknown"]) for page in (by_batch, by_state)] == [([], ["j-none"])] * 2
    assert "job_not_found: No job 'j-none'" in refused


async def test_status_tells_the_place_in_the_queue(tmp_path: Path) -> None:
    async with (
        surface(tmp_path, seconds=LONG, CLAUDE_JOBS_TOKEN_CONCURRENCY="1", tokens=1) as here,
        Client(here.server) as client,
    ):
        ids = [(await call(client, "spawn", prompt="p"))["job_id"] for _ in range(4)]
        await _running(here, ids[0])
        notes = {job["job_id"]: job["note"] for job in (await call(client, "status"))["jobs"]}

    assert [notes[job_id] for job_id in ids[1:]] == ["queued, next", "queued, 1 ahead", "queued, 2 ahead"]


async def test_a_long_answer_comes_in_bounded_pages(tmp_path: Path) -> None:
    async with surface(tmp_path, body=LONG_ANSWER) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        whole = (await ended(here.app, job_id)).outcome
        concise = await text(client, "result", job_id=job_id)
        read, offset = "", 0
        while offset is not None:
            page = await call(client, "result", job_id=job_id, detail="full", offset=offset)
            assert len(page["text"]) <= 20_000
            read, offset = read + page["text"], page.get("next_offset")

    assert whole is not None and read == whole.text and len(read) > 50_000
    assert len(concise) < 4_500
    assert f'result(job_id="{job_id}", offset=4000, detail="full")' in concise


async def test_cancel_proves_that_nothing_runs(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=LONG) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        await _running(here, job_id)
        cancelled = await call(client, "cancel", job_ids=[job_id, job_id], why="no longer needed")
        again = await call(client, "cancel", job_ids=[job_id])

    assert [(job["job_id"], job["state"]) for job in cancelled["jobs"]] == [(job_id, "cancelled")]
    assert "none alive" in cancelled["jobs"][0]["note"] or "before it ran" in cancelled["jobs"][0]["note"]
    assert again["jobs"][0]["note"] == "was already cancelled"


async def test_one_unknown_id_and_none_is_cancelled(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=LONG) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        await refusal(client, "cancel", job_ids=[job_id, "j-none"])
        job = await here.app.jobs.get(job_id)

    assert job.cancel_why is None


@MODES
async def test_progress_says_what_the_job_does_while_the_client_waits(tmp_path: Path, mode: Any) -> None:
    told: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message or ""))

    async with surface(tmp_path, seconds=1.5) as here, Client(here.server, mode=mode) as client:
        await client.call_tool("generate", {"prompt": "q"}, progress_handler=note)

    assert 1 <= len(told) <= 5
    assert any(" running " in message for _, message in told)
    assert all(message.startswith("j-") and len(message) <= 200 for _, message in told)
    assert [progress for progress, _ in told] == sorted(progress for progress, _ in told)


async def test_a_cancelled_wait_leaves_its_job_running(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=1.0) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.call_tool("result", {"job_id": job_id, "wait_s": 60})
        job = await ended(here.app, job_id)

    assert (job.state, job.read_ms) == (JobState.SUCCEEDED, None)


async def test_an_answer_that_no_encoder_takes_arrives_all_the_same(tmp_path: Path) -> None:
    async with surface(tmp_path, body=LONE_ANSWER) as here, Client(here.server) as client:
        answer = await text(client, "generate", prompt="q")

    assert answer.startswith("a\ufffdb\n")


async def test_list_models_marks_the_default(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        models = (await call(client, "list_models"))["models"]

    assert models == [{"name": "sonnet", "id": "claude-sonnet", "description": "The all-rounder", "is_default": True}]


async def test_the_log_and_the_recent_jobs_can_be_read(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p", label="mine"))["job_id"]
        await ended(here.app, job_id)
        log = _text_of(await client.read_resource(f"job://{job_id}/log"))
        recent = _text_of(await client.read_resource("job://recent"))
        with pytest.raises(Exception, match="not found: 'job://j-none/log'"):
            await client.read_resource("job://j-none/log")

    assert log.splitlines()[0] == recent.splitlines()[0]
    assert f"{job_id} [mine] succeeded (unread)" in recent
    assert "submitted" in log and "finished" in log


async def test_job_ids_are_completed(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        ref = ResourceTemplateReference(type="ref/resource", uri="job://{job_id}/log")
        found = await client.complete(ref, {"name": "job_id", "value": job_id[:3]})
        none = await client.complete(ref, {"name": "job_id", "value": "zz"})

    assert (found.values, none.values) == ([job_id], [])


async def _running(here: Surface, job_id: str) -> None:
    async for situation in here.app.jobs.wait(job_id, PATIENCE_S):
        if situation.job.state is JobState.RUNNING:
            return


async def test_our_own_failure_is_masked_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken() -> list[ModelInfo]:
        raise RuntimeError("inner secret")

    async with surface(tmp_path) as here:
        app = McpApp(
            jobs=here.app.jobs,
            **asking(here.app),
            models=broken,
            clock=now_ms,
            default_caller=here.caller,
        )
        async with Client(build_server(app)) as client:
            message = await refusal(client, "list_models")

    assert message.startswith("internal_error: ") and "inner secret" not in message
    assert "tool.failed" in capsys.readouterr().out


@pytest.mark.slow
async def test_a_quiet_wait_is_told_every_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_s = wait.QUIET_S
    monkeypatch.setattr(wait, "QUIET_S", 0.5)
    at: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        at.append(progress)

    async with surface(tmp_path, seconds=60.0) as here, Client(here.server) as client:
        await client.call_tool("generate", {"prompt": "q", "timeout_s": 6}, progress_handler=note)

    assert quiet_s == 10.0
    assert at[-1] >= 3.0


async def test_the_log_of_a_long_job_is_bounded_to_its_newest_events(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=60.0) as here, Client(here.server) as client:
        job_id = (await call(client, "spawn", prompt="p"))["job_id"]
        await _running(here, job_id)
        job = await here.app.jobs.get(job_id)
        store, database = here.app.desk.store, here.app.desk.database
        events = [NewEvent(kind=EventKind.TOOL, data={"n": n, "text": "x" * 150}) for n in range(500)]
        await database(store.append, job_id, job.epoch, events, None, now_ms())
        lines = _text_of(await client.read_resource(f"job://{job_id}/log")).splitlines()

    assert lines[0].startswith(job_id) and "earlier events left out" in lines[1]
    assert "n=499" in "".join(lines[-3:])  # the stand-in may say something in between
    assert sum(map(len, lines)) <= 21_000
