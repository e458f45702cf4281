"""What each operation does to one job, as pure functions Job -> Job and the events that tell of it. No storage.

States come from policy.transitions alone; the stores decide when, these functions decide what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from claude_jobs.domain.event import EventKind, NewEvent, Scalar
from claude_jobs.domain.job import (
    OWNED,
    TERMINAL,
    Attempt,
    Failure,
    Job,
    JobState,
    Outcome,
    ProcessRef,
    Progress,
    Reason,
)
from claude_jobs.domain.token import TokenNote
from claude_jobs.policy import estimate, timeouts
from claude_jobs.policy.retry import LONGEST_LIMIT_MS, MAX_MOVES, Disposition, after_loss, is_move
from claude_jobs.policy.transitions import Trigger, advance
from claude_jobs.stores.base import HOLD_MS

LISTED_PROMPT_CHARS = 200
MESSAGE_CHARS = 200
"""Longest message in an event; the whole one is in the outcome."""
CLOCK_SLACK_MS = 60_000
"""A backoff that began this far in the future was begun under a clock that has since been set back."""

_CONTINUES = frozenset({Trigger.RETRY_NOW, Trigger.RETRY_LATER, Trigger.LOSE_OWNER})
_KEEPS_TOKEN = frozenset({Failure.OWNER_LOST, Failure.INTERRUPTED})


def permits(job: Job, *, owner: str, token: str) -> tuple[str, ...]:
    """The limit keys that running this job takes."""
    batch = (f"b:{job.batch_id}",) if job.batch_id else ()
    return ("g", f"d:{job.depth}", f"r:{job.root_id}", *batch, f"t:{token}", f"h:{owner}")


def admitted(job: Job, *, owner: str, token: str) -> Job:
    """The job in its owner's hands, one epoch further."""
    return replace(
        job,
        state=advance(job.state, Trigger.ADMIT),
        reason=Reason.NONE,
        epoch=job.epoch + 1,
        owner=owner,
        token=token,
        permits=permits(job, owner=owner, token=token),
        moves=job.moves + (1 if is_move(job, token) else 0),
        progress=Progress(),
    )


def admitted_event(job: Job, now_ms: int) -> NewEvent:
    """Says who has it and on which token."""
    data: dict[str, Scalar] = {
        "owner": job.owner,
        "token": job.token,
        "waited_ms": max(0, now_ms - job.queued_since_ms),
        "depth": job.depth,
        "root_id": job.root_id,
    }
    return NewEvent(kind=EventKind.ADMITTED, data=data)


def avoided(job: Job, last: Attempt | None) -> tuple[str, ...]:
    """Tokens to stay away from if another is free: those that refused it, and the one its last attempt failed on."""
    if last is None or last.failure is None or last.failure in _KEEPS_TOKEN:
        return job.refused_by
    return (*job.refused_by, last.token)


def promoted(job: Job) -> Job:
    """A delayed job whose time has come."""
    return replace(job, state=advance(job.state, Trigger.PROMOTE), reason=Reason.NONE, not_before_ms=None)


def held_back(job: Job, now_ms: int) -> Job:
    """A ready job beyond its tree's total, out of the way for a while."""
    return replace(job, state=advance(job.state, Trigger.HOLD), reason=Reason.LIMIT, not_before_ms=now_ms + HOLD_MS)


def sleeping_since_ms(job: Job) -> int | None:
    """When a delay of our own making began; None for other jobs, also those whose caller set the time."""
    if job.state is JobState.DELAYED and job.reason is Reason.BACKOFF:
        return job.queued_since_ms
    if job.state is JobState.DELAYED and job.reason is Reason.LIMIT and job.not_before_ms is not None:
        # At the earliest: its queue time stays that of its submission, and nobody noted which limit it was.
        return job.not_before_ms - LONGEST_LIMIT_MS
    return None


def is_due(job: Job, now_ms: int) -> bool:
    """Whether a delayed job may be promoted. A delay of ours does not outlive a clock that was set back."""
    since_ms = sleeping_since_ms(job)
    is_stranded = since_ms is not None and since_ms > now_ms + CLOCK_SLACK_MS
    return job.not_before_ms is None or job.not_before_ms <= now_ms or is_stranded


def begun(job: Job, now_ms: int) -> Job:
    """The job with its process running; the first start stays on record."""
    started_ms = now_ms if job.started_ms is None else job.started_ms
    return replace(job, state=advance(job.state, Trigger.BEGIN), started_ms=started_ms)


