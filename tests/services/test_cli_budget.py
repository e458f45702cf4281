"""Quotas of claude jobs: held before an attempt, settled after it; a job beyond one waits for the reset and loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support_app import caller, environment, running_app, stand_in

from claude_jobs.domain.job import Job, JobState, Reason
from claude_jobs.factory import App
from claude_jobs.services.caller import Caller
from claude_jobs.services.request import JobRequest
from claude_jobs.services.views import result_view


async def spawn(app: App, who: Caller, **fields: object) -> str:
    submitted = await app.jobs.submit([JobRequest.parse({"prompt": "Work.", "tools": (), **fields})], who)
    return submitted.receipts[0].job.id


async def until_state(app: App, job_id: str, *states: JobState) -> Job:
    async with asyncio.timeout(60):
        while (job := await app.jobs.get(job_id)).state not in states:
            await asyncio.sleep(0.02)
    return job


async def used(app: App, org: str = "default") -> dict[str, float]:
    (quota,) = [view for view in await app.oversight.quotas(org) if view["scope"] == "cli"]
    return {name: float(str(quota[name])) for name in ("used", "held")}


async def test_a_job_beyond_the_quota_waits_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    claude = stand_in(tmp_path)
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(claude), CLI_QUOTA_USD="0.015", QUOTA_RESET_INTERVAL="month")
    who = caller(tmp_path, env)
    async with running_app(env) as app:
        first = await spawn(app, who, max_cost_usd=0.01)
        await until_state(app, first, JobState.SUCCEEDED)
        spent = await used(app)
        second = await spawn(app, who, max_cost_usd=0.01)
        waiting = await until_state(app, second, JobState.DELAYED)
        other = await spawn(app, who, max_cost_usd=0.01, org="acme")
        await until_state(app, other, JobState.SUCCEEDED)

    assert spent == {"used": 0.01, "held": 0}
    assert waiting.reason is Reason.LIMIT
    assert waiting.attempts == 0
    assert waiting.not_before_ms is not None


async def test_what_jobs_cost_is_in_the_ledger_without_any_quota(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))
    async with running_app(env) as app:
        job_id = await spawn(app, caller(tmp_path, env), org="acme")
        await until_state(app, job_id, JobState.SUCCEEDED)
        (call,) = await app.oversight.calls(limit=5, org="acme")

    assert call["cost_nusd"] == 10_000_000
    assert str(call["id"]).startswith(job_id)


async def test_a_quota_of_nothing_lets_no_job_run(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), CLI_QUOTA_USD="0")
    async with running_app(env) as app:
        job_id = await spawn(app, caller(tmp_path, env))
        job = await until_state(app, job_id, JobState.DELAYED)
        for n in range(5):  # each admission looks at the job, too
            await until_state(app, await spawn(app, caller(tmp_path, env), key=f"k{n}"), JobState.DELAYED)
        later = await app.jobs.get(job_id)
        view = result_view(await app.jobs.situation(later), app.desk.clock())

    assert job.reason is Reason.LIMIT
    assert later == job
    assert "quota of its organization is used up, looks again at" in view.note


async def test_a_quota_that_is_set_while_a_job_runs_takes_no_line_from_the_ledger(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=2)))
    async with running_app(env) as app:
        job_id = await spawn(app, caller(tmp_path, env))
        await until_state(app, job_id, JobState.RUNNING)
        await app.oversight.set_quota(scope="cli", subject="default", unit="usd", limit=5, window="day")
        await until_state(app, job_id, JobState.SUCCEEDED)
        next_id = await spawn(app, caller(tmp_path, env))
        await until_state(app, next_id, JobState.SUCCEEDED)
        calls = await app.oversight.calls(limit=5, org="default")
        quota = await used(app)

    assert [(str(call["id"]).split(".")[0], call["cost_nusd"]) for call in calls] == [
        (next_id, 10_000_000),
        (job_id, 10_000_000),
    ]
    assert quota == {"used": 0.01, "held": 0}  # what began before it was no part of it
