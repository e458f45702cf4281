"""The ledger of calls, and what is cleaned away."""

from __future__ import annotations

from datetime import UTC, datetime

from gate.builders import HOUR, LEASE, NOW, ROUTE, Gate, line, quota

from claude_jobs.domain.generation import Provenance, Route, Tokens
from claude_jobs.stores.gate import LedgerQuery, LedgerRow

DAY = 24 * HOUR
TODAY = datetime.fromtimestamp(NOW // 1_000, UTC).date().isoformat()
CLAUDE = Route(provider="claude", model="opus", key="k9")


def test_a_call_is_read_back_as_it_was(gate: Gate) -> None:
    tokens = Tokens(
        input=1, output=2, cache_read=3, cache_write=4, cache_write_1h=1, thinking=1, provenance=Provenance.UNKNOWN
    )
    record = line("c", tokens=tokens, nusd=None, outcome="overloaded", cached="")
    gate.had("r")
    gate.settle("r", record=record)

    assert gate.store.call("c") == record
    assert gate.store.call("d") is None


def test_a_call_has_one_line(gate: Gate) -> None:
    gate.store.record([line("c", nusd=1)])
    gate.store.record([line("c", nusd=2), line("d")])

    assert [record.cost.nusd for record in gate.store.calls()] == [7, 1]


def test_a_settlement_that_was_settled_before_writes_no_line(gate: Gate) -> None:
    gate.had("r")
    gate.settle("r", record=line("a"))
    gate.settle("r", record=line("b"))

    assert gate.store.call("b") is None


def test_the_latest_come_first(gate: Gate) -> None:
    gate.store.record([line("a", at=5), line("b", at=9), line("c", at=5, org="other"), line("d", at=1)])

    assert [record.id for record in gate.store.calls()] == ["b", "c", "a", "d"]
    assert [record.id for record in gate.store.calls(limit=2)] == ["b", "c"]
    assert [record.id for record in gate.store.calls(limit=2, org="acme")] == ["b", "a"]


def test_sums_by_group(gate: Gate) -> None:
    estimated = Tokens(input=100, output=50, provenance=Provenance.ESTIMATED)
    gate.store.record(
        [
            line("a"),
            line("b", nusd=None),
            line("c", outcome="overloaded", tokens=estimated, nusd=3),
            line("d", cached="hit", nusd=0),
            line("e", route=CLAUDE, nusd=1_000),
            line("f", at=DAY, tokens=Tokens(cache_read=5, cache_write=6, cache_write_1h=2, output=3, thinking=2)),
        ]
    )

    rows = gate.store.ledger(LedgerQuery(until_ms=NOW + DAY, by=("provider",)))

    assert rows == (
        LedgerRow(
            group={"provider": "claude"},
            calls=1,
            errors=0,
            cached=0,
            tokens=Tokens(input=10, output=5),
            nusd=1_000,
            unpriced=0,
            estimated=0,
        ),
        LedgerRow(
            group={"provider": "openai"},
            calls=4,
            errors=1,
            cached=1,
            tokens=Tokens(input=120, output=60),
            nusd=10,
            unpriced=1,
            estimated=1,
        ),
    )
    (later,) = gate.store.ledger(LedgerQuery(since_ms=NOW + DAY, by=()))
    assert later.tokens == Tokens(cache_read=5, cache_write=6, cache_write_1h=2, output=3, thinking=2)


def test_groups_come_in_the_order_of_their_values(gate: Gate) -> None:
    gate.store.record(
        [line("a", org="b"), line("b", org="a", at=DAY), line("c", org="a"), line("d", org="b", route=CLAUDE)]
    )

    rows = gate.store.ledger(LedgerQuery(by=("org", "day", "model", "key")))

    tomorrow = datetime.fromtimestamp((NOW + DAY) // 1_000, UTC).date().isoformat()
    assert [tuple(row.group.values()) for row in rows] == [
        ("a", TODAY, "gpt", "k1"),
        ("a", tomorrow, "gpt", "k1"),
        ("b", TODAY, "gpt", "k1"),
        ("b", TODAY, "opus", "k9"),
    ]
    assert tuple(rows[0].group) == ("org", "day", "model", "key")


def test_a_query_is_about_some_calls(gate: Gate) -> None:
    gate.store.record([line("a"), line("b", org="other"), line("c", route=CLAUDE), line("d", at=1)])

    def count(query: LedgerQuery) -> int:
        return sum(row.calls for row in gate.store.ledger(query))

    assert count(LedgerQuery()) == 4
    assert count(LedgerQuery(org="acme")) == 3
    assert count(LedgerQuery(provider="claude")) == 1
    assert count(LedgerQuery(model="gpt", org="other")) == 1
    assert count(LedgerQuery(since_ms=NOW, until_ms=NOW + 1)) == 3
    assert gate.store.ledger(LedgerQuery(org="nobody")) == ()


def test_old_calls_and_lost_reservations_are_cleaned_away(gate: Gate) -> None:
    gate.store.record([line("old", at=-DAY - 1), line("young", at=-DAY)])
    gate.had("lost", (quota(100), 5), at=-DAY - LEASE - 1)

    assert gate.store.clean(NOW, keep_ms=DAY) == 2
    assert [record.id for record in gate.store.calls()] == ["young"]
    assert not gate.settle("lost", tokens=5)


def test_cleaning_leaves_what_is_still_used(gate: Gate) -> None:
    gate.had("r", (quota(100), 5))
    gate.had("settled", (quota(100), 7))
    gate.settle("settled", tokens=7)
    gate.store_answer("k")
    lead = gate.look("j")

    assert gate.store.clean(NOW + 1, keep_ms=0) == 0

    assert gate.stands(quota(100)) == (7, 5)
    assert gate.has("k")
    assert gate.look("j", owner="w2", at=2).what == "follow"
    gate.land("j", lead.fence, at=3)
    assert gate.settle("r", tokens=5)


def test_cleaning_makes_room_of_dead_answers(gate: Gate) -> None:
    gate.store_answer("expired", fresh=1, stale=2)
    gate.store_answer("gone", model="mini")
    gate.store_answer("kept")
    gate.store.invalidate(model="mini")

    assert gate.store.clean(NOW + 5, keep_ms=DAY) == 2
    assert gate.store.cache_stats().entries == 1
    assert gate.has("kept")


def test_lines_of_one_route_name_it(gate: Gate) -> None:
    gate.store.record([line("a")])

    (record,) = gate.store.calls()
    assert record.route == ROUTE
