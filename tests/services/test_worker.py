"""Jobs through the real parts: queue, worker, process, result. The process is a stand-in executable, the rest is real."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from support_app import caller, ended, environment, running_app, stand_in, until

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, JobState, Outcome, PublicState, Reason
from claude_jobs.errors import InvalidRequest, JobNotFound, KeyConflict, QueueFull
from claude_jobs.runner import proctree
from claude_jobs.services.request import JobRequest
from claude_jobs.stores.base import JobFilter


async def test_job_runs_and_its_result_is_kept(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="forty-two")))

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="What is it?")], caller(tmp_path, env))
        job = await ended(app, submitted.receipts[0].job.id)

    assert job.state is JobState.SUCCEEDED
    assert job.outcome is not None
    assert job.outcome.text == "forty-two"
    assert job.usage.cost_nusd == 10_000_000
    assert (job.attempts, job.epoch) == (1, 1)


async def test_log_tells_the_whole_story_in_order(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        kinds = [event.kind async for event in app.jobs.follow(0, job_id)]

    assert [kind for kind in kinds if kind not in {EventKind.PROGRESS, EventKind.TEXT, EventKind.TOOL}] == [
        EventKind.SUBMITTED,
        EventKind.ADMITTED,
        EventKind.STARTED,
        EventKind.FINISHED,
    ]


async def test_jobs_are_dealt_out_evenly_over_the_tokens(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), CLAUDE_JOBS_SLOTS="6")

    async with running_app(env) as app:
        asked = [JobRequest(prompt=f"job {n}") for n in range(12)]
        submitted = await app.jobs.submit(asked, caller(tmp_path, env), is_batch=True)
        jobs = [await ended(app, receipt.job.id) for receipt in submitted.receipts]

    assert Counter(job.token for job in jobs).most_common()[-1][1] == 4
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}


async def test_slots_and_a_batchs_own_cap_hold(tmp_path: Path) -> None:
    peak = tmp_path / "peak"
    body = f"""
