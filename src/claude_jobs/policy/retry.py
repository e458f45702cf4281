"""Pure retry rules: what an attempt's outcome means for its job. No clock, no randomness of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from claude_jobs.domain.job import Failure, Job, Outcome, Reason
from claude_jobs.policy.transitions import Trigger

MAX_DELAY_MS = 300_000
"""No backoff is longer, unless the server asked for more."""
MAX_MOVES = 20
"""Changes of token of one job before its next limit fails it: a bound on a job that bounces between limits."""
MAX_LOSSES = 10
"""Deaths of its worker that a job survives; a job that keeps killing workers must end."""
REFUSALS_TO_FAIL = 2
"""Two different tokens refusing one job is the job's fault (DESIGN §4)."""

PATIENCE_MS: Mapping[Failure, int] = MappingProxyType(
    {
        Failure.NETWORK: 30 * 60_000,
        Failure.OVERLOADED: 30 * 60_000,
        Failure.SERVER_ERROR: 30 * 60_000,
        Failure.RATE_LIMITED: 30 * 60_000,
        Failure.SPAWN_FAILED: 5 * 60_000,
        Failure.CLI_MISSING: 2 * 60_000,
    }
)
"""Troubles that pass by themselves and are no fault of the job: it waits them out, uncounted, for this long each.

The time that its attempts and its waiting took is added up. So neither a computer that slept nor a clock that was set
uses it up, and a long queue does not either.
"""
UNSTARTED = frozenset({Failure.CLI_MISSING, Failure.SPAWN_FAILED})
"""Troubles of this machine: `npm i -g` replaces the executable within seconds, memory and process ids come back."""
STEP_MS = (100, 60_000)
"""Least and longest step of the ladder by which a trouble is waited out: half a minute after its end all jobs go on."""
LONGEST_LIMIT_MS = 3_600_000
"""A quota may be raised meanwhile: a job that waits for one looks again after this time."""
MAX_TROUBLES = 100
"""Troubles of one job in all: a bound on one that gets a little further each time."""

TRANSIENT = frozenset(
    {
        Failure.NO_RESULT,
        Failure.EMPTY_RESULT,
        Failure.CRASHED,
        Failure.TIMED_OUT,
        Failure.STALLED,
        Failure.NO_STRUCTURED_OUTPUT,
        Failure.SESSION_NOT_FOUND,
        Failure.OUTPUT_LIMIT,
    }
)
"""Worth another attempt, which counts; what is neither here nor below would fail the same way again."""

MOVES = frozenset({Failure.USAGE_LIMIT, Failure.LIMIT_TEXT})
"""A limit is never a failure: the job goes on with another token, or sleeps until the reset."""

