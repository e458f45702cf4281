"""Processes started ahead of their jobs, with the real claude CLI: the job finds what it would have found without."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.support import Ear, Told, oauth, order
from runner.warm_support import MOST_ROUNDS, Bench, bench, is_alive, normal, plain, requests, until, waiting_for

from claude_jobs.domain.job import Failure
from claude_jobs.domain.token import Credential
from claude_jobs.rehearsal.script import Action, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.runner.mcp_config import Access
from claude_jobs.runner.order import Order

ASK_ENV = ToolCall(name="Bash", input={"command": "env | sort; pwd", "description": "show where we are"})


async def meet(place: Bench, home: Path, credential: Credential) -> None:
    """Let it see that this claude is one."""
    outcome = await place.run(plain(home, "hello", credential=credential, fresh=True))
    assert outcome.succeeded


def coming(home: Path, credential: Credential, *, epoch: int = 2, **more: Any) -> Order:
    """An order with the default tools."""
    return order(home, "the task", credential=credential, epoch=epoch, **more)


async def test_a_job_runs_in_the_process_started_for_it_and_sees_no_difference(tmp_path: Path) -> None:
    script = Script(default=Action(rounds=((ASK_ENV,),)))
    async with Rehearsal(script) as api, Ear(api.url) as ear, bench() as place:
        credential = oauth(url=ear.url)
        options: dict[str, Any] = {"tools": ("Bash", "Read"), "system": "Be brief."}
        await meet(place, tmp_path, credential)
        ours = coming(tmp_path, credential, **options)
        pid = await place.prepare(ours)
        ear.heard()
        told = Told()
        ahead = await place.run(ours, told)
        heard_ahead = [normal(body) for body in requests(ear.heard())]
        fresh = await place.run(coming(tmp_path, credential, **options), Told())
        heard_fresh = [normal(body) for body in requests(ear.heard())]

    assert (ahead.failure, fresh.failure) == (Failure.NONE, Failure.NONE)
    assert told.process is not None
    assert told.process.pid == pid == place.pids[-2] != place.pids[-1]
    assert told.sessions == []
    assert len(heard_ahead) == 2
    assert heard_ahead == heard_fresh


async def test_what_was_started_for_a_job_that_will_not_come_is_gone_at_once(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        await meet(place, tmp_path, credential)
        ours, other = (replace(coming(tmp_path, credential, epoch=n), job_id=f"j-{n}") for n in (2, 3))
        place.cli.prepare([ours, other])
        await until(lambda: bool(waiting_for(ours) and waiting_for(other)))
        await place.cli.forget([ours.job_id])
        left = [waiting_for(ours), waiting_for(other)]

    assert [len(pids) for pids in left] == [0, 1]


async def test_nothing_is_said_or_written_before_the_prompt(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        await meet(place, tmp_path, credential)
        before = set(tmp_path.glob(".claude/projects/*/*.jsonl"))
        ours = coming(tmp_path, credential)
        pid = await place.prepare(ours)
        await until((tmp_path / "cc-socks" / f"{pid}.sock").exists)
        await asyncio.sleep(0.5)
        left = set(tmp_path.glob(".claude/projects/*/*.jsonl")) - before
        asked = len(api.requests)
        outcome = await place.run(ours)
        (transcript,) = tmp_path.glob(f".claude/projects/*/{ours.session_id}.jsonl")

    assert (left, asked) == (set(), 1)
    assert outcome.succeeded
    assert "the task" in transcript.read_text()


async def test_the_picture_of_the_repository_is_that_of_the_moment_of_the_prompt(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], cwd=work, check=True)
    async with Rehearsal() as api, Ear(api.url) as ear, bench() as place:
        credential = oauth(url=ear.url)
        await meet(place, tmp_path, credential)
        ours = coming(tmp_path, credential)
        pid = await place.prepare(ours)
        await until((tmp_path / "cc-socks" / f"{pid}.sock").exists)
        (work / "made-meanwhile.txt").write_text("x")
        ear.heard()
        await place.run(ours)
        ahead = [normal(body) for body in requests(ear.heard())]
        await place.run(coming(tmp_path, credential))
        fresh = [normal(body) for body in requests(ear.heard())]

    assert place.pids[-2] == pid
    assert "?? made-meanwhile.txt" in ahead[0]
    assert ahead == fresh


async def test_a_process_older_than_the_projects_memory_is_not_used(tmp_path: Path) -> None:
    async with Rehearsal() as api, Ear(api.url) as ear, bench() as place:
        credential = oauth(url=ear.url)
        await meet(place, tmp_path, credential)
        ours = coming(tmp_path, credential)
        pid = await place.prepare(ours)
        (projects,) = tmp_path.glob(".claude/projects/*")
        (projects / "memory").mkdir(exist_ok=True)
        (projects / "memory" / "MEMORY.md").write_text("- otters hold hands\n")
        ear.heard()
        outcome = await place.run(ours)
        heard = ear.heard()

    assert outcome.succeeded
    assert place.pids[-1] != pid
    assert not is_alive(pid)
    assert "otters hold hands" in heard


async def test_the_token_of_the_start_counts_not_that_of_the_preparation(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        await meet(place, tmp_path, oauth(1, url=api.url))
        ours = coming(tmp_path, oauth(1, url=api.url))
        pid = await place.prepare(ours)
        outcome = await place.run(
            coming(tmp_path, oauth(2, url=api.url), session_id=ours.session_id),
        )

    assert outcome.succeeded
    assert place.pids[-1] == pid
    assert [request.token for request in api.requests] == ["rehearsal-1", "rehearsal-2"]


SERVER = """
import json, os, sys
open(sys.argv[1], "a").write(os.environ["CLAUDE_JOBS_JOB_SECRET"] + "\\n")
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message: continue
    tools = [{"name": "spawn", "description": "Spawn.", "inputSchema": {"type": "object"}}]
    results = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}},
        "tools/list": {"tools": tools},
        "tools/call": {"content": [{"type": "text", "text": "spawned"}]},
    }
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    known = message["method"] in results
    answer |= {"result": results[message["method"]]} if known else {"error": {"code": -32601, "message": "?"}}
    print(json.dumps(answer), flush=True)
