"""What the SQLite gate does beside the contract: no scans on the path of a call, bounded cleaning, invalidations forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gate.sqlite_asks import MINUTE, NOW, ROUTE, ask, look, put, quota, record, settlement

from claude_jobs.policy.breaker import Verdict
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import Landing
from claude_jobs.stores.sqlite.connection import Database
from claude_jobs.stores.sqlite.gate import SqliteGate, cache, care, holds, open_gate, schema
from claude_jobs.stores.sqlite.lock import FileLock

HOUR = 60 * MINUTE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteGate]:
    opened = open_gate(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def raw(store: SqliteGate, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The file itself."""
    connection = sqlite3.connect(tmp_path / "gate.db", isolation_level=None)
    yield connection
    connection.close()


def keep(store: SqliteGate, *keys: str, seq: int = 0, most: int = 1_000_000) -> None:
    with store.group():
        for key in keys:
            store.settle(replace(settlement("", 0), record=None, put=put(key, seq=seq, most=most)))


def statements(database: Database) -> list[str]:
    """Everything that one call runs on the way."""
    run: list[str] = []
    with database.write(durable=False) as writer:
        connections = (writer, database.reader())
    for connection in connections:
        connection.set_trace_callback(run.append)
    store = SqliteGate(database)
    lead = store.look(look("k"))
    store.reserve(replace(ask("r", 5), route=ROUTE, rates=((Rate(id="org:acme|requests", per_minute=60), 1),)))
    store.renew(["r"], NOW + HOUR)
    store.renew_flights([("k", lead.fence)], NOW + HOUR)
    end = replace(settlement("r", 3), route=ROUTE, verdict=Verdict.OK, put=put("k", most=500))
    store.settle(replace(end, landing=Landing(key="k", fence=lead.fence)))
    store.touch(["k"], NOW)
    store.call("r")
    store.calls(limit=5, org="acme")
    for connection in connections:
        connection.set_trace_callback(None)
    return [sql for sql in run if not sql.startswith(("BEGIN", "COMMIT", "PRAGMA", "--"))]


ONE_ROW = {"SCAN c", "SCAN cache", "SCAN CONSTANT ROW"}
IN_ORDER = "SCAN entries USING INDEX entries_used"
"""Stops after those that are evicted."""


def test_no_statement_of_a_call_scans_a_table(store: SqliteGate, raw: sqlite3.Connection, tmp_path: Path) -> None:
    keep(store, *(f"k{n}" for n in range(600)))
    store.invalidate(model="another")
    database = Database(tmp_path / "gate.db", FileLock(tmp_path / "gate.lock", wait_s=10), modes=("NORMAL",))
    database.open(lambda connection: schema.migrate(connection, database.path))
    run = statements(database)
    database.close()

    plans = {(row[3], sql) for sql in run for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}")}
    assert len(run) > 20
    assert IN_ORDER in {plan for plan, _ in plans}
    assert [one for one in plans if one[0].startswith("SCAN") and one[0] not in {*ONE_ROW, IN_ORDER}] == []


def test_a_bound_that_was_lowered_a_lot_is_reached_step_by_step(
    store: SqliteGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "EVICT", 40)
    keep(store, *(f"k{n}" for n in range(100)))

    sizes: list[int] = []
    for n in range(3):
        keep(store, f"new{n}", most=10)
        sizes.append(store.cache_stats().entries)

    assert sizes == [61, 22, 10]
    assert store.cache_stats().bytes == 10 * len(b"answer")


def test_cleaning_goes_round_in_bounded_steps(store: SqliteGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "BATCH", 10)
    monkeypatch.setattr(cache, "SEEN_PER_GONE", 3)
    keep(store, *(f"k{n}" for n in range(100)))
    store.invalidate(org="acme")
    keep(store, *(f"new{n}" for n in range(5)), seq=1)
    store.record([record(f"c{n}", at_ms=NOW - HOUR) for n in range(25)])

    went = [store.clean(NOW, keep_ms=MINUTE) for _ in range(14)]

    assert went == [20, 20, 15, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0, 0]
    assert store.cache_stats().entries == 5
    assert {store.look(look(f"new{n}", owner="")).what for n in range(5)} == {"hit"}
    assert store.calls() == ()


def test_invalidations_are_forgotten_and_what_was_in_flight_is_not_stored(
    store: SqliteGate, raw: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "NO_MORE_THAN", 10)
    before = store.look(look("k", owner="")).seq
    keep(store, "dead", "alive")
    store.invalidate(key="dead")
    keep(store, "dead", seq=1)
    store.invalidate(model="gpt-5.5")
    keep(store, "alive", seq=2)
    for n in range(40):
        store.invalidate(org=f"org {n}")
    since = store.look(look("k", owner="")).seq

    store.clean(NOW, keep_ms=HOUR)
    keep(store, "k", seq=before)
    keep(store, "l", seq=since)

    assert raw.execute("SELECT COUNT(*) FROM generations").fetchone() == (10,)
    found = {key: store.look(look(key, owner="")).what for key in ("dead", "alive", "k", "l")}
    assert found == {"dead": "miss", "alive": "hit", "k": "miss", "l": "hit"}


def test_a_refusal_frees_all_that_expired_first(store: SqliteGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SWEEP", 7)
    for n in range(30):
        store.reserve(ask(f"r{n}", 10, 300))

    later = NOW + 2 * MINUTE
    assert type(store.reserve(ask("all", 300, 300, now_ms=later))).__name__ == "Reserved"
    (use,) = store.uses([quota(300)], later)
    assert (use.used, use.held) == (0, 300)


def test_a_reservation_asked_for_again_replaces_the_one_whose_answer_was_lost(store: SqliteGate) -> None:
    store.reserve(ask("a", 10))
    store.reserve(ask("a", 20))
    (use,) = store.uses([quota(100)], NOW)

    assert (use.used, use.held) == (0, 20)
    assert store.settle(settlement("a", 4))
    (use,) = store.uses([quota(100)], NOW)
    assert (use.used, use.held) == (4, 0)


def test_what_is_over_leaves_no_rows(store: SqliteGate, raw: sqlite3.Connection) -> None:
    store.reserve(replace(ask("lost", 5), route=ROUTE, rates=((Rate(id="r", per_minute=60), 1),)))
    store.settle(replace(settlement("", 0), route=ROUTE, verdict=Verdict.OK, put=put("k")))
    for n in range(3):
        store.look(look(f"f{n}"))
    lead = store.look(look("failed"))
    store.settle(replace(settlement("", 0), record=None, landing=Landing(key="failed", fence=lead.fence, error="e")))

    store.clean(NOW + 40 * 24 * HOUR, keep_ms=24 * HOUR)
    store.clean(NOW + 80 * 24 * HOUR, keep_ms=24 * HOUR)

    tables = ("calls", "holds", "counters", "rates", "routes", "flights", "entries", "bodies")
    left = {table: raw.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}
    assert left == dict.fromkeys(tables, 0)
