"""Figures of a batch, from its jobs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from claude_jobs.domain.job import Attempt, Failure, Job, JobSpec, JobState, Outcome, Progress
from claude_jobs.domain.usage import Usage, nusd
from claude_jobs.errors import InvalidRequest
from claude_jobs.services.batches import BatchReport, collected, spoken, summary
from claude_jobs.stores.base import JobFilter, Page

T0 = 1_800_000_000_000


def job(name: str, state: JobState = JobState.SUCCEEDED, *, ran: tuple[float, float] | None = None) -> Job:
    """A job of a batch submitted at T0, that ran from..to seconds later."""
    started, finished = (T0 + round(at * 1000) for at in ran) if ran else (None, None)
    ended = state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)
    failure = {JobState.SUCCEEDED: Failure.NONE, JobState.FAILED: Failure.TIMED_OUT}.get(state, Failure.CANCELLED)
    return Job(
        id=name,
        spec=JobSpec(prompt="p", model="m", cwd="/"),
        state=state,
        root_id=name,
        depth=0,
        offers=(),
        submitter="uid:1",
        pool="host:a",
        session_id="s",
        rank=0,
        created_ms=T0,
        queued_since_ms=T0,
        usage=Usage(),
        batch_id="b-1",
        epoch=1 if ran else 0,
        started_ms=started,
        finished_ms=(finished or T0) if ended else None,
        outcome=Outcome(failure=failure) if ended else None,
    )


def report(*jobs: Job, at_s: float = 100.0) -> BatchReport:
    return summary(jobs, {}, T0 + round(at_s * 1000))


def test_times_speed_up_and_efficiency() -> None:
    """Two places: a and b side by side, then c; 4 + 4 + 2 s of work in 6 s."""
    found = report(job("a", ran=(0, 4)), job("b", ran=(0, 4)), job("c", ran=(4, 6)))

    assert (found.wall_s, found.sum_s, found.parallel) == (6.0, 10.0, 2)
    assert (found.speedup, found.efficiency) == (1.67, 0.833)
    assert found.line == "3/3 done · 1.7x"


def test_a_batch_still_running_has_its_progress_in_one_line() -> None:
    done = [replace(job(f"d{n}", ran=(0, 10)), usage=Usage(cost_nusd=nusd(0.1))) for n in range(3)]
    running = replace(job("r", JobState.RUNNING, ran=(10, 0)), progress=Progress(cost_nusd=nusd(0.01), output_tokens=5))
    queued = [job(f"q{n}", JobState.READY) for n in range(35)]
    found = report(*done, running, *queued, job("f", JobState.FAILED, ran=(0, 10)), at_s=12)

    assert found.counts == {"queued": 35, "running": 1, "succeeded": 3, "failed": 1}
    assert (found.left_s, found.output_tokens, found.cost_usd) == (pytest.approx(358 / 4, abs=0.1), 5, 0.31)
    assert found.line == "4/40 done, 1 running, 1 failed · 3.5x · $0.31 · about 90 s left"


def test_no_guess_without_a_job_that_succeeded() -> None:
    found = report(job("r", JobState.RUNNING, ran=(0, 0)), job("f", JobState.FAILED, ran=(0, 1)))

    assert found.left_s is None
    assert "left" not in found.line


def test_failures_by_cause_and_jobs_by_token() -> None:
    jobs = [
        replace(job("a", ran=(0, 1)), token="aaa"),
        replace(job("b", JobState.FAILED, ran=(0, 1)), token="aaa"),
        replace(job("c", JobState.FAILED, ran=(0, 1)), token="bbb"),
        job("d", JobState.CANCELLED),
    ]
    found = report(*jobs)

    assert found.failures == {"timed_out": 2, "cancelled": 1}
    assert found.tokens == {"aaa": 2, "bbb": 1}


def test_all_attempts_count_and_the_pause_between_them_is_no_work() -> None:
    tried = replace(job("a", ran=(0, 30)), epoch=2)
    spans = ((T0, T0 + 5_000), (T0 + 20_000, T0 + 30_000))
    attempts = [
        Attempt(job_id="a", epoch=at, token="t", owner="w", admitted_ms=start, started_ms=start, finished_ms=end)
        for at, (start, end) in enumerate(spans, start=1)
    ]
    found = summary([tried], {"a": attempts}, T0 + 60_000)

    assert (found.wall_s, found.sum_s, found.parallel) == (30.0, 15.0, 1)


def test_the_night_before_a_retry_by_hand_is_not_wall_time() -> None:
    night_ms = 8 * 3_600_000
    again = replace(
        job("a", ran=(0, night_ms / 1000 + 12)), epoch=2, reopened=1, queued_since_ms=T0 + night_ms, session_id="s2"
    )
    spans = ((T0, T0 + 10_000), (T0 + night_ms + 2_000, T0 + night_ms + 12_000))
    attempts = [
        Attempt(job_id="a", epoch=at, token="t", owner="w", admitted_ms=start, started_ms=start, finished_ms=end)
        for at, (start, end) in enumerate(spans, start=1)
    ]
    found = summary([again], {"a": attempts}, T0 + 2 * night_ms)

    assert (found.wall_s, found.sum_s) == (22.0, 20.0)


def test_a_parents_wait_for_its_children_is_not_its_work() -> None:
    waited = job("a", ran=(0, 60))
    waited = replace(waited, outcome=Outcome(duration_ms=5_000))
    found = report(waited)

    assert (found.wall_s, found.sum_s) == (60.0, 5.0)


def test_a_batch_that_has_not_started_has_figures_too() -> None:
    found = report(job("a", JobState.WAITING), job("b", JobState.READY))

    assert (found.parallel, found.speedup, found.efficiency) == (0, 0.0, 0.0)
    assert found.line == "0/2 done"


def test_jobs_that_ran_for_no_time_still_ran() -> None:
    assert report(job("a", ran=(1, 1))).parallel == 1


async def test_large_batches_are_read_page_by_page() -> None:
    jobs = [job(f"j{n}", ran=(0, 1)) for n in range(7)]
    asked: list[str] = []

    async def pages(query: JobFilter) -> Page:
        asked.append(query.cursor)
        at = int(query.cursor or 0)
        return Page(jobs=tuple(jobs[at : at + 3]), cursor=str(at + 3) if at + 3 < len(jobs) else "", total=len(jobs))

    async def attempts(job_id: str) -> tuple[Attempt, ...]:
        raise AssertionError(job_id)

    found = await collected(pages, attempts, JobFilter(batch_id="b-1"), T0 + 5_000)

    assert (found.jobs, asked) == (7, ["", "3", "6"])


async def test_a_batch_nobody_knows_is_refused() -> None:
    async def pages(query: JobFilter) -> Page:
        return Page(jobs=())

    async def attempts(job_id: str) -> tuple[Attempt, ...]:
        return ()

    with pytest.raises(InvalidRequest, match="no batch 'b-none'"):
        await collected(pages, attempts, JobFilter(batch_id="b-none"), T0)


@pytest.mark.parametrize(("seconds", "said"), [(0, "5 s"), (43, "45 s"), (240, "4 min"), (7_200, "2 h")])
def test_guesses_are_spoken_in_round_words(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
