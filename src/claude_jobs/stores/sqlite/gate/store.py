"""GateStore on SQLite: which operation is one transaction, and which only reads. The work itself is in the files beside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from claude_jobs.domain.generation import Route
from claude_jobs.policy import breaker, keys
from claude_jobs.policy.breaker import CircuitState
from claude_jobs.policy.keys import KeyState
from claude_jobs.policy.quota import Quota, QuotaUse
from claude_jobs.stores.gate import (
    CacheStats,
    CallRecord,
    LedgerQuery,
    LedgerRow,
    Look,
    LookAsk,
    Refused,
    ReserveAsk,
    Reserved,
    Settlement,
)
from claude_jobs.stores.sqlite.connection import Database, mapped_errors
from claude_jobs.stores.sqlite.gate import cache, care, counters, holds, ledger, rates, routes, schema
from claude_jobs.stores.sqlite.gate import flights as flying
from claude_jobs.stores.sqlite.gate.transaction import Group
from claude_jobs.stores.sqlite.lock import FileLock

T = TypeVar("T")

LOG_BYTES = 32 * 1024 * 1024
"""Folding the log into the file waits for the disk, and calls wait for it: once in several hundred of them."""

LOCK_WAIT_S = 5.0
"""Other processes hold the lock for a fraction of a millisecond; who calls waits for an answer."""

PAGE_BYTES = 2048
"""An operation changes a few bytes in each of many pages, and writes them whole."""


def open_gate(directory: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> SqliteGate:
    """Open the gate in `directory`, creating what is missing.

    Raises:
        StoreUnavailable: The directory cannot be written, or the lock was not had.
        StoreCorrupt: `gate.db` is no database.
        StoreTooNew: A newer claude-jobs wrote it.
    """
    lock = FileLock(directory / "gate.lock", wait_s=lock_wait_s)
    database = Database(directory / "gate.db", lock, modes=("NORMAL",), log_bytes=LOG_BYTES, page_bytes=PAGE_BYTES)
    try:
        database.open(lambda connection: schema.migrate(connection, database.path))
    except BaseException:
        database.close()
        raise
    return SqliteGate(database)


class SqliteGate:
    """Files: gate.db (and its -wal, -shm), gate.lock, gate.turn. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: Group | None = None

    @contextmanager
    def group(self) -> Generator[None]:
        """See GateStore. The lock is taken with the first operation that needs it."""
        assert self._group is None, "groups do not nest"
        group = self._group = Group(self._database)
        try:
            yield
        finally:
            self._group = None
            group.end()

    def _write(self) -> AbstractContextManager[sqlite3.Connection]:
        self._database.check_there()
        return self._group.operation() if self._group else self._database.write(durable=False)

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """One statement, without the lock."""
        self._show()
        with mapped_errors(self._database.path):
            return read(self._database.reader())

    def _show(self) -> None:
        """Commit what a group wrote so far: reading may take a while, and should see it."""
        self._database.check_there()
        if self._group:
            self._group.flush()

    def reserve(self, ask: ReserveAsk) -> Reserved | Refused:
        """See GateStore."""
        with self._write() as connection:
            swept = holds.sweep(connection, ask.now_ms)
            windows = counters.load(connection, ask.quotas, ask.now_ms)
            refused = counters.refusal(windows)
            while refused and swept == holds.SWEEP:
                swept = holds.sweep(connection, ask.now_ms)
                windows = counters.load(connection, ask.quotas, ask.now_ms)
                refused = counters.refusal(windows)
            return refused or self._admit(connection, ask, windows)

    def _admit(
        self, connection: sqlite3.Connection, ask: ReserveAsk, windows: Sequence[counters.Window]
    ) -> Reserved | Refused:
        times = rates.decide(connection, ask.rates, ask.now_ms) if ask.rates else {}
        if isinstance(times, Refused):
            return times
        is_probe = False
        if ask.route is not None:
            known = routes.load(connection, ask.route)
            admitted = routes.admit(known, ask.route, ask)
            if isinstance(admitted, Refused):
                return admitted
            changed, is_probe = admitted
            if changed != known:
                routes.save(connection, ask.route, changed, ask.now_ms)
        if times:
            rates.save(connection, times)
        warnings = counters.warnings(windows)
        holds.take(connection, ask.id, ask.owner, ask.now_ms + ask.lease_ms, counters.hold(connection, windows))
        return Reserved(id=ask.id, is_probe=is_probe, warnings=warnings)

    def renew(self, ids: Sequence[str], until_ms: int) -> tuple[str, ...]:
        """See GateStore."""
        with self._write() as connection:
            return holds.renew(connection, ids, until_ms)

    def settle(self, settlement: Settlement) -> bool:
        """See GateStore."""
        with self._write() as connection:
            if settlement.id and not holds.settle(connection, settlement):
                return False
            if settlement.route is not None:
                routes.hear(connection, settlement.route, settlement)
            if settlement.record is not None:
                ledger.write(connection, (settlement.record,))
            if settlement.put is not None:
                cache.put(connection, settlement.put)
            if settlement.landing is not None:
                flying.land(connection, settlement.landing, settlement.now_ms)
            return True

    def look(self, ask: LookAsk) -> Look:
        """See GateStore. What was found needs no lock; only who claims a flight takes it, and looks again."""
        if not (self._group and self._group.has_begun):
            found = self._read(lambda connection: flying.look(connection, ask, may_claim=False))
            if found:
                return found
        with self._write() as connection:
            found = flying.look(connection, ask, may_claim=True)
            assert found is not None
            return found

    def renew_flights(self, flights: Sequence[tuple[str, int]], until_ms: int) -> None:
        """See GateStore."""
        with self._write() as connection:
            flying.renew(connection, flights, until_ms)

    def touch(self, keys: Sequence[str], now_ms: int, *, stale: int = 0) -> None:
        """See GateStore."""
        with self._write() as connection:
            cache.touch(connection, keys, stale)

    def invalidate(self, *, org: str = "", provider: str = "", model: str = "", key: str = "") -> int:
        """See GateStore."""
        with self._write() as connection:
            return cache.invalidate(connection, org, provider, model, key)

    def cache_stats(self) -> CacheStats:
        """See GateStore."""
        return self._read(cache.stats)

    def record(self, records: Sequence[CallRecord]) -> None:
        """See GateStore."""
        with self._write() as connection:
            ledger.write(connection, records)

    def call(self, call_id: str) -> CallRecord | None:
        """See GateStore."""
        return self._read(lambda connection: ledger.one(connection, call_id))

    def calls(self, *, limit: int = 20, org: str = "") -> tuple[CallRecord, ...]:
        """See GateStore."""
        return self._read(lambda connection: ledger.latest(connection, limit, org))

    def ledger(self, query: LedgerQuery) -> tuple[LedgerRow, ...]:
        """See GateStore."""
        return self._read(lambda connection: ledger.sums(connection, query))

    def quotas(self) -> tuple[Quota, ...]:
        """See GateStore."""
        return self._read(counters.quotas)

    def set_quota(self, quota: Quota) -> None:
        """See GateStore."""
        with self._write() as connection:
            counters.set_quota(connection, quota)

    def drop_quota(self, quota_id: str) -> bool:
        """See GateStore."""
        with self._write() as connection:
            return counters.drop_quota(connection, quota_id)

    def uses(self, quotas: Sequence[Quota], now_ms: int) -> tuple[QuotaUse, ...]:
        """See GateStore."""
        self._show()
        with self._database.read() as connection:
            return holds.uses(connection, quotas, now_ms)

    def circuits(self, now_ms: int) -> tuple[tuple[Route, CircuitState], ...]:
        """See GateStore."""
        return tuple(
            (route, circuit)
            for route, (circuit, _) in self._read(routes.all_known)
            if breaker.is_telling(circuit, now_ms)
        )

    def keys(self, now_ms: int) -> tuple[tuple[Route, KeyState], ...]:
        """See GateStore."""
        return tuple((route, key) for route, (_, key) in self._read(routes.all_known) if keys.is_telling(key, now_ms))

    def revive_key(self, fingerprint: str) -> None:
        """See GateStore."""
        with self._write() as connection:
            routes.revive(connection, fingerprint)

    def clean(self, now_ms: int, *, keep_ms: int) -> int:
        """See GateStore."""
        with self._write() as connection:
            return care.clean(connection, now_ms, keep_ms)

    def close(self) -> None:
        """See GateStore."""
        self._database.close()
