"""What the end of one job does to others, and how ended jobs come back, as pure functions. No storage.

Who depends on whom is found by the stores; what follows from it is said here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import TERMINAL, DependencyMode, Failure, Job, JobState, Outcome, Progress, Reason
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.dependencies import Verdict, verdict
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger, advance

BREAKS_BATCH = frozenset({JobState.FAILED, JobState.EXPIRED})
"""Ends that stop a batch which asked for it; a cancelled job was stopped on purpose."""
REOPENABLE = TERMINAL - {JobState.SUCCEEDED}
NAMED_IN_MESSAGE = 3

States = Mapping[str, JobState]
"""Job id -> state. A job that is missing was cleaned up, and counts as failed."""


def weighed(job: Job, states: States) -> Verdict:
    """Where a job stands with its dependencies."""
    return verdict(tuple(_state(states, one.job_id) for one in job.depends_on), job.needs, job.on)


def _state(states: States, job_id: str) -> JobState:
    return states.get(job_id, JobState.FAILED)


def met(job: Job, now_ms: int) -> Job:
    """A waiting job whose dependencies are met; it may still have to wait for its time."""
    state = advance(job.state, Trigger.DEPENDENCIES_MET)
    if job.not_before_ms is not None and job.not_before_ms > now_ms:
        return replace(job, state=advance(state, Trigger.HOLD), reason=Reason.NONE)
    return replace(job, state=state, reason=Reason.NONE, not_before_ms=None)


def unmet_disposition(job: Job, states: States) -> tuple[Outcome, Disposition]:
    """How a job ends whose dependencies can never be met."""
    lost = _lost(job, states)
    shown = ", ".join(f"{job_id} ({state.value})" for job_id, state in lost[:NAMED_IN_MESSAGE])
    more = f" and {len(lost) - NAMED_IN_MESSAGE} more" if len(lost) > NAMED_IN_MESSAGE else ""
    quantity = "one of " if job.needs is DependencyMode.ANY and len(lost) > 1 else ""
    message = f"It needs the success of {quantity}{shown}{more}. Retry that, and this job runs after it."
    outcome = Outcome(failure=Failure.DEPENDENCY, message=message)
    return outcome, Disposition(trigger=Trigger.DEPENDENCY_FAILED, failure=Failure.DEPENDENCY, counts=False)


def _lost(job: Job, states: States) -> list[tuple[str, JobState]]:
    found = {one.job_id: _state(states, one.job_id) for one in job.depends_on}
    return [(job_id, state) for job_id, state in found.items() if state in REOPENABLE]


def stop_why(job: Job) -> str:
    """Why the rest of a batch is cancelled after one of it has failed."""
    return f"{job.id} {job.state.value} and its batch stops at the first failure"


def reopened(job: Job, states: States, now_ms: int, *, deadline_ms: int | None) -> tuple[Job, NewEvent]:
    """An ended job at its beginning again, and the event that tells of it. What it cost, and its place by rank, stay."""
    is_waiting = weighed(job, states) is Verdict.PENDING
    goes_on = continues(job)
    again = replace(
        job,
        state=advance(job.state, Trigger.REOPEN_WAITING if is_waiting else Trigger.REOPEN),
        reason=Reason.DEPENDENCY if is_waiting else Reason.NONE,
        session_id=goes_on or str(uuid.uuid4()),
        session_cost_nusd=job.session_cost_nusd if goes_on == job.session_id else 0,
        queued_since_ms=now_ms,
        reopened=job.reopened + 1,
        attempts=0,
        moves=0,
        losses=0,
        timeouts=0,
        trouble=Failure.NONE,
        trouble_ms=0,
        troubles=0,
        refused_by=(),
        cancel_why=None,
        not_before_ms=None,
        deadline_ms=deadline_ms,
        finished_ms=None,
        read_ms=None,
        progress=Progress(),
        outcome=None,
    )
    why = job.outcome.failure.value if job.outcome else job.state.value
    return again, NewEvent(
        kind=EventKind.REOPENED, data={"why": why, "was": job.state.value, "state": again.state.value}
    )


def continues(job: Job) -> str:
    """The session of an earlier job that this one writes into, "" if it has one of its own."""
    return "" if job.spec.fork else job.spec.resume_session


def to_reopen(
    named: Sequence[str],
    jobs: Mapping[str, Job],
    states: States,
    *,
    tree: bool,
    may_follow: Callable[[Job], bool],
) -> tuple[str, ...]:
    """Which jobs JobStore.reopen reopens.

    Args:
        jobs: In submit order: at least the named ones, with `tree` all below them, and of all these every job that
            depends on one of them, over any number of steps.
        states: Of everything that these jobs depend on.
        may_follow: Whether a job that nobody named may come back because of one that it needs.

    Raises:
        InvalidRequest: Nothing is to be reopened; or without `tree`, a named job has not failed or could not run.
    """
    wanted = _ended_part(named, jobs) if tree else {job_id: jobs[job_id] for job_id in named}
    if not tree:
        for job in wanted.values():
            _check_ended(job)
    chosen = _without_hopeless(wanted | _followers(wanted, jobs, may_follow), states)
    hopeless = [job for job in wanted.values() if job.id not in chosen]
    if hopeless and not tree:
        lost = ", ".join(f"{job_id} ({state.value})" for job_id, state in _lost(hopeless[0], states))
        message = f"Job {hopeless[0].id!r} could not run: it needs the success of {lost}. Retry that, too, or instead."
        raise InvalidRequest(message, field="job_ids")
    if not chosen:
        message = "There is nothing to run again: none of these jobs failed, expired or was cancelled."
        raise InvalidRequest(message, field="job_ids")
    return tuple(job_id for job_id in jobs if job_id in chosen)


def _check_ended(job: Job) -> None:
    if job.state not in REOPENABLE:
        way_out = "Its result stands." if job.state is JobState.SUCCEEDED else "Wait for its end, or cancel it first."
        message = f"Job {job.id!r} is {job.state.value}, not failed, cancelled or expired. {way_out}"
        raise InvalidRequest(message, field="job_ids")


def _ended_part(named: Iterable[str], jobs: Mapping[str, Job]) -> dict[str, Job]:
    """What ended without success of the named jobs, those below them and the dependents of all these in their batches.

    A job below another one of these is left out: its parent will spawn again what it needs.
    """
    inside = set(named)
    for job in jobs.values():
        if job.parent_id in inside:
            inside.add(job.id)
    dependents = _dependents(jobs.values())
    queue = list(inside)
    while queue:
        above = queue.pop()
        for job in dependents.get(above, ()):
            if job.batch_id and job.batch_id == jobs[above].batch_id and job.id not in inside:
                inside.add(job.id)
                queue.append(job.id)
    ended = {job_id: job for job_id, job in jobs.items() if job_id in inside and job.state in REOPENABLE}
    return {job_id: job for job_id, job in ended.items() if not _is_below(job, ended, jobs)}


def _is_below(job: Job, others: Mapping[str, Job], jobs: Mapping[str, Job]) -> bool:
    above = job.parent_id
    while above is not None and above in jobs:
        if above in others:
            return True
        above = jobs[above].parent_id
    return False


def _followers(wanted: Mapping[str, Job], jobs: Mapping[str, Job], may_follow: Callable[[Job], bool]) -> dict[str, Job]:
    """Jobs that never ran because of the wanted ones, over any number of steps."""
    dependents = _dependents(job for job in jobs.values() if job.outcome and job.outcome.failure is Failure.DEPENDENCY)
    found: dict[str, Job] = {}
    queue = list(wanted)
    while queue:
        for job in dependents.get(queue.pop(), ()):
            is_new = job.id not in wanted and job.id not in found
            if is_new and job.state in REOPENABLE and may_follow(job):
                found[job.id] = job
                queue.append(job.id)
    return found


def _without_hopeless(chosen: Mapping[str, Job], states: States) -> set[str]:
    """Those of `chosen` whose dependencies can be met once all of them run again."""
    after = dict(states) | dict.fromkeys(chosen, JobState.WAITING)
    dependents = _dependents(chosen.values())
    kept = set(chosen)
    queue = list(chosen.values())
    while queue:
        job = queue.pop()
        if job.id in kept and weighed(job, after) is Verdict.FAILED:
            kept.remove(job.id)
            after[job.id] = job.state
            queue.extend(dependents.get(job.id, ()))
    return kept


def _dependents(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        for one in job.depends_on:
            found.setdefault(one.job_id, []).append(job)
    return found
