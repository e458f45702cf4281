"""What is known of a provider's key: cooling down, dead, and the limits that the provider announces. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from claude_jobs.domain.generation import RateHeaders

LONGEST_MS = 8 * 86_400_000
"""No key cools longer: what seems to was said before the clock was set back."""
UNSAID_RESET_MS = 60_000
"""When a limit comes back of which a provider does not say so: they all count by the minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """State of (provider, key, model); a death is that of the key for all models.

    Attributes:
        cooling_until_ms: After a 429, or when the announced limit is used up.
        dead: Why it is not used at all, "" if it is.
        requests_left, tokens_left: As announced, minus what was reserved since; None if unknown or past their reset.
    """

    cooling_until_ms: int = 0
    dead: str = ""
    requests_limit: int | None = None
    requests_left: int | None = None
    requests_reset_ms: int = 0
    tokens_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset_ms: int = 0


def admit(state: KeyState, needs_tokens: int, now_ms: int) -> KeyState | int:
    """One attempt with this key.

    Returns:
        The state after it took its share of the announced limits; or when it is worth asking again, epoch milliseconds,
        0 for a dead key.
    """
    if state.dead:
        return 0
    has_requests = state.requests_left is not None and _is_ahead(state.requests_reset_ms, now_ms)
    has_tokens = state.tokens_left is not None and _is_ahead(state.tokens_reset_ms, now_ms)
    requests_left = state.requests_left if has_requests else None
    tokens_left = state.tokens_left if has_tokens else None
    waits = [
        state.cooling_until_ms if _is_ahead(state.cooling_until_ms, now_ms) else 0,
        state.requests_reset_ms if requests_left is not None and requests_left < 1 else 0,
        state.tokens_reset_ms if tokens_left is not None and tokens_left < _needs(state, needs_tokens) else 0,
    ]
    if any(waits):
        return max(waits)
    if requests_left is None and tokens_left is None and state.requests_left is None and state.tokens_left is None:
        return state
    return replace(
        state,
        requests_left=None if requests_left is None else requests_left - 1,
        tokens_left=None if tokens_left is None else max(0, tokens_left - needs_tokens),
    )


def _is_ahead(until_ms: int, now_ms: int) -> bool:
    """Whether it is still to come (see LONGEST_MS)."""
    return now_ms < until_ms <= now_ms + LONGEST_MS


def _needs(state: KeyState, needs_tokens: int) -> int:
    """An attempt that may use more than the whole limit is let go with a full one: the estimate is an upper bound."""
    return needs_tokens if state.tokens_limit is None else min(needs_tokens, state.tokens_limit)


def heard(state: KeyState, headers: RateHeaders, now_ms: int) -> KeyState:
    """What an answer said of the limits replaces what was known; where it said nothing, that stays."""
    requests_left, tokens_left = headers.requests_left, headers.tokens_left
    return replace(
        state,
        requests_limit=state.requests_limit if headers.requests_limit is None else headers.requests_limit,
        requests_left=state.requests_left if requests_left is None else requests_left,
        requests_reset_ms=(
            state.requests_reset_ms if requests_left is None else _reset_ms(headers.requests_reset_s, now_ms)
        ),
        tokens_limit=state.tokens_limit if headers.tokens_limit is None else headers.tokens_limit,
        tokens_left=state.tokens_left if tokens_left is None else tokens_left,
        tokens_reset_ms=state.tokens_reset_ms if tokens_left is None else _reset_ms(headers.tokens_reset_s, now_ms),
    )


def _reset_ms(reset_s: float | None, now_ms: int) -> int:
    if reset_s is None:
        return now_ms + UNSAID_RESET_MS
    return now_ms + min(LONGEST_MS, math.ceil(max(0.0, reset_s) * 1_000))


def cooled(state: KeyState, until_ms: int) -> KeyState:
    """It rests until then, or as long as was known already if that is longer."""
    known_ms = state.cooling_until_ms if state.cooling_until_ms <= until_ms + LONGEST_MS else 0
    return replace(state, cooling_until_ms=max(known_ms, until_ms))


def killed(state: KeyState, why: str) -> KeyState:
    """It is not used any more until it is revived; the first reason stays."""
    return replace(state, dead=state.dead or why or "refused")


def is_telling(state: KeyState, now_ms: int) -> bool:
    """Whether it is worth showing: dead, cooling, or with limits of which something is known now."""
    limits = ((state.requests_left, state.requests_reset_ms), (state.tokens_left, state.tokens_reset_ms))
    is_known = any(left is not None and _is_ahead(reset_ms, now_ms) for left, reset_ms in limits)
    return bool(state.dead) or is_known or _is_ahead(state.cooling_until_ms, now_ms)
