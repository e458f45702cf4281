"""What comes after a provider's failure: the same route again, another key, another model, or the end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from claude_jobs.errors import (
    AuthenticationFailed,
    BadResponse,
    ClaudeJobsError,
    ContentRefused,
    ContextTooLong,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from claude_jobs.policy.breaker import Verdict

BASE_S = 0.5
LONGEST_S = 8.0
BUDGET_SHARE = 0.3
BUDGET_MOST = 10.0
DEAD_KEY_S = 300
"""An exhausted account or a refused key is asked again after this time: somebody may have paid, or mended it."""
SLOW_SHARE = 0.8
"""Of the time that an answer may take: one that came later speaks against its provider."""
FAIR_SHARE = 0.5
"""Of the time that is left: what one attempt gets while somebody else could still answer."""
TOKENS_PER_S = 30.0
"""A slow model's pace: what a whole answer may take beyond the time to its first token."""
COOL_S = 5.0
"""How long a key rests after a 429 that says nothing."""
COOL_LEAST_S = 0.1
"""How long it rests after one that asks for no wait at all."""


class Next(StrEnum):
    """What may help."""

    AGAIN = "again"
    OTHER_KEY = "other_key"
    OTHER_MODEL = "other_model"
    NOTHING = "nothing"


def after(error: ClaudeJobsError) -> Next:
    """What an error leaves to be tried. A refusal of the request itself is refused everywhere."""
    match error:
        case RateLimited() | AuthenticationFailed():
            return Next.OTHER_KEY
        case ProviderTimeout() | ProviderUnavailable() | Overloaded() | BadResponse():
            return Next.AGAIN
        case ModelNotFound() | ContextTooLong() | ContentRefused():
            return Next.OTHER_MODEL
        case _:
            return Next.NOTHING


def verdict(error: ClaudeJobsError, *, is_cut: bool = False) -> Verdict:
    """What an error says of the provider: its own faults only. `is_cut`: the caller allowed less time than we do."""
    if is_cut and isinstance(error, ProviderTimeout):
        return Verdict.NEUTRAL
    return Verdict.FAULT if isinstance(error, ProviderError) and error.is_provider_fault else Verdict.NEUTRAL


def cooling_s(error: ClaudeJobsError) -> float:
    """How long the key is left alone for this model, 0 for not at all."""
    if isinstance(error, AuthenticationFailed):  # a 403 may be about the one model only
        return 0.0 if kills_key(error) else float(DEAD_KEY_S)
    if not isinstance(error, RateLimited):
        return 0.0
    if error.is_exhausted:
        return float(DEAD_KEY_S)
    return COOL_S if error.retry_after_s is None else max(COOL_LEAST_S, error.retry_after_s)


def kills_key(error: ClaudeJobsError) -> bool:
    """Whether the key is of no use any more, for any model."""
    return isinstance(error, AuthenticationFailed) and (error.is_key_refused or error.status in (401, 402))


def is_slow(took_s: float, request_timeout_s: float, whole_tokens: int) -> bool:
    """Whether an answer came so late that it speaks against its provider.

    Args:
        took_s: To its first piece, or to all of it if it came whole.
        whole_tokens: The most it may have had, 0 if it came in pieces.
    """
    return took_s > SLOW_SHARE * (request_timeout_s + whole_tokens / TOKENS_PER_S)


def patience_s(left_s: float, *, has_others: bool) -> float:
    """How long one attempt may take of the time that is left: all of it, or half while somebody else could still answer.

    So whoever hangs leaves real time to the next, and that one to the one after it: of three the first gets half of the
    time, the others a quarter each.
    """
    return max(0.001, left_s * FAIR_SHARE if has_others else left_s)


def pause_s(retries: int, rnd: float, retry_after_s: float | None) -> float:
    """How long to wait before the next attempt at the same route: full jitter over a doubling base, Retry-After as a minimum.

    Args:
        retries: Attempts that failed so far, at least 1.
        rnd: In [0, 1).
    """
    jittered = rnd * min(LONGEST_S, BASE_S * 2.0 ** (retries - 1))
    return jittered if retry_after_s is None else retry_after_s + jittered


@dataclass(slots=True)
class RetryBudget:
    """Further attempts may be at most `share` of the calls, over a little stock: an outage is not answered with a storm."""

    left: float = BUDGET_MOST
    share: float = BUDGET_SHARE
    most: float = BUDGET_MOST

    def call(self) -> None:
        """A first attempt was made."""
        self.left = min(self.most, self.left + self.share)

    def take(self) -> bool:
        """Whether one more may be made."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True

    def give_back(self) -> None:
        """The one that was taken was not made."""
        self.left = min(self.most, self.left + 1.0)
