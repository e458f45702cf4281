"""What a provider's headers say of waiting and of limits, in all their dialects. Pure; nonsense is ignored, never raised.

Sources: RFC 9110 §10.2.3 (Retry-After), the rate-limit pages of OpenAI, Anthropic, xAI and Azure, google.rpc.RetryInfo.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import cast

from claude_jobs.domain.generation import RateHeaders

LONGEST_S = 86_400.0
"""No wait is believed to be longer than a day."""

_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_Names = tuple[str, str, str]
"""The headers that tell one limit, what is left of it, and when it is full."""


def _openai(kind: str) -> _Names:
    return f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"


def _anthropic(kind: str) -> _Names:
    prefix = f"anthropic-ratelimit-{kind}"
    return f"{prefix}-limit", f"{prefix}-remaining", f"{prefix}-reset"


_REQUESTS = (_openai("requests"), _anthropic("requests"))
_TOKENS = (_openai("tokens"), _anthropic("tokens"), _anthropic("input-tokens"))
"""In the order in which they are believed."""
_ALL = (*_REQUESTS, *_TOKENS, _anthropic("output-tokens"))

_EPOCH_S = 1e9
"""A number from here on is a point in time: as a duration it were 31 years. From 1e11 on it counts milliseconds."""
_EPOCH_MS = 1e11
_LONGEST_TEXT = 64

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?")
_WHOLE = re.compile(r"(-?)([0-9]{1,18})(?:\.0*)?")
_DURATION = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?(?:ms|us|µs|ns|d|h|m|s))+")
_PIECE = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ms|us|µs|ns|d|h|m|s)")
_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def retry_after_s(headers: Mapping[str, str], now_s: float, details: Sequence[object] = ()) -> float | None:
    """How long a refused caller is asked to wait, in seconds from 0 to a day; None if nothing usable is said.

    An outright word (Retry-After, its forms in milliseconds, RetryInfo) goes before the time at which a limit is full
    again, and of those only count limits that are used up or whose rest is not told.

    Args:
        headers: In any case.
        now_s: Epoch seconds.
        details: `error.details` of a Google error body.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    for name in _MILLISECONDS:
        if name in lowered and (number := _number(lowered[name])) is not None:
            return _bounded(number / 1_000)
    said = _moment(lowered.get("retry-after", ""), now_s)
    if said is None:
        said = _retry_info(details)
    if said is None:
        said = _longest_reset(lowered, now_s)
    return None if said is None else _bounded(said)


def rate_headers(headers: Mapping[str, str], now_s: float) -> RateHeaders | None:
    """What the headers say of the key's limits (OpenAI, xAI, DashScope, Azure; Anthropic); None if they say nothing.

    Anthropic's plain `tokens` figures are those of its tightest limit; without them, input tokens stand for tokens.
    """
    lowered = {low: value for name, value in headers.items() if "ratelimit" in (low := name.lower())}
    if not lowered:
        return None
    requests = next(filter(None, (_limit(lowered, names, now_s) for names in _REQUESTS)), None)
    tokens = next(filter(None, (_limit(lowered, names, now_s) for names in _TOKENS)), None)
    if requests is None and tokens is None:
        return None
    requests, tokens = requests or _NOTHING, tokens or _NOTHING
    return RateHeaders(
        requests_limit=requests[0],
        requests_left=requests[1],
        requests_reset_s=requests[2],
        tokens_limit=tokens[0],
        tokens_left=tokens[1],
        tokens_reset_s=tokens[2],
    )


_Limit = tuple[int | None, int | None, float | None]
"""Limit, what is left of it, and seconds until it is full."""
_NOTHING: _Limit = (None, None, None)


def _limit(lowered: Mapping[str, str], names: _Names, now_s: float) -> _Limit | None:
    if lowered.keys().isdisjoint(names):
        return None
    limit, left, reset = (lowered.get(name, "") for name in names)
    reset_s = _moment(reset, now_s)
    found = (_whole(limit), _whole(left), None if reset_s is None else _bounded(reset_s))
    return None if found == _NOTHING else found


def _longest_reset(lowered: Mapping[str, str], now_s: float) -> float | None:
    limits = [_limit(lowered, names, now_s) for names in _ALL]
    return max((limit[2] for limit in limits if limit and limit[2] is not None and not limit[1]), default=None)


def _retry_info(details: Sequence[object]) -> float | None:
    """`{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}` among the details."""
    for detail in details:
        if isinstance(detail, Mapping):
            delay = cast("Mapping[object, object]", detail).get("retryDelay")
            if isinstance(delay, str) and (seconds := _duration(delay.strip())) is not None:
                return seconds
    return None


def _moment(text: str, now_s: float) -> float | None:
    """Seconds until what `text` says: a number of seconds, an epoch, "6m0s", an RFC 3339 stamp or an HTTP date."""
    text = text.strip()
    if not text or len(text) > _LONGEST_TEXT:
        return None
    number = _number(text)
    if number is None:
        number = _duration(text)
    if number is None:
        at_s = _stamp(text)
        return None if at_s is None else at_s - now_s
    if number >= _EPOCH_MS:
        return number / 1_000 - now_s
    return number - now_s if number >= _EPOCH_S else number


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _duration(text: str) -> float | None:
    if len(text) > _LONGEST_TEXT or not _DURATION.fullmatch(text):
        return None
    seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in _PIECE.findall(text))
    return -seconds if text.startswith("-") else seconds


def _stamp(text: str) -> float | None:
    """Epoch seconds; without a zone it is UTC."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = parse(text)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _whole(text: str) -> int | None:
    match = _WHOLE.fullmatch(text.strip())
    if match is None:
        return None
    return 0 if match[1] else int(match[2])


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)
