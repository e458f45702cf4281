"""Why a queued job does not run yet, and what is said of it if its deadline comes first. Pure: no storage, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from claude_jobs.domain.job import TERMINAL, DependencyMode, Job, JobState, Reason
from claude_jobs.domain.token import TokenState
from claude_jobs.policy import tokens as token_policy
from claude_jobs.stores.base import AdmitRequest, Limits

NAMED_IN_MESSAGE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a job waits for.

    Attributes:
        until_ms: When that may change (a reset, the end of a backoff), None if unknown.
        why: What is wrong with its credentials, "" if nothing is known.
    """

    reason: Reason
    until_ms: int | None = None
    why: str = ""


def wait_of(job: Job, *, tokens: Mapping[str, TokenState], held: Collection[str], limits: Limits, now_ms: int) -> Wait:
    """What keeps a job, as a worker sees it that holds these tokens."""
    if job.state is not JobState.READY:
        return Wait(reason=job.reason, until_ms=job.not_before_ms if job.state is JobState.DELAYED else None)
    offered = token_policy.states_of(job.offers, tokens, held)
    usable = [token for token in offered if not token.quarantined]
    if not usable:
        return Wait(reason=Reason.NEEDS_CREDENTIAL, why=token_policy.out_of_use(offered))
    if (limits.depth is not None and job.depth > limits.depth) or limits.at_depth == 0:
        return Wait(reason=Reason.LIMIT)
    reset_ms = token_policy.next_reset_ms(usable, job.spec.model, now_ms)
    return Wait(reason=Reason.CAPACITY if reset_ms is None else Reason.RATE_LIMIT, until_ms=reset_ms)


def missed(job: Job, request: AdmitRequest, tokens: Mapping[str, TokenState], states: Mapping[str, JobState]) -> str:
    """What a queued job waited for until its deadline passed.

    Args:
        states: Of the jobs that it depends on.
    """
    if job.state is JobState.READY and job.pool not in request.pools:
        what = f"a worker that serves {job.pool!r}"
    else:
        wait = wait_of(job, tokens=tokens, held=request.held, limits=request.limits, now_ms=request.now_ms)
        what = _named(job, wait, request.limits, states)
    return f"The deadline passed while it waited for {what}. Retry it, or submit it with a later deadline."


def _named(job: Job, wait: Wait, limits: Limits, states: Mapping[str, JobState]) -> str:
    until = f" until {_utc(wait.until_ms)}" if wait.until_ms is not None else ""
    match wait.reason:
        case Reason.DEPENDENCY:
            return _dependencies(job, states)
        case Reason.LIMIT:
            return _limit(job, limits)
        case Reason.RATE_LIMIT:
            return f"the end of a usage limit, which lasts{until}" if until else "the end of a usage limit"
        case Reason.NEEDS_CREDENTIAL:
            return f"a credential that may be used ({wait.why})" if wait.why else "a credential that a worker holds"
        case Reason.BACKOFF:
            after = f" after {job.trouble.value}" if job.trouble else ""
            return f"its next attempt{after}, which was put off{until}"
        case Reason.CAPACITY:
            return "a free place"
        case Reason.NONE:
            return f"its time to begin: it was not to run{until}" if until else "its turn"
        case _:
            assert_never(wait.reason)


def _dependencies(job: Job, states: Mapping[str, JobState]) -> str:
    found = {one.job_id: states.get(one.job_id, JobState.FAILED) for one in job.depends_on}
    pending = {job_id: state for job_id, state in found.items() if state not in TERMINAL}
    # Those that ran out of time with it, a moment before, are what it waited for, too.
    shown = [f"{job_id} ({state.value})" for job_id, state in (pending or found).items()]
    more = f" and {len(shown) - NAMED_IN_MESSAGE} more" if len(shown) > NAMED_IN_MESSAGE else ""
    quantity = "one of " if job.needs is DependencyMode.ANY and len(shown) > 1 else ""
    return f"{quantity}{', '.join(shown[:NAMED_IN_MESSAGE])}{more}"


def _limit(job: Job, limits: Limits) -> str:
    if job.state is JobState.DELAYED and (limits.total is None or job.ordinal <= limits.total):
        return "the reset of a quota of its organization"
    if job.state is JobState.DELAYED:
        return f"a higher CLAUDE_MAX_TOTAL_JOBS: it is job {job.ordinal} of its tree"
    if limits.at_depth == 0:
        return "a higher CLAUDE_MAX_CONCURRENT_AT_DEPTH, which is 0"
    return f"a higher CLAUDE_MAX_RECURSION_DEPTH: it is at depth {job.depth}"


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
