"""Jobs in worktrees, with schemas and acceptance checks, through queue, worker and store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
from support_app import caller, ended, environment, running_app, stand_in
from support_processes import PATIENCE_S

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, JobState
from claude_jobs.rehearsal.script import Action, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.services import worker
from claude_jobs.services.request import JobRequest

SCHEMA: dict[str, object] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def repository(path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(path)}
    identity = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal")
    (path / "a.txt").write_text("one\n")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=path, env=env, check=True)


async def test_what_a_job_was_checked_for_is_in_its_record(tmp_path: Path) -> None:
    env = environment(tmp_path)
    repository(tmp_path / "work")
    write = (ToolCall(name="Write", input={"file_path": "{cwd}/b.txt", "content": "two\n"}),)
    give = (ToolCall(name="StructuredOutput", input={"n": 1}),)
    rules = (
        Rule(prompt="^Count", action=Action(rounds=(give,))),
        Rule(prompt="^Your work", action=Action(rounds=(write, give))),
    )
    async with Rehearsal(Script(rules=rules)) as api, running_app(env) as app:
        request = JobRequest(prompt="Count.", output_schema=SCHEMA, accept="test -e b.txt", worktree=True)
        submitted = await app.jobs.submit([request], caller(tmp_path, env, url=api.url))
        job = await ended(app, submitted.receipts[0].job.id, 60)
        events = [event async for event in app.jobs.follow(0, job.id)]

    assert job.outcome is not None, job
    assert (job.state, job.outcome.failure, job.outcome.message) == (JobState.SUCCEEDED, Failure.NONE, "")
    assert (json.loads(job.outcome.structured), job.outcome.corrections) == ({"n": 1}, 1)
    assert "+two" in job.outcome.diff.splitlines()
    assert Path(job.outcome.worktree) == app.home.worktrees_dir.resolve() / job.id
    assert [event.data["why"] for event in events if event.kind is EventKind.CORRECTED]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [".git", "a.txt"]


async def test_a_worktree_that_nobody_comes_back_to_is_tidied_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last attempt failed as an attempt does after which another may come."""
    monkeypatch.setattr(worker, "AUDIT_S", 0.2)
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body="exit 1")))
    repository(tmp_path / "work")
    async with running_app(env) as app:
        request = JobRequest(prompt="x", worktree=True, max_attempts=1)
        submitted = await app.jobs.submit([request], caller(tmp_path, env))
        job = await ended(app, submitted.receipts[0].job.id)
        async with asyncio.timeout(PATIENCE_S):
            while any(app.home.worktrees_dir.iterdir()):
                await asyncio.sleep(0.05)

    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert (job.outcome.failure, job.outcome.worktree) == (Failure.NO_RESULT, "")
