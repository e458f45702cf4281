"""Quotas that were set, and what was used of each in each of its windows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

from claude_jobs.policy import quota as rules
from claude_jobs.policy.quota import Quota, QuotaUse, Scope, Unit
from claude_jobs.stores.gate import Refused, RefusedBy

MOST_WINDOWS = 100
_INSERT = """INSERT INTO counters (key, used, held, resets_ms) VALUES (?, 0, ?, ?)
    ON CONFLICT (key) DO UPDATE SET held = held + excluded.held RETURNING id"""


class Window:
    """The present window of one quota, and what is asked of it. `row` is None while nothing was counted in it."""

    __slots__ = ("amount", "held", "key", "quota", "resets_ms", "row", "starts_ms", "used")

    def __init__(self, quota: Quota, amount: int, now_ms: int) -> None:
        self.quota = quota
        self.amount = amount
        self.starts_ms, self.resets_ms = _bounds(quota.window, now_ms)
        self.key = f"{quota.id}|{self.starts_ms}"
        self.row: int | None = None
        self.used = 0
        self.held = 0

    def use(self) -> QuotaUse:
        """Where it stands."""
        return QuotaUse(
            quota=self.quota, used=self.used, held=self.held, starts_ms=self.starts_ms, resets_ms=self.resets_ms
        )


_present: dict[str, tuple[int, int]] = {}
"""The window of each kind that was asked for last: calendars are slow to compute."""


def _bounds(window: str, now_ms: int) -> tuple[int, int]:
    known = _present.get(window)
    if known is None or not known[0] <= now_ms < known[1]:
        known = rules.bounds(window, now_ms)
        if len(_present) < MOST_WINDOWS or window in _present:
            _present[window] = known
    return known


@lru_cache(maxsize=64)
def _select(count: int) -> str:
    return f"SELECT key, id, used, held FROM counters WHERE key IN ({','.join('?' * count)})"  # noqa: S608


def load(connection: sqlite3.Connection, asked: Sequence[tuple[Quota, int]], now_ms: int) -> list[Window]:
    """Windows as they stand, in one read."""
    windows = [Window(quota, amount, now_ms) for quota, amount in asked]
    if windows:
        found = {row[0]: row for row in connection.execute(_select(len(windows)), [one.key for one in windows])}
        for window in windows:
            if row := found.get(window.key):
                _, window.row, window.used, window.held = row
    return windows


def refusal(windows: Sequence[Window]) -> Refused | None:
    """The first quota that the amounts do not fit in."""
    for window in windows:
        quota, amount = window.quota, window.amount
        if not rules.fits(quota.limit, window.used, window.held, amount):
            return Refused(
                by=RefusedBy.QUOTA,
                counter=rules.speak(quota),
                limit=quota.limit,
                used=window.used + window.held,
                asked=amount,
                retry_at_ms=rules.retry_at(quota.limit, amount, window.resets_ms),
                is_org=quota.scope in (Scope.ORG, Scope.CLI),
            )
    return None


def warnings(windows: Sequence[Window]) -> tuple[str, ...]:
    """What is to be said once the amounts are taken."""
    said = [rules.warning(window.use(), window.amount) for window in windows]
    return tuple(text for text in said if text)


def hold(connection: sqlite3.Connection, windows: Sequence[Window]) -> str:
    """Hold the amounts. Gives them as a hold's `amounts`."""
    held = [(window.amount, window.row) for window in windows if window.row is not None]
    if held:
        connection.executemany("UPDATE counters SET held = held + ? WHERE id = ?", held)
    for window in windows:
        if window.row is None:
            values = (window.key, window.amount, window.resets_ms)
            (window.row,) = connection.execute(_INSERT, values).fetchone()
    return " ".join([f"{window.row}:{window.quota.unit}:{window.amount}" for window in windows])


def parse(amounts: str) -> list[tuple[int, str, int]]:
    """(counter, unit, amount) of a hold."""
    parts = (part.split(":") for part in amounts.split(" ") if part)
    return [(int(counter), unit, int(amount)) for counter, unit, amount in parts]


def move(connection: sqlite3.Connection, changes: Sequence[tuple[int, int, int]]) -> None:
    """Add (used, held) to counters; those that were cleaned away meanwhile stay away."""
    if changes:
        connection.executemany("UPDATE counters SET used = used + ?, held = held + ? WHERE id = ?", changes)


def quotas(connection: sqlite3.Connection) -> tuple[Quota, ...]:
    """See GateStore."""
    rows = connection.execute("SELECT scope, subject, unit, amount, period FROM quotas ORDER BY id")
    return tuple(
        Quota(scope=Scope(scope), subject=subject, unit=Unit(unit), limit=limit, window=window)
        for scope, subject, unit, limit, window in rows
    )


def set_quota(connection: sqlite3.Connection, quota: Quota) -> None:
    """See GateStore."""
    values = (quota.id, quota.scope.value, quota.subject, quota.unit.value, quota.limit, quota.window)
    connection.execute("INSERT OR REPLACE INTO quotas VALUES (?, ?, ?, ?, ?, ?)", values)


def drop_quota(connection: sqlite3.Connection, quota_id: str) -> bool:
    """See GateStore."""
    return connection.execute("DELETE FROM quotas WHERE id = ?", (quota_id,)).rowcount > 0
