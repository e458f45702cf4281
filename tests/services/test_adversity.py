"""A store that refuses for a while and a clock that jumps, under the real worker: no job is lost, none hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support_app import caller, ended, environment, running_app, stand_in, until
from support_processes import PATIENCE_S

from claude_jobs import factory
from claude_jobs.domain.job import JobState, Reason
from claude_jobs.errors import StoreUnavailable
from claude_jobs.factory import LOCAL_POOL, App
from claude_jobs.services.caller import Caller
from claude_jobs.services.request import JobRequest
from claude_jobs.services.views import result_view
from claude_jobs.stores.base import AdmitRequest

DAY_MS = 86_400_000


@pytest.mark.parametrize("operation", ["begin", "append", "note_token", "finish"])
async def test_job_ends_though_the_store_refused_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=0.3)))
    left = [1, 2]

    async with running_app(env) as app:
        refusing = _refusing(getattr(app.desk.store, operation), lambda: bool(left and left.pop()))
        monkeypatch.setattr(app.desk.store, operation, refusing)
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job = await ended(app, submitted.receipts[0].job.id)

    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 1)


async def test_worker_leaves_though_the_store_refuses_and_the_next_one_finishes_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))

    async with asyncio.timeout(PATIENCE_S):
        async with running_app(env) as app:
            with monkeypatch.context() as patched:
                patched.setattr(app.desk.store, "finish", _refusing(app.desk.store.finish, lambda: True))
                submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
                job_id = submitted.receipts[0].job.id
                await until(lambda: (attempt := app.worker.attempt(job_id)) is not None and attempt.outcome is not None)
                await app.worker.leave(0.0)
        async with running_app(env) as app:
            await app.desk.tokens.offer(caller(tmp_path, env))
            app.desk.work.ring()
            job = await ended(app, job_id)

    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)


def _refusing(operation: Callable[..., Any], refuses: Callable[[], bool]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if refuses():
            raise StoreUnavailable("The disk is full.", path="/state")
        return operation(*args, **kwargs)

    return call


async def test_a_dead_owners_job_is_taken_back_though_the_bell_never_rests(tmp_path: Path) -> None:
    go = tmp_path / "go"
    claude = stand_in(tmp_path, body=f"while [ ! -e {go} ]; do sleep 0.02; done")
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(claude), CLAUDE_JOBS_SLOTS="1")

    async with running_app(env) as app, ringing(app):
        submitted = await app.jobs.submit([JobRequest(prompt="x"), JobRequest(prompt="y")], caller(tmp_path, env))
        first, second = (receipt.job.id for receipt in submitted.receipts)
        await until(lambda: app.worker.attempt(first) is not None)
        taken = await app.desk.database(app.desk.store.admit, as_another(app, "gone"))
        go.touch()
        job = await ended(app, second)

    assert [grant.job.id for grant in taken.grants] == [second]
    assert (job.state, job.epoch) == (JobState.SUCCEEDED, 2)


@asynccontextmanager
async def ringing(app: App) -> AsyncGenerator[None]:
    async def ring() -> None:
        while True:
            app.desk.work.ring()
            await asyncio.sleep(0.01)

    bell = asyncio.create_task(ring())
    yield
    bell.cancel()


def as_another(app: App, owner: str) -> AdmitRequest:
    """What a worker of that name asks for one job: it holds no lock, so that it is dead to all others."""
    return AdmitRequest(
        owner=owner,
        free=1,
        pools=(LOCAL_POOL,),
        held=app.desk.tokens.held(),
        limits=app.desk.rules.limits,
        now_ms=app.desk.clock(),
    )


class Clock:
    """The wall clock, put forward or back."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


@asynccontextmanager
async def under_clock(
    root: Path, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> AsyncGenerator[tuple[App, Clock, Caller]]:
    clock = Clock()
    monkeypatch.setattr(factory, "now_ms", clock)
    env = environment(root, **settings)
    async with running_app(env) as app:
        yield app, clock, caller(root, env)


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS])
async def test_running_job_does_not_notice_that_the_clock_jumps_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    claude = stand_in(tmp_path, seconds=1.5)

    async with under_clock(tmp_path, monkeypatch, CLAUDE_JOBS_CLI=str(claude)) as (app, clock, who):
        submitted = await app.jobs.submit([JobRequest(prompt="x", timeout_s=30)], who)
        job_id = submitted.receipts[0].job.id
        await until(lambda: app.worker.running == 1)
        clock.ahead_ms = jump_ms
        other = (await app.jobs.submit([JobRequest(prompt="y")], who)).receipts[0].job.id
        await until(lambda: app.worker.running == 2)
        clock.ahead_ms = 0
        third = (await app.jobs.submit([JobRequest(prompt="z")], who)).receipts[0].job.id
        jobs = [await ended(app, one) for one in (job_id, other, third)]
        views = [result_view(await app.jobs.situation(job), clock()) for job in jobs]
        report = await app.desk.database(app.desk.store.audit, clock())

    assert [(job.state, job.attempts, job.epoch) for job in jobs] == [(JobState.SUCCEEDED, 1, 1)] * 3
    assert all(view.elapsed_s >= 0 for view in views)
    assert (report.drift, report.problems) == ({}, ())


async def test_delayed_job_runs_at_once_when_the_clock_passes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    body = f"echo x >> {tries}; [ $(wc -l < {tries}) -ge 2 ] || exit 1"
    settings = {"CLAUDE_JOBS_CLI": str(stand_in(tmp_path, body=body)), "CLAUDE_RETRY_DELAY": "3600"}

    async with under_clock(tmp_path, monkeypatch, **settings) as (app, clock, who):
        job_id = (await app.jobs.submit([JobRequest(prompt="x")], who)).receipts[0].job.id
        async for situation in app.jobs.wait(job_id, 20):
            if situation.job.state is JobState.DELAYED:
                break
        waiting = await app.jobs.situation(await app.jobs.get(job_id))
        clock.ahead_ms = DAY_MS
        job = await ended(app, job_id, 20)

    assert waiting.reason is Reason.BACKOFF
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
