"""How a worker leaves, what it finds of those that did not leave well, and clocks that are set back meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
from dataclasses import replace
from pathlib import Path

import pytest
from support_app import caller, ended, environment, running_app, stand_in, until
from support_processes import PATIENCE_S

from claude_jobs.domain.job import JobState, Outcome
from claude_jobs.factory import LOCAL_POOL, open_app
from claude_jobs.runner.paths import Home
from claude_jobs.services import worker
from claude_jobs.services.liveness import Liveness
from claude_jobs.services.request import JobRequest
from claude_jobs.services.worker import Worker, WorkerRules
from claude_jobs.settings import load
from claude_jobs.stores.sqlite.lock import FileLock


async def test_jobs_admitted_while_it_leaves_are_set_aside_too(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=60)))
    home = Home.resolve(env)
    async with open_app(load(env, home.env_file), home) as app, asyncio.TaskGroup() as tasks:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        with FileLock(home.db_dir / "jobs.lock", wait_s=5).held():
            running = tasks.create_task(app.worker.run())
            await until(lambda: _is_taken(home.db_dir / "jobs.turn"))  # the admission has begun, and waits for us
            leaving = tasks.create_task(app.worker.leave(0.0))
            await asyncio.sleep(0.1)
            left_before = leaving.done()
        async with asyncio.timeout(PATIENCE_S):
            await leaving
            await running
        job = await app.jobs.get(submitted.receipts[0].job.id)

    assert not left_before
    assert (job.state, job.owner, job.losses) == (JobState.READY, "", 0)


def _is_taken(turn: Path) -> bool:
    """Whether somebody is next to have the lock."""
    with turn.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_being_hurried_cuts_the_grace_short(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=60)))
    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        await until(lambda: app.worker.running == 1)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(app.worker.leave(600.0))
            await asyncio.sleep(0.1)
            app.worker.hurry()
            await leaving
        job = await app.jobs.get(job_id)

    assert job.state is JobState.READY


async def test_results_nobody_will_ask_for_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "AUDIT_S", 0.2)
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))
    results = tmp_path / "jobs" / "results"
    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        done = (await ended(app, submitted.receipts[0].job.id)).id
        app.desk.results.save(done, 1, Outcome(text="again"))
        app.desk.results.save("j-gone", 1, Outcome(text="of a job long deleted"))
        (results / f"{done}.3.tmp").touch()
        blocked = await app.jobs.submit([JobRequest(prompt="y", not_before="1h")], caller(tmp_path, env))
        waiting = blocked.receipts[0].job.id
        app.desk.results.save(waiting, 1, Outcome(text="for whoever takes it"))
        await until(lambda: [path.name for path in results.iterdir()] == [f"{waiting}.json"])


async def test_a_quiet_queue_is_looked_at_again_when_the_clock_was_set_back(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    body = f"echo x >> {tries}; [ $(wc -l < {tries}) -ge 2 ] || exit 1"
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)), CLAUDE_RETRY_DELAY="300")
    home = Home.resolve(env)
    ahead_ms = 3_600_000
    async with open_app(load(env, home.env_file), home) as app, asyncio.TaskGroup() as tasks:
        desk = replace(app.desk, clock=lambda: app.desk.clock() + ahead_ms, jitter=lambda: 0.99)
        liveness, rules = Liveness(home.workers_dir, "w"), WorkerRules(slots=1, pools=(LOCAL_POOL,), keep_s=1e6)
        ours = Worker(
            owner="w",
            desk=desk,
            liveness=liveness,
            sweep=lambda owner, left: (),
            collect=lambda oldest: (),
            rules=rules,
        )
        tasks.create_task(ours.run())
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        async for situation in app.jobs.wait(job_id, PATIENCE_S):
            if situation.job.state is JobState.DELAYED:
                break
        await asyncio.sleep(2 * worker.POLL_S)  # until it has seen all there is to see
        ahead_ms = 0
        job = await ended(app, job_id)
        await ours.leave(0.0)

    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
