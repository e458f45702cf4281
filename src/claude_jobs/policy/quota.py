"""Quotas: how much of something may be used within a fixed window. Pure; amounts are integers.

How fast it may be used is another matter: see `policy.rates`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from claude_jobs.errors import InvalidRequest

WARN_PERCENT = (95, 80)
"""Whose quota is used so far is warned with every call."""
LONGEST_WINDOW_S = 366 * 86_400

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_WEEK_MS = 7 * _DAY_MS
_MONDAY_MS = 4 * _DAY_MS
"""1970-01-05, the first Monday of the epoch."""
_FIXED_MS = {"hour": (_HOUR_MS, 0), "day": (_DAY_MS, 0), "week": (_WEEK_MS, _MONDAY_MS)}
_NUSD_PER_USD = 10**9


class Unit(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    NUSD = "nusd"


class Scope(StrEnum):
    """Whose quota it is."""

    ORG = "org"
    KEY = "key"
    MODEL = "model"
    CLI = "cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A limit per window.

    Attributes:
        subject: Org, key fingerprint, "provider/model", or the org of CLI jobs; "" is each one separately (a default).
        window: Seconds as text ("3600": windows begin at multiples of it since the epoch) or "hour", "day", "week", "month" (UTC).
        limit: 0 means nothing at all.
    """

    scope: Scope
    subject: str
    unit: Unit
    limit: int
    window: str

    @property
    def id(self) -> str:
        """What its counter is kept under, without the limit: who lowers the limit keeps what was used."""
        return f"{self.scope}:{self.subject}|{self.unit}|{self.window}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """Where a quota stands: settled, held by reservations, and the window."""

    quota: Quota
    used: int
    held: int
    starts_ms: int
    resets_ms: int


def parse_window(text: str) -> str:
    """A window as it is kept: seconds without leading zeros, or the name of a calendar period.

    Raises:
        InvalidRequest: It is no window.
    """
    window = text.strip().lower()
    if window in _FIXED_MS or window == "month":
        return window
    if window.isascii() and window.isdigit() and len(window) <= 9 and 0 < int(window) <= LONGEST_WINDOW_S:
        return str(int(window))
    message = (
        f'No window {text!r}. Give seconds from 1 to {LONGEST_WINDOW_S} ("3600"), '
        "or one of hour, day, week, month (UTC, weeks begin on Monday)."
    )
    raise InvalidRequest(message, field="window")


def bounds(window: str, now_ms: int) -> tuple[int, int]:
    """The window that `now_ms` is in, [start, reset) in epoch milliseconds. It is part of a counter's name: no reset is ever missed.

    Raises:
        InvalidRequest: Nobody knows such a window.
    """
    if window == "month":
        return _month(now_ms)
    known = _FIXED_MS.get(window)
    length_ms, anchor_ms = known or (int(parse_window(window)) * 1_000, 0)
    starts_ms = now_ms - (now_ms - anchor_ms) % length_ms
    return starts_ms, starts_ms + length_ms


def _month(now_ms: int) -> tuple[int, int]:
    day = datetime.fromtimestamp(now_ms // 1_000, UTC)
    starts = datetime(day.year, day.month, 1, tzinfo=UTC)
    resets = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return int(starts.timestamp()) * 1_000, int(resets.timestamp()) * 1_000


def fits(limit: int, used: int, held: int, amount: int) -> bool:
    """Whether `amount` may be reserved beside what is settled and held. A limit of 0 lets nothing pass, not even nothing."""
    return limit > 0 and used + held + amount <= limit


def retry_at(limit: int, amount: int, resets_ms: int) -> int:
    """When asking again is worth it after a denial; 0 if it never is."""
    return resets_ms if limit > 0 and amount <= limit else 0


def warning(use: QuotaUse, amount: int) -> str:
    """A line for people once a quota is at 80 % or 95 % with `amount` more, else ""."""
    quota, total = use.quota, use.used + use.held + amount
    reached = next((percent for percent in WARN_PERCENT if total * 100 >= percent * quota.limit), 0)
    if not reached or quota.limit <= 0:
        return ""
    resets = datetime.fromtimestamp(use.resets_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    have = f"{_amount(quota.unit, total)} of {_amount(quota.unit, quota.limit)}"
    return f"Quota of {speak(quota)}: at {total * 100 // quota.limit} % ({have}). It resets at {resets} UTC."


def speak(quota: Quota) -> str:
    """Which quota it is, for people: "org acme, tokens per 3600 s"."""
    whose = "CLI jobs of org" if quota.scope is Scope.CLI else quota.scope
    unit = "dollars" if quota.unit is Unit.NUSD else quota.unit
    period = f"{quota.window} s" if quota.window.isdigit() else quota.window
    return f"{whose} {quota.subject or '(each)'}, {unit} per {period}"


def _amount(unit: Unit, amount: int) -> str:
    return f"${amount / _NUSD_PER_USD:,.4f}" if unit is Unit.NUSD else f"{amount:,} {unit}"
