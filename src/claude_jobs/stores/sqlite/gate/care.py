"""Removing what nobody needs any more, a bounded number of rows at once."""

from __future__ import annotations

import sqlite3

from claude_jobs.stores.sqlite.gate import cache, flights, holds, ledger

BATCH = 500
"""Rows of each table that go at once."""
RATE_KEEP_US = 3_600_000_000
STATE_KEEP_MS = 86_400_000
"""Counters and routes are kept at least this long, however little of the ledger is."""
_OLD_CALLS = "DELETE FROM calls WHERE seq IN (SELECT seq FROM calls WHERE seq < ? ORDER BY seq LIMIT ?)"
_LOST_HOLDS = "DELETE FROM holds WHERE id IN (SELECT id FROM holds WHERE is_open = 0 AND until_ms < ? LIMIT ?)"
_OLD_COUNTERS = """DELETE FROM counters WHERE id IN (
    SELECT id FROM counters WHERE resets_ms < ? AND held = 0 LIMIT ?)"""
_OLD_FLIGHTS = "DELETE FROM flights WHERE key IN (SELECT key FROM flights WHERE until_ms < ? AND failed_ms < ? LIMIT ?)"
_OLD_RATES = "DELETE FROM rates WHERE id IN (SELECT id FROM rates WHERE tat_us < ? LIMIT ?)"
_OLD_ROUTES = """DELETE FROM routes WHERE (provider, model, key) IN (
    SELECT provider, model, key FROM routes
    WHERE phase = 'closed' AND MAX(seen_ms, cooling_until_ms, requests_reset_ms, tokens_reset_ms) < ?
    AND NOT EXISTS (SELECT 1 FROM dead_keys d WHERE d.provider = routes.provider AND d.key = routes.key) LIMIT ?)"""


def clean(connection: sqlite3.Connection, now_ms: int, keep_ms: int) -> int:
    """See GateStore. Counters, flights, rates and routes that say nothing any more go, too, and are not counted."""
    before_ms, landed_ms = now_ms - keep_ms, now_ms - flights.KEEP_MS
    quiet_ms = now_ms - max(keep_ms, STATE_KEEP_MS)
    holds.sweep(connection, now_ms)
    calls = connection.execute(_OLD_CALLS, (before_ms * ledger.PER_MS, BATCH)).rowcount
    lost = connection.execute(_LOST_HOLDS, (before_ms, BATCH)).rowcount
    connection.execute(_OLD_COUNTERS, (quiet_ms, BATCH))
    connection.execute(_OLD_FLIGHTS, (landed_ms, landed_ms, BATCH))
    connection.execute(_OLD_RATES, (now_ms * 1_000 - RATE_KEEP_US, BATCH))
    connection.execute(_OLD_ROUTES, (quiet_ms, BATCH))
    return calls + lost + cache.clean(connection, now_ms, BATCH)
