"""Reservations: amounts that are held until they are settled or their lease ends."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from claude_jobs.policy.quota import Quota, QuotaUse, Unit
from claude_jobs.stores.gate import Settlement
from claude_jobs.stores.sqlite.gate import counters

SWEEP = 256
"""Expired reservations that one operation frees at most; who is refused goes on until none is left."""
_DUE = "SELECT id, amounts FROM holds WHERE is_open = 1 AND until_ms <= ? LIMIT ?"
_TAKE = "INSERT INTO holds VALUES (?, ?, ?, 1, ?)"
_RENEW = "UPDATE holds SET until_ms = ?, is_open = 1 WHERE id = ?"


def sweep(connection: sqlite3.Connection, now_ms: int) -> int:
    """Give back what reservations hold whose lease ended. They stay, so that a late settlement is booked."""
    due = connection.execute(_DUE, (now_ms, SWEEP)).fetchall()
    if due:
        freed: Counter[int] = Counter()
        for _, amounts in due:
            for counter, _, amount in counters.parse(amounts):
                freed[counter] += amount
        counters.move(connection, [(0, -amount, counter) for counter, amount in freed.items()])
        connection.executemany("UPDATE holds SET is_open = 0 WHERE id = ?", [(hold_id,) for hold_id, _ in due])
    return len(due)


def take(connection: sqlite3.Connection, hold_id: str, owner: str, until_ms: int, amounts: str) -> None:
    """Write the reservation down. One of the same id that is still there (an answer that was never heard) gives way."""
    values = (hold_id, owner, until_ms, amounts)
    try:
        connection.execute(_TAKE, values)
    except sqlite3.IntegrityError:
        settle(connection, Settlement(id=hold_id, now_ms=0, tokens=0, nusd=0, requests=0))
        connection.execute(_TAKE, values)


def settle(connection: sqlite3.Connection, settlement: Settlement) -> bool:
    """Book what was used into the windows that reserved. False: there is no such reservation any more."""
    found = connection.execute("DELETE FROM holds WHERE id = ? RETURNING is_open, amounts", (settlement.id,)).fetchall()
    for is_open, amounts in found:
        parts = counters.parse(amounts)
        changes = [(_used(unit, n, settlement), -n if is_open else 0, counter) for counter, unit, n in parts]
        counters.move(connection, changes)
    return bool(found)


def _used(unit: str, reserved: int, settlement: Settlement) -> int:
    if unit == Unit.TOKENS:
        return reserved if settlement.tokens is None else settlement.tokens
    if unit == Unit.NUSD:
        return reserved if settlement.nusd is None else settlement.nusd
    return reserved if settlement.requests else 0


def renew(connection: sqlite3.Connection, ids: Sequence[str], until_ms: int) -> tuple[str, ...]:
    """See GateStore."""
    held: list[str] = []
    for hold_id in ids:
        row = connection.execute("SELECT is_open, amounts FROM holds WHERE id = ?", (hold_id,)).fetchone()
        if row is None:
            continue
        held.append(hold_id)
        if not row[0]:
            again = [(0, amount, counter) for counter, _, amount in counters.parse(row[1])]
            counters.move(connection, again)
        connection.execute(_RENEW, (until_ms, hold_id))
    return tuple(held)


def uses(connection: sqlite3.Connection, quotas: Sequence[Quota], now_ms: int) -> tuple[QuotaUse, ...]:
    """See GateStore. What nobody has swept yet is not held."""
    windows = counters.load(connection, [(quota, 0) for quota in quotas], now_ms)
    expired: Counter[int] = Counter()
    for _, amounts in connection.execute(_DUE, (now_ms, -1)):
        for counter, _, amount in counters.parse(amounts):
            expired[counter] += amount
    for window in windows:
        if window.row is not None:
            window.held -= expired[window.row]
    return tuple(window.use() for window in windows)