def blocked(job: Job) -> Job:
    """The running job while it waits for others: its owner keeps it, its places under the limits are free."""
    return replace(job, state=advance(job.state, Trigger.BLOCK), permits=())


def unblocked(job: Job) -> Job:
    """The job running again, its places taken whether they are free or not."""
    taken = permits(job, owner=job.owner, token=job.token)
    return replace(job, state=advance(job.state, Trigger.UNBLOCK), permits=taken)


def in_session(job: Job, session_id: str) -> Job:
    """The job in a session that has just begun."""
    return replace(job, session_id=session_id, session_cost_nusd=0)


def moved(job: Job, token: str) -> Job:
    """The running job on another token, permits exchanged."""
    exchanged = tuple(f"t:{token}" if key == f"t:{job.token}" else key for key in job.permits)
    return replace(job, token=token, permits=exchanged, moves=job.moves + 1)


def limited_event(token: str, note: TokenNote) -> tuple[NewEvent, ...]:
    """Says that a token hit a limit, if the note says so."""
    if note.cool_window is None:
        return ()
    data: dict[str, Scalar] = {"token": token, "window": note.cool_window, "resets_at_ms": note.cool_until_ms}
    return (NewEvent(kind=EventKind.LIMITED, data=data),)


def cancel_disposition(why: str) -> tuple[Outcome, Disposition]:
    """How a job ends that is cancelled outside an attempt."""
    outcome = Outcome(failure=Failure.CANCELLED, message=why)
    return outcome, Disposition(trigger=Trigger.CANCEL, failure=Failure.CANCELLED, message=why, counts=False)


def expiry_disposition(why: str) -> tuple[Outcome, Disposition]:
    """How a job ends whose deadline passed while it was queued."""
    outcome = Outcome(failure=Failure.DEADLINE, message=why)
    return outcome, Disposition(trigger=Trigger.EXPIRE, failure=Failure.DEADLINE, counts=False)


def lost_disposition(job: Job) -> tuple[Outcome, Disposition]:
    """How a job goes on whose owner died."""
    outcome = Outcome(failure=Failure.OWNER_LOST, message=f"Worker {job.owner} died under it.")
    return outcome, after_loss(job)


def settled(job: Job, outcome: Outcome, disposition: Disposition, now_ms: int) -> tuple[Job, tuple[NewEvent, ...]]:
    """The job after an attempt (or its whole life) ended, and the event that tells of it."""
    if job.cancel_why is not None and disposition.trigger in _CONTINUES:
        _, disposition = cancel_disposition(job.cancel_why)
    state = advance(job.state, disposition.trigger)
    ended = replace(
        job,
        state=state,
        owner="",
        permits=(),
        attempts=job.attempts + (1 if disposition.counts else 0),
        losses=job.losses + (1 if outcome.failure is Failure.OWNER_LOST else 0),
        timeouts=job.timeouts + (1 if disposition.timed_out else 0),
        trouble=job.trouble if disposition.trouble is None else disposition.trouble,
        trouble_ms=job.trouble_ms if disposition.trouble is None else disposition.trouble_ms,
        troubles=job.troubles + (1 if disposition.trouble else 0),
        refused_by=_with(job.refused_by, job.token) if disposition.refused else job.refused_by,
        usage=job.usage + outcome.usage if outcome.usage else job.usage,
        session_cost_nusd=job.session_cost_nusd if outcome.session_cost_nusd is None else outcome.session_cost_nusd,
    )
    if state in TERMINAL:
        return _finished(ended, outcome, disposition, now_ms)
    return _requeued(ended, outcome, disposition, now_ms)


def _with(tokens: Sequence[str], token: str) -> tuple[str, ...]:
    return tuple(tokens) if token in tokens else (*tokens, token)


def _finished(job: Job, outcome: Outcome, disposition: Disposition, now_ms: int) -> tuple[Job, tuple[NewEvent, ...]]:
    final = replace(
        outcome,
        failure=disposition.failure or outcome.failure,
        message=disposition.message or outcome.message,
    )
    data: dict[str, Scalar] = {
        "state": job.state.value,
        "failure": final.failure.value,
        "message": final.message[:MESSAGE_CHARS],
        "token": job.token,
        "attempts": job.attempts,
        "cost_nusd": job.usage.cost_nusd,
        "ran_ms": outcome.duration_ms,
    }
    if outcome.duration_ms:
        data["estimate_ms"] = estimate_ms(job)
    ended = replace(job, outcome=final, finished_ms=now_ms, reason=Reason.NONE, not_before_ms=None)
    return ended, (NewEvent(kind=EventKind.FINISHED, data=data),)


