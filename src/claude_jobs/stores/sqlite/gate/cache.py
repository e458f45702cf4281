"""Stored answers: what is valid, what was used last, and the totals in the one row of `cache`.

An entry carries the number of the last invalidation it was checked against. So a look compares two numbers, and only an
entry that is older than the latest invalidation is held against the kinds of invalidation that could concern it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from claude_jobs.stores.gate import CacheEntry, CachePut, CacheStats

EVICT = 1_000
"""Entries that one put removes at most; after a bound was lowered a lot the next ones go on."""
SEEN_PER_GONE = 10
"""Entries that cleaning looks at, for each that it may remove."""
NO_MORE_THAN = 1_000
"""Kinds of invalidation that are remembered one by one; beyond them what is in flight is not stored."""

_MATCHING = "org IN ('', e.org) AND provider IN ('', e.provider) AND model IN ('', e.model) AND key = ''"
LATEST = f"CASE WHEN e.seq < c.seq THEN (SELECT MAX(seq) FROM generations WHERE {_MATCHING}) END"  # noqa: S608
"""The last invalidation that concerns entry `e`; NULL if there was none since it was checked. `c` is the totals' row."""
_IS_VALID = f"e.seq >= COALESCE({LATEST}, 0)"
_CONCERNS = """SELECT MAX(seq) FROM generations WHERE org IN ('', ?) AND provider IN ('', ?) AND model IN ('', ?)
    AND key IN ('', ?)"""
_FOR_PUT = """SELECT c.seq, c.floor, c.clock, c.entries, c.bytes, e.id, e.bytes FROM cache c
    LEFT JOIN entries e ON e.key = ?"""
_SEEN = f"""SELECT e.id, e.stale_until_ms <= ? OR NOT {_IS_VALID} FROM cache c, entries e WHERE e.id > c.cleaned
    ORDER BY e.id LIMIT ?"""  # noqa: S608
_OLDEST = "SELECT seq FROM generations ORDER BY seq DESC LIMIT 1 OFFSET ?"
_COLUMNS = "key, org, provider, model, created_ms, fresh_until_ms, stale_until_ms, bytes, seq, used"
_INSERT = f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_UPDATE = f"UPDATE entries SET ({_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ?"  # noqa: S608


def put(connection: sqlite3.Connection, asked: CachePut) -> None:
    """Store the entry unless it was invalidated since its look, or is larger than the whole cache may be."""
    entry, size = asked.entry, len(asked.entry.value)
    seq, floor, clock, entries, stored, row, replaced = connection.execute(_FOR_PUT, (entry.key,)).fetchone()
    if size > asked.max_bytes or asked.max_entries < 1 or asked.seq < floor:
        return
    if asked.seq < seq:
        concerned = connection.execute(_CONCERNS, (entry.org, entry.provider, entry.model, entry.key)).fetchone()[0]
        if concerned is not None and concerned > asked.seq:
            return
    _write(connection, entry, seq, clock + 1, row)
    entries += row is None
    stored += size - (replaced or 0)
    evicted = _evict(connection, entries, stored, asked)
    connection.execute(
        "UPDATE cache SET clock = ?, entries = ?, bytes = ?, stores = stores + 1, evictions = evictions + ?",
        (clock + 1, entries - len(evicted), stored - sum(evicted), len(evicted)),
    )


def _write(connection: sqlite3.Connection, entry: CacheEntry, seq: int, clock: int, row: int | None) -> None:
    names = (entry.key, entry.org, entry.provider, entry.model)
    times = (entry.created_ms, entry.fresh_until_ms, entry.stale_until_ms)
    values = (*names, *times, len(entry.value), seq, clock)
    if row is None:
        row = connection.execute(_INSERT, values).lastrowid
        connection.execute("INSERT INTO bodies VALUES (?, ?)", (row, entry.value))
    else:
        connection.execute(_UPDATE, (*values, row))
        connection.execute("UPDATE bodies SET value = ? WHERE entry_id = ?", (entry.value, row))