"""


async def test_the_server_for_spawning_gets_in_with_the_job_and_no_sooner(tmp_path: Path) -> None:
    script = Script(default=Action(rounds=((ToolCall(name="mcp__claude-jobs__spawn", input={}),),)))
    (tmp_path / "server.py").write_text(SERVER)
    note = tmp_path / "secrets"
    access = Access(
        home=str(tmp_path),
        directory=tmp_path / "private",
        bridge=(sys.executable, str(tmp_path / "server.py"), str(note)),
    )
    async with Rehearsal(script) as api, Ear(api.url) as ear, bench(access=access) as place:
        credential = oauth(url=ear.url)
        await meet(place, tmp_path, credential)
        ours = replace(coming(tmp_path, credential, nest=True), lineage_secret="proof-2")
        pid = await place.prepare(ours)
        await until((tmp_path / "cc-socks" / f"{pid}.sock").exists)
        await asyncio.sleep(0.5)
        before = (note.exists(), proctree.descendants(pid))
        ear.heard()
        told = Told()
        await place.run(ours, told)
        ahead = [normal(body) for body in requests(ear.heard())]
        other = Told()
        await place.run(replace(coming(tmp_path, credential, nest=True), lineage_secret="proof-2"), other)
        fresh = [normal(body) for body in requests(ear.heard())]

    assert before == (False, [])
    assert place.pids[-2] == pid
    assert note.read_text().split() == ["proof-2", "proof-2"]
    assert told.tools() == other.tools() == ["mcp__claude-jobs__spawn"]
    assert "spawned" in ahead[-1]
    assert ahead == fresh


async def test_a_job_without_tools_finds_one_that_is_cleared_already(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        await meet(place, tmp_path, credential)
        ours = plain(tmp_path, "first of its kind", credential=credential)
        place.cli.prepare([ours])
        (pid,) = place.pool.idle
        place.cli.prepare([ours])
        place.cli.prepare([])
        waiting = place.pool.idle
        told = Told()
        outcome = await place.run(ours, told)
        kept = place.pool.idle

    assert outcome.text == "Rehearsed: first of its kind"
    assert waiting == kept == (pid,)
    assert place.pids[-1] == pid
    assert len(told.sessions) == 1


async def test_a_session_is_not_gone_on_with_ahead(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        first = coming(tmp_path, credential)
        await place.run(first)
        again = coming(tmp_path, credential, epoch=3, session_id=first.session_id)
        place.cli.prepare([again])

        assert waiting_for(again) == []


@pytest.mark.slow
async def test_a_job_of_a_prepared_process_takes_less_time(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        await meet(place, tmp_path, credential)
        took: dict[bool, list[float]] = {True: [], False: []}
        clock = asyncio.get_running_loop().time
        while len(took[True]) < MOST_ROUNDS and (len(took[True]) < 3 or min(took[True]) >= 0.8 * min(took[False])):
            for is_ahead in took:
                ours = coming(tmp_path, credential, epoch=10 * len(took[True]) + is_ahead)
                if is_ahead:
                    pid = await place.prepare(ours)
                    await until((tmp_path / "cc-socks" / f"{pid}.sock").exists)
                    await asyncio.sleep(0.3)
                began = clock()
                await place.run(ours)
                took[is_ahead].append(clock() - began)

    print(f"fresh {min(took[False]) * 1000:.0f} ms, prepared {min(took[True]) * 1000:.0f} ms")
    assert min(took[True]) < 0.8 * min(took[False])