def _requeued(job: Job, outcome: Outcome, disposition: Disposition, now_ms: int) -> tuple[Job, tuple[NewEvent, ...]]:
    is_later = job.state is JobState.DELAYED
    not_before_ms = disposition.not_before_ms or now_ms
    queued = replace(
        job, reason=disposition.reason, queued_since_ms=now_ms, not_before_ms=not_before_ms if is_later else None
    )
    data: dict[str, Scalar] = {
        "failure": outcome.failure.value,
        "message": (disposition.message or outcome.message)[:MESSAGE_CHARS],
        "reason": disposition.reason.value,
        "token": job.token,
        "attempts": job.attempts,
        "not_before_ms": queued.not_before_ms,
    }
    return queued, (NewEvent(kind=EventKind.RETRY, data=data),)


def closed(attempt: Attempt, outcome: Outcome, disposition: Disposition, now_ms: int) -> Attempt:
    """The attempt's record after its end."""
    return replace(
        attempt,
        finished_ms=now_ms,
        failure=outcome.failure,
        message=outcome.message or disposition.message,
        usage=outcome.usage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How long an attempt ran, against the guess: what better guesses can be learned from.

    Attributes:
        kind: `policy.estimate.kind`.
        failure: "" if it succeeded.
    """

    at_ms: int
    kind: str
    features: estimate.Features
    estimate_ms: int
    ran_ms: int
    failure: str


def run_of(job: Job, outcome: Outcome, now_ms: int) -> Run | None:
    """The record of an attempt that came to an outcome; None if nothing ran. `job` must be whole."""
    if not outcome.duration_ms:
        return None
    return Run(
        at_ms=now_ms,
        kind=estimate.kind(job.spec),
        features=estimate.features(job.spec),
        estimate_ms=estimate_ms(job),
        ran_ms=outcome.duration_ms,
        failure=outcome.failure.value,
    )


def estimate_ms(job: Job) -> int:
    """The first guess of an attempt's running time."""
    return round(1_000 * timeouts.timeout_s(job.spec))


def listed(job: Job) -> Job:
    """The job as lists show it: prompt cut, result text left out."""
    spec = replace(job.spec, prompt=job.spec.prompt[:LISTED_PROMPT_CHARS])
    outcome = job.outcome and replace(job.outcome, text="", structured="")
    return replace(job, spec=spec, outcome=outcome)


def is_held(job: Job, epoch: int) -> bool:
    """The fence: whether a write for `epoch` may touch the job."""
    return job.epoch == epoch and job.state in OWNED


def opened(job: Job, now_ms: int) -> Attempt:
    """The record of the attempt that an admission begins."""
    return Attempt(job_id=job.id, epoch=job.epoch, token=job.token, owner=job.owner, admitted_ms=now_ms)


def started(attempt: Attempt, process: ProcessRef | None, now_ms: int) -> Attempt:
    """The attempt's record once its process is known."""
    started_ms = now_ms if attempt.started_ms is None else attempt.started_ms
    return replace(attempt, started_ms=started_ms, process=process or attempt.process)


def blocked_event() -> NewEvent:
    """Says that its permits are free."""
    return NewEvent(kind=EventKind.BLOCKED)


def unblocked_event() -> NewEvent:
    """Says that its permits are taken again."""
    return NewEvent(kind=EventKind.UNBLOCKED)


def started_event(process: ProcessRef | None) -> NewEvent:
    """Says that it runs."""
    return NewEvent(kind=EventKind.STARTED, data={"pid": process.pid} if process else {})


def may_move(job: Job) -> bool:
    """Whether the running job may change its token once more."""
    return job.state in (JobState.RUNNING, JobState.BLOCKED) and job.cancel_why is None and job.moves < MAX_MOVES


def moved_event(old: str, job: Job) -> NewEvent:
    """Says from which token to which."""
    return NewEvent(kind=EventKind.MOVED, data={"from": old, "token": job.token, "moves": job.moves})


def cancel_event(why: str) -> NewEvent:
    """Says that its owner was asked to stop it."""
    return NewEvent(kind=EventKind.CANCEL_REQUESTED, data={"why": why[:MESSAGE_CHARS]})
