"""Looks, and answers that are being made: who makes which, until when, and how it ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from claude_jobs.stores.gate import CacheEntry, Landing, Look, LookAsk
from claude_jobs.stores.sqlite.gate.cache import LATEST

_LOOK = f"""SELECT c.seq, e.id, e.org, e.provider, e.model, e.created_ms, e.fresh_until_ms, e.stale_until_ms,
        e.seq >= COALESCE({LATEST}, 0), b.value, f.owner, f.fence, f.until_ms, f.failed_ms, f.error
    FROM cache c LEFT JOIN entries e ON e.key = ? LEFT JOIN bodies b ON b.entry_id = e.id
    LEFT JOIN flights f ON f.key = ?"""  # noqa: S608
_CLAIM = """INSERT INTO flights VALUES (?, ?, ?, ?, 0, '') ON CONFLICT (key) DO UPDATE SET
    owner = excluded.owner, fence = excluded.fence, until_ms = excluded.until_ms"""
_FAIL = "UPDATE flights SET until_ms = 0, failed_ms = ?, error = ? WHERE key = ? AND fence = ? AND until_ms > 0"
KEEP_MS = 600_000
"""How long the error of a flight is kept for those who wait for it, and a flight that nobody landed."""
SKEW_MS = 1_000
"""An error from further in the future was stored before the clock was set back: nobody waits for it any more."""


def look(connection: sqlite3.Connection, ask: LookAsk, *, may_claim: bool) -> Look | None:
    """See GateStore. None: the flight is to be claimed, and must not be here."""
    row = connection.execute(_LOOK, (ask.key, ask.key)).fetchone()
    seq, owner, fence, until_ms, failed_ms, error = row[0], *row[10:]
    is_flying = bool(until_ms) and until_ms > ask.now_ms
    entry = _entry(ask, row)
    if entry is not None:
        if ask.now_ms < entry.fresh_until_ms:
            return Look(what="hit", entry=entry, seq=seq)
        if is_flying or not ask.owner:
            return Look(what="stale", entry=entry, seq=seq)
        return Look(what="stale", entry=entry, fence=_claim(connection, ask, 0), seq=seq) if may_claim else None
    if failed_ms and 0 < ask.since_ms < failed_ms <= ask.now_ms + SKEW_MS:
        return Look(what="failed", error=error, seq=seq)
    if not ask.owner:
        return Look(what="miss", seq=seq)
    if is_flying:
        # Who looks again for what it makes itself has lost it: a caller that was cancelled, an answer never heard.
        return Look(what="lead", fence=fence, seq=seq) if owner == ask.owner else Look(what="follow", seq=seq)
    return Look(what="lead", fence=_claim(connection, ask, 1), seq=seq) if may_claim else None


def _entry(ask: LookAsk, row: tuple[Any, ...]) -> CacheEntry | None:
    _, found, org, provider, model, created_ms, fresh_until_ms, stale_until_ms, is_valid, value, *_ = row
    if found is None or not is_valid or ask.now_ms >= max(fresh_until_ms, stale_until_ms):
        return None
    return CacheEntry(
        key=ask.key,
        org=org,
        provider=provider,
        model=model,
        value=value,
        created_ms=created_ms,
        fresh_until_ms=fresh_until_ms,
        stale_until_ms=stale_until_ms,
    )


def _claim(connection: sqlite3.Connection, ask: LookAsk, misses: int) -> int:
    """The flight is the asker's from now on. Those who still wait for the one before get its error nevertheless."""
    row = connection.execute("UPDATE cache SET fence = fence + 1, misses = misses + ? RETURNING fence", (misses,))
    fence = int(row.fetchone()[0])
    connection.execute(_CLAIM, (ask.key, ask.owner, fence, ask.now_ms + ask.lease_ms))
    return fence


def land(connection: sqlite3.Connection, landing: Landing, now_ms: int) -> None:
    """End a flight; nothing happens if it is another's by now."""
    if landing.error:
        connection.execute(_FAIL, (now_ms, landing.error, landing.key, landing.fence))
        return
    names = (landing.key, landing.fence)
    if connection.execute("DELETE FROM flights WHERE key = ? AND fence = ? AND error = ''", names).rowcount == 0:
        connection.execute("UPDATE flights SET until_ms = 0 WHERE key = ? AND fence = ?", names)


def renew(connection: sqlite3.Connection, flights: Sequence[tuple[str, int]], until_ms: int) -> None:
    """See GateStore."""
    connection.executemany(
        "UPDATE flights SET until_ms = ? WHERE key = ? AND fence = ? AND until_ms > 0",
        [(until_ms, key, fence) for key, fence in flights],
    )
