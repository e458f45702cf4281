"""The state of rates: one time per rate, as policy.rates has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

from claude_jobs.policy import rates as rules
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import Refused, RefusedBy

_SAVE = "INSERT INTO rates VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET tat_us = excluded.tat_us"


@lru_cache(maxsize=64)
def _select(count: int) -> str:
    return f"SELECT id, tat_us FROM rates WHERE id IN ({','.join('?' * count)})"  # noqa: S608


def decide(connection: sqlite3.Connection, asked: Sequence[tuple[Rate, int]], now_ms: int) -> dict[str, int] | Refused:
    """What their times become, or which of them says to wait. Writes nothing."""
    times: dict[str, int] = dict(connection.execute(_select(len(asked)), [rate.id for rate, _ in asked]).fetchall())
    for rate, cost in asked:
        tat_us, wait_ms = rules.decide(times.get(rate.id, 0), rate, cost, now_ms)
        if wait_ms:
            return Refused(
                by=RefusedBy.RATE,
                counter=rate.id,
                limit=rate.per_minute,
                asked=cost,
                retry_at_ms=now_ms + wait_ms if rate.per_minute else 0,
            )
        times[rate.id] = tat_us
    return times


def save(connection: sqlite3.Connection, times: dict[str, int]) -> None:
    """Write the new times."""
    connection.executemany(_SAVE, times.items())