mkdir -p {peak}; touch {peak}/$$; ls {peak}/ | grep -vc '[.]' >> {tmp_path}/seen; sleep 0.2; rm {peak}/$$"""
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)), CLAUDE_JOBS_SLOTS="4")

    async with running_app(env) as app:
        asked = [JobRequest(prompt=f"job {n}") for n in range(8)]
        submitted = await app.jobs.submit(asked, caller(tmp_path, env), is_batch=True, max_parallel=2)
        for receipt in submitted.receipts:
            await ended(app, receipt.job.id)

    assert max(int(line) for line in (tmp_path / "seen").read_text().split()) <= 2


async def test_cancel_of_a_running_job_proves_that_nothing_lives_on(tmp_path: Path) -> None:
    body = f"(trap '' TERM INT; setsid sh -c 'trap \"\" TERM INT; while :; do sleep 1; done' & echo $! > {tmp_path}/pid; wait) & wait"
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)))

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
        cancelled = (await app.jobs.cancel([job_id], "enough"))[0]

    assert cancelled.is_done
    assert cancelled.job.state is JobState.CANCELLED
    assert cancelled.survivors == ()
    assert cancelled.signalled
    left = proctree.look(int((tmp_path / "pid").read_text()))
    assert left is None or left.is_dead


async def test_cancel_of_a_queued_job_starts_no_process(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), CLAUDE_JOBS_SLOTS="0")

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        cancelled = (await app.jobs.cancel([submitted.receipts[0].job.id], "enough"))[0]
        with pytest.raises(JobNotFound, match="status"):
            await app.jobs.cancel(["j-nope"], "x")

    assert cancelled.ack.was is PublicState.QUEUED
    assert cancelled.job.epoch == 0


async def test_job_set_aside_by_a_leaving_worker_is_finished_by_the_next(tmp_path: Path) -> None:
    marker = tmp_path / "second"
    body = f"if [ ! -e {marker} ]; then touch {marker}; sleep 60; fi"
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)))

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        await until(marker.exists)
    async with running_app(env) as app:
        await app.desk.tokens.offer(caller(tmp_path, env))
        app.desk.work.ring()
        job = await ended(app, job_id)

    assert job.state is JobState.SUCCEEDED
    assert (job.attempts, job.epoch) == (1, 2)


async def test_job_whose_token_nobody_holds_waits_and_says_so(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), CLAUDE_JOBS_SLOTS="0")
    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))

    env["CLAUDE_JOBS_SLOTS"] = "1"
    async with running_app(env) as app:
        waiting = await app.jobs.situation(await app.jobs.get(submitted.receipts[0].job.id))
        await app.desk.tokens.offer(caller(tmp_path, env))
        app.desk.work.ring()
        job = await ended(app, submitted.receipts[0].job.id)

    assert waiting.reason is Reason.NEEDS_CREDENTIAL
    assert job.state is JobState.SUCCEEDED


async def test_result_left_by_a_worker_that_died_before_recording_it_is_taken_over(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="ran-twice")), CLAUDE_JOBS_SLOTS="0")
    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        job_id = submitted.receipts[0].job.id
        app.desk.results.save(job_id, 1, Outcome(text="from before"))

    env["CLAUDE_JOBS_SLOTS"] = "1"
    async with running_app(env) as app:
        await app.desk.tokens.offer(caller(tmp_path, env))
        app.desk.work.ring()
        job = await ended(app, job_id)

    assert job.outcome is not None
    assert job.outcome.text == "from before"
    assert list((tmp_path / "jobs" / "results").iterdir()) == []


async def test_missing_claude_fails_the_job_with_the_remedy(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI="/no/such/claude")

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x", max_attempts=1)], caller(tmp_path, env))
        job = await ended(app, submitted.receipts[0].job.id)

    assert job.outcome is not None
    assert job.outcome.failure is Failure.CLI_MISSING
    assert "CLAUDE_JOBS_CLI" in job.outcome.message


async def test_vanished_working_directory_fails_the_job_by_name(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), CLAUDE_JOBS_SLOTS="0")
    (tmp_path / "work" / "gone").mkdir()
    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x", cwd="gone")], caller(tmp_path, env))
    (tmp_path / "work" / "gone").rmdir()

    env["CLAUDE_JOBS_SLOTS"] = "1"
    async with running_app(env) as app:
        await app.desk.tokens.offer(caller(tmp_path, env))
        app.desk.work.ring()
        job = await ended(app, submitted.receipts[0].job.id)

    assert job.outcome is not None
    assert job.outcome.failure is Failure.CWD_MISSING


async def test_transient_failure_is_tried_again_within_its_attempts(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    body = f"echo x >> {tries}; [ $(wc -l < {tries}) -ge 3 ] || exit 1"
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)), CLAUDE_RETRY_DELAY="0.05")

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x"), JobRequest(prompt="y")], caller(tmp_path, env))
        jobs = [await ended(app, receipt.job.id) for receipt in submitted.receipts]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert sum(job.attempts for job in jobs) == len(tries.read_text().split())


async def test_time_out_is_a_named_failure_after_its_attempts(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=30)), CLAUDE_RETRY_DELAY="0")

    async with running_app(env) as app:
        request = JobRequest(prompt="x", timeout_s=0.3, max_attempts=1)
        submitted = await app.jobs.submit([request], caller(tmp_path, env))
        job = await ended(app, submitted.receipts[0].job.id)

    assert job.outcome is not None
    assert job.outcome.failure is Failure.TIMED_OUT


async def test_key_makes_a_repeated_submission_the_same_job(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))
    asked = JobRequest(prompt="once", key="k1")

    async with running_app(env) as app:
        who = caller(tmp_path, env)
        first, second = [(await app.jobs.submit([asked], who)).receipts[0] for _ in range(2)]
        with pytest.raises(KeyConflict):
            await app.jobs.submit([JobRequest(prompt="another", key="k1")], who)

    assert first.job.id == second.job.id
    assert (first.is_new, second.is_new) == (True, False)


async def test_key_finds_its_job_though_its_directory_and_its_tokens_are_gone(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))
    (tmp_path / "work" / "gone").mkdir()
    asked = JobRequest(prompt="once", key="k1", cwd="gone")

    async with running_app(env) as app:
        first = (await app.jobs.submit([asked], caller(tmp_path, env))).receipts[0]
        await ended(app, first.job.id)
        (tmp_path / "work" / "gone").rmdir()
        second = (await app.jobs.submit([asked], caller(tmp_path, env, tokens=0))).receipts[0]
        with pytest.raises(KeyConflict):
            await app.jobs.submit([JobRequest(prompt="another", key="k1", cwd="gone")], caller(tmp_path, env))
        with pytest.raises(InvalidRequest, match="gone"):
            await app.jobs.submit([asked, JobRequest(prompt="new", cwd="gone")], caller(tmp_path, env))

    assert (second.job.id, second.is_new) == (first.job.id, False)


async def test_full_queue_refuses_the_whole_batch(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_QUEUE_SIZE="3", CLAUDE_JOBS_SLOTS="0")

    async with running_app(env) as app:
        with pytest.raises(QueueFull, match="CLAUDE_QUEUE_SIZE"):
            await app.jobs.submit([JobRequest(prompt="x")] * 4, caller(tmp_path, env), is_batch=True)
        page, _ = await app.jobs.list(JobFilter())

    assert page.jobs == ()


async def test_unread_results_come_first_until_they_are_read(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))

    async with running_app(env) as app:
        who = caller(tmp_path, env)
        first = (await app.jobs.submit([JobRequest(prompt="a")], who)).receipts[0].job.id
        await ended(app, first)
        second = (await app.jobs.submit([JobRequest(prompt="b")], who)).receipts[0].job.id
        await app.jobs.mark_read(await app.jobs.situation(await ended(app, second)))
        page, _ = await app.jobs.list(JobFilter(unread_first=True))

    assert [job.id for job in page.jobs] == [first, second]


async def test_waiting_does_not_hold_up_and_ends_with_its_time(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=60)))

    async with running_app(env) as app:
        submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
        await until(lambda: app.worker.running == 1)
        async with asyncio.timeout(50):
            seen = [situation.job.state async for situation in app.jobs.wait(submitted.receipts[0].job.id, 0.5)]

    assert JobState.RUNNING in seen
    assert not any(state is JobState.SUCCEEDED for state in seen)


async def test_what_a_job_writes_is_readable_as_usual(tmp_path: Path) -> None:
    body = f"touch {tmp_path}/made"
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=body)))
    before = os.umask(0o077)
    try:
        async with running_app(env) as app:
            submitted = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env))
            await ended(app, submitted.receipts[0].job.id)
    finally:
        os.umask(before)

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


async def test_a_queued_job_is_told_when_it_starts_by_the_limits_that_hold(tmp_path: Path) -> None:
    later = f'case "$line" in *later*) while [ ! -e {tmp_path}/go ]; do sleep 0.02; done;; esac'
    env = environment(
        tmp_path,
        CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=0.3, body=later)),
        CLAUDE_JOBS_SLOTS="32",
        CLAUDE_JOBS_MAX_PROCESSES="2",
    )
    async with running_app(env) as app:
        first = await app.jobs.submit([JobRequest(prompt="x")], caller(tmp_path, env, tokens=1))
        outcome = (await ended(app, first.receipts[0].job.id)).outcome
        jobs = [JobRequest(prompt=f"later {n}") for n in range(8)]
        receipts = (await app.jobs.submit(jobs, caller(tmp_path, env, tokens=1))).receipts
        last = await app.jobs.situation(receipts[-1].job)
        (tmp_path / "go").touch()
        for receipt in receipts:
            await ended(app, receipt.job.id)

    assert outcome is not None
    assert (last.reason, last.ahead >= 5) == (Reason.CAPACITY, True)
    assert last.eta_s == pytest.approx(outcome.duration_ms / 1000 * (last.ahead + 1) / 2)
