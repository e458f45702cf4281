"""Why a job waits, how many are ahead of it, and when it will probably run. Pure: what it looks at comes in as an Outlook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from claude_jobs.domain.job import Job, JobState, Reason
from claude_jobs.domain.token import TokenState
from claude_jobs.policy import estimate
from claude_jobs.policy import tokens as token_policy
from claude_jobs.policy.eta import Forecast, Place, forecast, parallel
from claude_jobs.stores.base import Limits
from claude_jobs.stores.waits import wait_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A job with what the row alone does not tell.

    Attributes:
        reason: Why a queued job waits.
        wait_until_ms: When that may change (a reset, the end of a backoff), None if unknown.
        ahead: Jobs before it in the queue.
        eta_s: Seconds until it will probably start, from the run times of jobs like it; None if unknown.
        why: What is wrong with its credentials, "" if nothing is known.
        waits_for: Jobs whose results it has asked for, while it is blocked.
    """

    job: Job
    reason: Reason = Reason.NONE
    wait_until_ms: int | None = None
    ahead: int = 0
    eta_s: float | None = None
    why: str = ""
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What several jobs' situations are judged by.

    Attributes:
        places: Where ready jobs stand in the queue, by their ids.
        run_times: Running times in ms of the latest jobs of a kind (policy.estimate.kind).
        slots: Jobs that run at once if no limit is narrower.
        waits: What blocked jobs wait for, by their ids.
    """

    now_ms: int
    states: Mapping[str, TokenState] = field(default_factory=dict[str, TokenState])
    held: frozenset[str] = frozenset()
    places: Mapping[str, Place] = field(default_factory=dict[str, Place])
    run_times: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    slots: int = 1
    waits: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    limits: Limits = Limits()  # noqa: RUF009 - frozen


def placed(job: Job, outlook: Outlook) -> Situation:
    """The situation of one job."""
    wait = wait_of(job, tokens=outlook.states, held=outlook.held, limits=outlook.limits, now_ms=outlook.now_ms)
    is_in_line = job.state is JobState.READY and wait.reason is Reason.CAPACITY
    coming = _coming(job, outlook) if is_in_line else Forecast(ahead=0, eta_s=None)
    return Situation(
        job=job,
        reason=wait.reason,
        wait_until_ms=wait.until_ms,
        ahead=coming.ahead,
        eta_s=coming.eta_s,
        why=wait.why,
        waits_for=tuple(outlook.waits.get(job.id, ())),
    )


def _coming(job: Job, outlook: Outlook) -> Forecast:
    limits, now_ms = outlook.limits, outlook.now_ms
    offered = token_policy.states_of(job.offers, outlook.states, outlook.held)
    free = [token for token in offered if not token_policy.cooling_until(token, job.spec.model, now_ms)]
    on_tokens = sum(token_policy.capacity(token, limits.per_token, now_ms) for token in free)
    at_once = parallel(slots=outlook.slots, at_depth=limits.at_depth, running=limits.running, on_tokens=on_tokens)
    times = outlook.run_times.get(estimate.kind(job.spec), ())
    return forecast(outlook.places.get(job.id, Place()), at_once, times)