REFUSALS = frozenset({Failure.AUTHENTICATION, Failure.FORBIDDEN, Failure.CREDIT})
"""The token was refused: try another one, unless this is the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disposition:
    """What becomes of the job.

    Attributes:
        trigger: The transition to apply.
        not_before_ms: For RETRY_LATER.
        counts: Whether the attempt counts against `max_attempts`.
        refused: Whether the token refused the job (remembered on the job).
        timed_out: Whether the next attempt gets a longer time-out.
        trouble: What the job waits out from now on (a key of PATIENCE_MS), `Failure.NONE` for nothing; None: as before.
        trouble_ms: With `trouble`: what that has taken so far.
        failure: The name under which the job failed, if it did.
        message: For people; why it goes on or ended.
    """

    trigger: Trigger
    reason: Reason = Reason.NONE
    not_before_ms: int | None = None
    counts: bool = True
    refused: bool = False
    timed_out: bool = False
    trouble: Failure | None = None
    trouble_ms: int = 0
    failure: Failure = Failure.NONE
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """`delay_ms` is the base of the exponential backoff (CLAUDE_RETRY_DELAY)."""

    delay_ms: int = 5_000


def backoff_ms(attempts: int, rules: RetryRules, *, jitter: float, retry_after_ms: int | None) -> int:
    """Exponential with full jitter; `Retry-After` is a minimum.

    Args:
        attempts: Attempts made so far, at least 1.
        jitter: Uniform in [0, 1).
    """
    ceiling = min(MAX_DELAY_MS, rules.delay_ms * 2 ** min(attempts - 1, 16))
    return max(round(ceiling * jitter), retry_after_ms or 0)


def decide(job: Job, outcome: Outcome, rules: RetryRules, *, now_ms: int, jitter: float) -> Disposition:
    """What becomes of `job` after `outcome`. A requested cancel wins over everything but success."""
    failure = outcome.failure
    if failure is Failure.NONE:
        return Disposition(trigger=Trigger.SUCCEED)
    if job.cancel_why is not None or failure is Failure.CANCELLED:
        return Disposition(trigger=Trigger.CANCEL, failure=Failure.CANCELLED, message=job.cancel_why or outcome.message)
    if failure is Failure.DEADLINE or (job.deadline_ms is not None and now_ms >= job.deadline_ms):
        return Disposition(trigger=Trigger.EXPIRE, failure=Failure.DEADLINE, message="The deadline passed.")
    if failure is Failure.INTERRUPTED:
        return Disposition(trigger=Trigger.RETRY_NOW, counts=False, message="The worker stepped aside.")
    if failure is Failure.QUOTA:
        return _until_reset(job, outcome, now_ms=now_ms)
    if failure in MOVES:
        return _move(job, outcome)
    if failure in REFUSALS:
        return _refusal(job, outcome)
    if failure in PATIENCE_MS and job.spec.max_attempts > 1:
        return _wait_out(job, outcome, rules, now_ms=now_ms, jitter=jitter)
    if failure in TRANSIENT:
        return _again(job, outcome, rules, now_ms=now_ms, jitter=jitter)
    return Disposition(trigger=Trigger.FAIL, failure=failure, message=outcome.message)


def after_loss(job: Job) -> Disposition:
    """What becomes of a job whose worker died: it continues at once, not counted, a bounded number of times."""
    if job.cancel_why is not None:
        return Disposition(trigger=Trigger.CANCEL, failure=Failure.CANCELLED, message=job.cancel_why)
    if job.losses + 1 > MAX_LOSSES:
        message = f"Its worker died {job.losses + 1} times under it. See the worker's log, then retry it."
        return Disposition(trigger=Trigger.FAIL, failure=Failure.OWNER_LOST, message=message)
    return Disposition(trigger=Trigger.LOSE_OWNER, counts=False)


def is_move(job: Job, token: str) -> bool:
    """Whether admitting the queued job on `token` changes its token because of a limit or refusal of the one before.

    A limit met again on the same token is none: there the cool-down grows (policy.tokens).
    """
    was_left = job.reason is Reason.RATE_LIMIT or job.token in job.refused_by
    return was_left and job.token not in ("", token)


def _move(job: Job, outcome: Outcome) -> Disposition:
    if job.moves >= MAX_MOVES:
        message = f"Moved between tokens {job.moves} times without finishing. {outcome.message}".strip()
        return Disposition(trigger=Trigger.FAIL, failure=Failure.TOO_MANY_MOVES, message=message)
    return Disposition(
        trigger=Trigger.RETRY_NOW,
        reason=Reason.RATE_LIMIT,
        counts=False,
        trouble=Failure.NONE,
        message=outcome.message,
    )


def _refusal(job: Job, outcome: Outcome) -> Disposition:
    others = [token for token in job.offers if token != job.token and token not in job.refused_by]
    refusals = len(set(job.refused_by) | {job.token})
    if refusals >= REFUSALS_TO_FAIL or not others:
        return Disposition(trigger=Trigger.FAIL, failure=outcome.failure, message=outcome.message, refused=True)
    return Disposition(
        trigger=Trigger.RETRY_NOW, counts=False, refused=True, trouble=Failure.NONE, message=outcome.message
    )


def _again(job: Job, outcome: Outcome, rules: RetryRules, *, now_ms: int, jitter: float) -> Disposition:
    attempts = job.attempts + 1
    if attempts >= job.spec.max_attempts:
        return Disposition(trigger=Trigger.FAIL, failure=outcome.failure, message=outcome.message)
    delay = backoff_ms(attempts, rules, jitter=jitter, retry_after_ms=outcome.retry_after_ms)
    if job.deadline_ms is not None and now_ms + delay >= job.deadline_ms:
        return _too_late(outcome)
    return Disposition(
        trigger=Trigger.RETRY_LATER,
        reason=Reason.BACKOFF,
        not_before_ms=now_ms + delay,
        timed_out=outcome.failure in {Failure.TIMED_OUT, Failure.STALLED},
        trouble=Failure.NONE,
        message=outcome.message,
    )


def _wait_out(job: Job, outcome: Outcome, rules: RetryRules, *, now_ms: int, jitter: float) -> Disposition:
    """The longer a trouble lasts, the longer the next step, with full jitter: it doubles like any backoff."""
    spent_ms = 0 if outcome.turns else _spent_ms(job, outcome.failure) + outcome.duration_ms
    if spent_ms >= PATIENCE_MS[outcome.failure] or job.troubles + 1 >= MAX_TROUBLES:
        tried = f"It was tried {job.troubles + 1} times; the last trouble lasted {spent_ms // 1000} s."
        message = f"{outcome.message} {tried} Retry it when that is over.".lstrip()
        return Disposition(trigger=Trigger.FAIL, failure=outcome.failure, message=message)
    least_ms, longest_ms = STEP_MS
    delay = round(min(longest_ms, max(least_ms, rules.delay_ms, spent_ms)) * jitter)
    if job.deadline_ms is not None:
        # Half of what is left: a deadline soon makes it look more often instead of not at all.
        delay = min(delay, (job.deadline_ms - now_ms) // 2)
    delay = max(delay, outcome.retry_after_ms or 0)
    if job.deadline_ms is not None and now_ms + delay >= job.deadline_ms:
        return _too_late(outcome)
    return Disposition(
        trigger=Trigger.RETRY_LATER,
        reason=Reason.BACKOFF,
        not_before_ms=now_ms + delay,
        counts=False,
        trouble=outcome.failure,
        trouble_ms=spent_ms + delay,
        message=outcome.message,
    )


def _until_reset(job: Job, outcome: Outcome, *, now_ms: int) -> Disposition:
    """The organization's own quota is used up: nothing was tried, and it goes on when the window ends."""
    not_before_ms = now_ms + min(LONGEST_LIMIT_MS, outcome.retry_after_ms or STEP_MS[1])
    if job.deadline_ms is not None and not_before_ms >= job.deadline_ms:
        return _too_late(outcome)
    return Disposition(
        trigger=Trigger.RETRY_LATER,
        reason=Reason.LIMIT,
        not_before_ms=not_before_ms,
        counts=False,
        message=outcome.message,
    )


def _spent_ms(job: Job, failure: Failure) -> int:
    """What the present trouble has taken so far: the machine's and the API's are two."""
    is_same = job.trouble is not Failure.NONE and (job.trouble in UNSTARTED) == (failure in UNSTARTED)
    return job.trouble_ms if is_same else 0


def _too_late(outcome: Outcome) -> Disposition:
    message = f"The deadline leaves no time for another attempt. {outcome.message}"
    return Disposition(trigger=Trigger.EXPIRE, failure=Failure.DEADLINE, message=message)
