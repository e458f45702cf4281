"""Points in time as callers write them: ISO 8601, or how long from now. Pure but for this machine's time zone."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from claude_jobs.errors import InvalidRequest

MAX_AHEAD_S = 10 * 366 * 86_400
"""No moment is further away. Every epoch time of our days, taken for seconds from now, is."""
MAX_CHARS = 64
EXAMPLES = '"30m", "2h", "1d12h", 90 (seconds), "2026-11-22T10:00Z" or "2026-11-22 10:00" (local time)'

_UNITS_S = {"w": 7 * 86_400.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BARE = re.compile(rf"\+?({_NUMBER})")
_SPAN = re.compile(r"\+?\s*" + r"\s*".join(rf"(?:({_NUMBER})\s*{unit})?" for unit in _UNITS_S))


def parse_moment(value: str | int | float, now_ms: int, field: str, *, zone: str = "") -> int:
    """The moment in epoch milliseconds; it may be past.

    Args:
        value: "30m", "+45s", "1d12h" (units w d h m s, in this order, each once) or a number of seconds: from now.
            Else ISO 8601, a date alone being its first moment. Of a local time that comes twice the first is meant,
            and one that the clocks skip lies as long after the change as it is written after it.
        field: Named in the error.
        zone: The caller's TZ ("Europe/Berlin"), for times without a zone; if it names no known one, this machine's.

    Raises:
        InvalidRequest: It is none of these, or more than ten years ahead.
    """
    span_s = _span_s(value, field)
    at_ms = now_ms + round(span_s * 1000) if span_s is not None else _absolute_ms(str(value).strip(), field, zone)
    if at_ms - now_ms > MAX_AHEAD_S * 1000:
        raise _refused(value, field, "is more than ten years ahead (an epoch time is not taken)")
    return at_ms


def parse_past(value: str | int | float, now_ms: int, field: str, *, zone: str = "") -> int:
    """As `parse_moment`, but that a span is how long ago: "7d" is a week before now."""
    span_s = _span_s(value, field)
    return _absolute_ms(str(value).strip(), field, zone) if span_s is None else now_ms - round(span_s * 1000)


def _span_s(value: str | int | float, field: str) -> float | None:
    """Seconds from now; None if it is written as a point in time."""
    if isinstance(value, bool):
        raise _refused(value, field, "is no time")
    if not isinstance(value, str):
        # Compared before it is converted: an int can be larger than any float.
        if not 0 <= value <= MAX_AHEAD_S:
            is_number = isinstance(value, int) or math.isfinite(value)
            raise _refused(value, field, "is not within the next ten years" if is_number else "is no number of seconds")
        return float(value)
    text = value.strip().lower()
    if not text or len(text) > MAX_CHARS:
        raise _refused(value, field, "is no time")
    bare = _BARE.fullmatch(text)
    if bare:
        return float(bare.group(1))
    parts = _SPAN.fullmatch(text)
    if parts is None or not any(parts.groups()):
        return None
    return sum(
        float(number) * unit_s for number, unit_s in zip(parts.groups(), _UNITS_S.values(), strict=True) if number
    )


def _absolute_ms(text: str, field: str, zone: str) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=_zone(zone))
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise _refused(text, field, "is no time") from None


def _zone(name: str) -> tzinfo | None:
    """None is this machine's zone, as the C library knows it."""
    if name in ("UTC", "UTC0"):
        return UTC
    try:
        return ZoneInfo(name.removeprefix(":")) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _refused(value: object, field: str, why: str) -> InvalidRequest:
    said = repr(value) if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 10**30) else "It"
    said = said if len(said) <= MAX_CHARS else said[: MAX_CHARS - 1] + "…"
    return InvalidRequest(f"{field}={said} {why}. Write it as {EXAMPLES}.", field=field)
