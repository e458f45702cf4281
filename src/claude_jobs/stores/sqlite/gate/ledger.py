"""The ledger of calls: lines, and sums over them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from claude_jobs.domain.generation import Cost, Provenance, Route, Tokens
from claude_jobs.errors import InvalidRequest
from claude_jobs.stores.gate import CallRecord, LedgerQuery, LedgerRow

_COLUMNS = """id, at_ms, org, provider, model, key, outcome, input, output, cache_read, cache_write, cache_write_1h,
    thinking, provenance, nusd, price, cached, took_ms, first_token_ms, steps"""
_INSERT = f"""INSERT OR IGNORE INTO calls (seq, {_COLUMNS}) VALUES (
    (SELECT COALESCE(MAX(seq) + 1, ?) FROM calls WHERE seq >= ? AND seq < ?), {", ".join("?" * 20)})"""  # noqa: S608
PER_MS = 1 << 20
"""Calls of one millisecond that keep their order; see the schema."""
_TOKENS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "thinking")
_SUMS = f"""COUNT(*), SUM(outcome <> 'ok'), SUM(cached <> ''), {", ".join(f"SUM({name} * (cached = ''))" for name in _TOKENS)},
    COALESCE(SUM(nusd), 0), SUM(nusd IS NULL), SUM(provenance = 'estimated')"""
"""The tokens of a cached answer are counted in the line of the call that made it."""
_GROUPS = {
    "org": "org",
    "provider": "provider",
    "model": "model",
    "key": "key",
    "day": "strftime('%Y-%m-%d', at_ms / 1000, 'unixepoch')",
}


def write(connection: sqlite3.Connection, records: Sequence[CallRecord]) -> None:
    """Add lines; one that is there stays as it is."""
    connection.executemany(_INSERT, [_values(record) for record in records])


def _values(record: CallRecord) -> tuple[object, ...]:
    route, tokens = record.route, record.tokens
    first = record.at_ms * PER_MS
    return (
        *(first, first, first + PER_MS),
        *(record.id, record.at_ms, record.org, route.provider, route.model, route.key, record.outcome),
        *(tokens.input, tokens.output, tokens.cache_read, tokens.cache_write, tokens.cache_write_1h, tokens.thinking),
        *(tokens.provenance.value, record.cost.nusd, record.cost.price, record.cached),
        *(record.took_ms, record.first_token_ms, record.steps),
    )


def one(connection: sqlite3.Connection, call_id: str) -> CallRecord | None:
    """See GateStore."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM calls WHERE id = ?", (call_id,)).fetchone()  # noqa: S608
    return _record(row) if row else None


def latest(connection: sqlite3.Connection, limit: int, org: str) -> tuple[CallRecord, ...]:
    """See GateStore."""
    where = "WHERE org = ?" if org else ""
    sql = f"SELECT {_COLUMNS} FROM calls {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    return tuple(map(_record, connection.execute(sql, (org, limit) if org else (limit,))))


def _record(row: tuple[Any, ...]) -> CallRecord:
    call_id, at_ms, org, provider, model, key, outcome, *counts = row[:13]
    provenance, nusd, price, cached, took_ms, first_token_ms, steps = row[13:]
    return CallRecord(
        id=call_id,
        at_ms=at_ms,
        org=org,
        route=Route(provider=provider, model=model, key=key),
        outcome=outcome,
        tokens=_tokens(counts, Provenance(provenance)),
        cost=Cost(nusd=nusd, price=price),
        cached=cached,
        took_ms=took_ms,
        first_token_ms=first_token_ms,
        steps=steps,
    )


def _tokens(counts: Sequence[int], provenance: Provenance = Provenance.REPORTED) -> Tokens:
    given, output, cache_read, cache_write, cache_write_1h, thinking = counts
    return Tokens(
        input=given,
        output=output,
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_1h=cache_write_1h,
        thinking=thinking,
        provenance=provenance,
    )


def sums(connection: sqlite3.Connection, query: LedgerQuery) -> tuple[LedgerRow, ...]:
    """See GateStore.

    Raises:
        InvalidRequest: A group that nobody knows.
    """
    for name in query.by:
        if name not in _GROUPS:
            message = f"Cannot group by {name!r}. Use some of: {', '.join(_GROUPS)}."
            raise InvalidRequest(message, field="by")
    by = [_GROUPS[name] for name in query.by]
    where, values = _where(query)
    numbers = ", ".join(str(n + 1) for n in range(len(by)))
    order = f"GROUP BY {numbers} ORDER BY {numbers}" if by else "HAVING COUNT(*) > 0"
    sql = f"SELECT {', '.join([*by, _SUMS])} FROM calls WHERE {where} {order}"  # noqa: S608
    return tuple(_row(query.by, row) for row in connection.execute(sql, values))


def _where(query: LedgerQuery) -> tuple[str, list[object]]:
    parts, values = ["seq >= ?"], list[object]([query.since_ms * PER_MS])
    if query.until_ms:
        parts.append("seq < ?")
        values.append(query.until_ms * PER_MS)
    for name, value in (("org", query.org), ("provider", query.provider), ("model", query.model)):
        if value:
            parts.append(f"{name} = ?")
            values.append(value)
    return " AND ".join(parts), values


def _row(by: Sequence[str], row: tuple[Any, ...]) -> LedgerRow:
    names, (calls, errors, cached, *counts) = row[: len(by)], row[len(by) :]
    *tokens, nusd, unpriced, estimated = counts
    return LedgerRow(
        group=dict(zip(by, names, strict=True)),
        calls=calls,
        errors=errors,
        cached=cached,
        tokens=_tokens(tokens),
        nusd=nusd,
        unpriced=unpriced,
        estimated=estimated,
    )
