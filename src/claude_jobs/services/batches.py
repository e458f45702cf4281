"""What a batch came to, or stands at: times, speed-up, tokens, money, causes of failure. Pure but for `collected`, which reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from claude_jobs.domain.job import TERMINAL, Attempt, Job, JobState, PublicState
from claude_jobs.domain.usage import Usage, usd
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.transitions import public
from claude_jobs.stores.base import JobFilter, Page

PAGE = 500

Pages = Callable[[JobFilter], Awaitable[Page]]
Attempts = Callable[[str], Awaitable[Sequence[Attempt]]]
Span = tuple[int, int]
"""From and to, in ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """The jobs of a batch in figures, while it runs and after.

    Attributes:
        counts: Jobs by public state; only states that occur.
        ended: Jobs that have ended, however.
        wall_s: Time in which at least one of them was queued or running. The pause before a retry by hand is not in it.
        sum_s: Their running times added up, all attempts.
        speedup: sum_s / wall_s: how much longer they would have taken one after another.
        parallel: The most that ran at once.
        efficiency: speedup / parallel; 1.0 if all places were busy from beginning to end.
        tokens: Fingerprint -> jobs it was the last to serve.
        failures: Cause -> jobs that did not succeed because of it.
        left_s: Until the end, guessed from those that have ended; None if nothing can be said, or nothing is left.
        line: All of it in one line for people.
    """

    jobs: int
    ended: int
    counts: Mapping[str, int]
    wall_s: float
    sum_s: float
    speedup: float
    parallel: int
    efficiency: float
    input_tokens: int
    output_tokens: int
    cost_usd: float
    tokens: Mapping[str, int]
    failures: Mapping[str, int]
    left_s: float | None
    line: str


async def collected(pages: Pages, attempts: Attempts, query: JobFilter, now_ms: int) -> BatchReport:
    """The report on all jobs that `query` finds, page by page.

    Args:
        pages: JobStore.list.
        attempts: JobStore.attempts; asked for jobs with more than one.

    Raises:
        InvalidRequest: There are none.
    """
    jobs: list[Job] = []
    query = replace(query, limit=PAGE, cursor="")
    while True:
        page = await pages(query)
        jobs += page.jobs
        if not page.cursor:
            break
        query = replace(query, cursor=page.cursor)
    if not jobs:
        raise no_batch(query.batch_id)
    tried = {job.id: tuple(await attempts(job.id)) for job in jobs if job.epoch > 1}
    return summary(jobs, tried, now_ms)


def no_batch(batch_id: str) -> InvalidRequest:
    """What to say where a batch has no jobs."""
    message = f"There is no batch {batch_id!r}; it may have been cleaned up. `status` shows the jobs there are."
    return InvalidRequest(message, field="batch_id")


def summary(jobs: Sequence[Job], attempts: Mapping[str, Sequence[Attempt]], now_ms: int) -> BatchReport:
    """The report on `jobs`, at least one.

    Args:
        attempts: All attempts of a job, by its id; may be left out for jobs with one attempt or none.
    """
    runs = {job.id: _runs(job, attempts.get(job.id, ()), now_ms) for job in jobs}
    lives = [span for job in jobs for span in _lives(job, runs[job.id], now_ms)]
    ran_s = {job.id: _ran_s(job, runs[job.id]) for job in jobs}
    wall_s, sum_s, parallel = _covered(lives) / 1000, sum(ran_s.values()), _peak(list(runs.values()))
    speedup = sum_s / wall_s if wall_s else 0.0
    used = sum(map(_used, jobs), start=Usage())
    report = BatchReport(
        jobs=len(jobs),
        ended=sum(job.is_terminal for job in jobs),
        counts=_counted(jobs),
        wall_s=round(wall_s, 3),
        sum_s=round(sum_s, 3),
        speedup=round(speedup, 2),
        parallel=parallel,
        efficiency=round(speedup / parallel, 3) if parallel else 0.0,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost_usd=round(usd(used.cost_nusd), 6),
        tokens=dict(Counter(job.token for job in jobs if job.token).most_common()),
        failures=dict(Counter(job.outcome.failure.value for job in jobs if _failed(job) and job.outcome).most_common()),
        left_s=_left_s(jobs, ran_s, parallel),
        line="",
    )
    return replace(report, line=_line(report))