def _evict(connection: sqlite3.Connection, entries: int, stored: int, asked: CachePut) -> list[int]:
    """Remove what was used longest ago until the rest is within bounds. Sizes of what went."""
    if entries <= asked.max_entries and stored <= asked.max_bytes:
        return []
    going: list[int] = []
    sizes: list[int] = []
    for row, size in connection.execute("SELECT id, bytes FROM entries ORDER BY used LIMIT ?", (EVICT,)):
        if entries - len(going) <= asked.max_entries and stored <= asked.max_bytes:
            break
        going.append(row)
        sizes.append(size)
        stored -= size
    _delete(connection, going)
    return sizes


def _delete(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    ids = [(row,) for row in rows]
    connection.executemany("DELETE FROM entries WHERE id = ?", ids)
    connection.executemany("DELETE FROM bodies WHERE entry_id = ?", ids)


def touch(connection: sqlite3.Connection, keys: Sequence[str], stale: int) -> None:
    """See GateStore."""
    clock = connection.execute("SELECT clock FROM cache").fetchone()[0]
    connection.executemany(
        "UPDATE entries SET used = ? WHERE key = ?", [(clock + n, key) for n, key in enumerate(keys, start=1)]
    )
    connection.execute(
        "UPDATE cache SET clock = clock + ?, hits = hits + ?, stale_hits = stale_hits + ?",
        (len(keys), len(keys) - stale, stale),
    )


def invalidate(connection: sqlite3.Connection, org: str, provider: str, model: str, key: str) -> int:
    """See GateStore. With a key, its entry goes at once."""
    given = {"org": org, "provider": provider, "model": model, "key": key}
    asked = {name: value for name, value in given.items() if value}
    where = " AND ".join([_IS_VALID, *(f"e.{name} = :{name}" for name in asked)])
    found = connection.execute(f"SELECT e.id FROM cache c, entries e WHERE {where}", asked).fetchall()  # noqa: S608
    (seq,) = connection.execute(
        "UPDATE cache SET seq = seq + 1, invalidations = invalidations + 1 RETURNING seq"
    ).fetchone()
    connection.execute("INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?)", (org, provider, model, key, seq))
    if key:
        drop(connection, [row for (row,) in found])
    return len(found)


def drop(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Remove entries and take them out of the totals."""
    sizes = [connection.execute("SELECT bytes FROM entries WHERE id = ?", (row,)).fetchone()[0] for row in rows]
    _delete(connection, rows)
    connection.execute("UPDATE cache SET entries = entries - ?, bytes = bytes - ?", (len(rows), sum(sizes)))


def stats(connection: sqlite3.Connection) -> CacheStats:
    """See GateStore."""
    row = connection.execute(
        "SELECT entries, bytes, hits, stale_hits, misses, stores, evictions, invalidations FROM cache"
    ).fetchone()
    entries, stored, hits, stale_hits, misses, stores, evictions, invalidations = row
    return CacheStats(
        entries=entries,
        bytes=stored,
        hits=hits,
        stale_hits=stale_hits,
        misses=misses,
        stores=stores,
        evictions=evictions,
        invalidations=invalidations,
    )


def clean(connection: sqlite3.Connection, now_ms: int, limit: int) -> int:
    """Look at some entries, round after round, and remove those that are past their time or were invalidated."""
    seen = connection.execute(_SEEN, (now_ms, limit * SEEN_PER_GONE)).fetchall()
    gone = [row for row, is_gone in seen if is_gone][:limit]
    drop(connection, gone)
    came_to = gone[-1] if len(gone) == limit else seen[-1][0] if len(seen) == limit * SEEN_PER_GONE else 0
    connection.execute("UPDATE cache SET cleaned = ?", (came_to,))
    _forget(connection)
    return len(gone)


def _forget(connection: sqlite3.Connection) -> None:
    """When too many invalidations are remembered: check all entries against all of them, and keep only the latest."""
    (oldest,) = connection.execute(_OLDEST, (NO_MORE_THAN,)).fetchone() or (0,)
    if oldest:
        found = connection.execute(f"SELECT e.id FROM cache c, entries e WHERE NOT {_IS_VALID}").fetchall()  # noqa: S608
        drop(connection, [row for (row,) in found])
        connection.execute("UPDATE entries SET seq = (SELECT seq FROM cache)")
        connection.execute("DELETE FROM generations WHERE seq <= ?", (oldest,))
        connection.execute("UPDATE cache SET floor = MAX(floor, ?)", (oldest,))