def _runs(job: Job, attempts: Sequence[Attempt], now_ms: int) -> list[Span]:
    """When it ran."""
    if attempts:
        end_ms = job.finished_ms or now_ms
        spans = [(one.started_ms, one.finished_ms or end_ms) for one in attempts if one.started_ms is not None]
        return [(start, max(start, end)) for start, end in spans]
    if job.started_ms is None:
        return []
    return [(job.started_ms, max(job.started_ms, job.finished_ms or now_ms))]


def _lives(job: Job, runs: Sequence[Span], now_ms: int) -> list[Span]:
    """When it was queued or running."""
    end_ms = job.finished_ms or now_ms
    if not job.reopened:
        return [(job.created_ms, end_ms)]
    earlier = [span for span in runs if span[0] < job.queued_since_ms]
    first = [(job.created_ms, max(end for _, end in earlier))] if earlier else []
    return [*first, (job.queued_since_ms, end_ms)]


def _ran_s(job: Job, runs: Sequence[Span]) -> float:
    """How long it ran. A parent's waits for its children are left out where the attempt itself has measured that."""
    spans_ms = sum(end - start for start, end in runs)
    measured_ms = job.outcome.duration_ms if job.outcome and len(runs) == 1 and job.is_terminal else 0
    return (min(spans_ms, measured_ms) if measured_ms else spans_ms) / 1000


def _covered(spans: Sequence[Span]) -> int:
    """Length of the union, in ms."""
    covered, reached = 0, 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _peak(runs: Sequence[Sequence[Span]]) -> int:
    """The most that overlap. One that ends as another starts does not."""
    spans = [span for of_job in runs for span in of_job]
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(step for _, step in steps), default=0) or int(bool(spans))


def _counted(jobs: Sequence[Job]) -> dict[str, int]:
    counts = Counter(public(job.state) for job in jobs)
    return {state.value: counts[state] for state in PublicState if counts[state]}


def _failed(job: Job) -> bool:
    return job.state in TERMINAL and job.state is not JobState.SUCCEEDED


def _used(job: Job) -> Usage:
    """With what the running attempt has used so far: `usage` has that only when it has ended."""
    if job.is_terminal:
        return job.usage
    now = job.progress
    return job.usage + Usage(input_tokens=now.input_tokens, output_tokens=now.output_tokens, cost_nusd=now.cost_nusd)


def _left_s(jobs: Sequence[Job], ran_s: Mapping[str, float], parallel: int) -> float | None:
    """The mean running time of those that succeeded, for each that has not, over as many places as were ever busy."""
    samples = [ran_s[job.id] for job in jobs if job.state is JobState.SUCCEEDED]
    unfinished = [job for job in jobs if not job.is_terminal]
    if not samples or not unfinished:
        return None
    mean_s = sum(samples) / len(samples)
    work_s = sum(max(mean_s - ran_s[job.id], 0.0) for job in unfinished)
    return round(work_s / max(1, min(parallel, len(unfinished))), 1)


def _line(report: BatchReport) -> str:
    """`12/40 done, 3 running, 1 failed · 2.9x · $0.31 · about 4 min left`."""
    shown = [state.value for state in PublicState if state not in (PublicState.QUEUED, PublicState.SUCCEEDED)]
    counts = [f"{report.counts[state]} {state}" for state in shown if report.counts.get(state)]
    parts = [", ".join([f"{report.ended}/{report.jobs} done", *counts])]
    if report.speedup:
        parts.append(f"{report.speedup:.1f}x")
    if report.cost_usd:
        parts.append(f"${report.cost_usd:.2f}" if report.cost_usd >= 0.01 else f"${report.cost_usd:.4f}")
    if report.left_s is not None:
        parts.append(f"about {spoken(report.left_s)} left")
    return " · ".join(parts)


def spoken(seconds: float) -> str:
    """A guess of time in round words: `5 s`, `40 s`, `4 min`, `3 h`."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.0f} h"
