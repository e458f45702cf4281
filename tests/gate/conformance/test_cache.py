"""Cached answers: how long they are served, which go first, and what an invalidation reaches."""

from __future__ import annotations

from typing import TypedDict

import pytest
from gate.builders import Gate


class Pattern(TypedDict, total=False):
    org: str
    provider: str
    model: str
    key: str


def test_an_answer_is_fresh_then_stale_then_gone(gate: Gate) -> None:
    gate.store_answer("k", b"\x00binary", fresh=10, stale=20)

    whats = [gate.look("k", at=at, owner="").what for at in (0, 9, 10, 19, 20)]

    assert whats == ["hit", "hit", "stale", "stale", "miss"]
    entry = gate.look("k", at=9).entry
    assert entry is not None
    assert (entry.key, entry.org, entry.provider, entry.model, entry.value) == (
        "k",
        "acme",
        "openai",
        "gpt",
        b"\x00binary",
    )
    assert entry.fresh_until_ms - entry.created_ms == 10


def test_a_newer_answer_replaces_the_one_that_is_there(gate: Gate) -> None:
    gate.store_answer("k", b"old")
    gate.store_answer("k", b"new one", at=1)

    entry = gate.look("k", at=1).entry
    assert entry is not None
    assert entry.value == b"new one"
    stats = gate.store.cache_stats()
    assert (stats.entries, stats.bytes, stats.stores, stats.evictions) == (1, 7, 2, 0)


def test_the_least_recently_used_go_first(gate: Gate) -> None:
    for key in "abc":
        gate.store_answer(key, max_entries=3)
    gate.store.touch(["c", "a"], 1)
    gate.store_answer("d", max_entries=3)
    gate.store_answer("e", max_entries=3)

    assert [key for key in "abcde" if gate.has(key)] == ["a", "d", "e"]
    assert gate.store.cache_stats().evictions == 2


def test_touches_count_in_their_order(gate: Gate) -> None:
    for key in "abc":
        gate.store_answer(key, max_entries=3)
    gate.store.touch(["a", "b", "a", "unknown", "c", "b"], 1)

    gate.store_answer("d", max_entries=3)
    gate.store_answer("e", max_entries=3)

    assert [key for key in "abcde" if gate.has(key)] == ["b", "d", "e"]


def test_looking_is_no_use(gate: Gate) -> None:
    """Hits are told by `touch`, many at once: a look writes nothing."""
    for key in "ab":
        gate.store_answer(key, max_entries=2)
    gate.look("a")
    gate.store_answer("c", max_entries=2)

    assert not gate.has("a")
    assert gate.store.cache_stats().hits == 0


def test_bytes_are_bounded(gate: Gate) -> None:
    for place in range(5):
        gate.store_answer(f"k{place}", b"x" * 30, max_bytes=100)

    assert [place for place in range(5) if gate.has(f"k{place}")] == [2, 3, 4]
    assert gate.store.cache_stats().bytes == 90
    gate.store_answer("k2", b"x" * 70, max_bytes=100)
    assert [place for place in range(5) if gate.has(f"k{place}")] == [2, 4]


def test_what_is_larger_than_the_cache_is_not_stored(gate: Gate) -> None:
    gate.store_answer("small", b"x")
    gate.store_answer("large", b"x" * 101, max_bytes=100)

    assert (gate.has("small"), gate.has("large")) == (True, False)


def test_no_room_is_no_cache(gate: Gate) -> None:
    gate.store_answer("k", max_entries=0)

    assert not gate.has("k")


def test_lower_bounds_hold_with_the_next_answer(gate: Gate) -> None:
    for place in range(6):
        gate.store_answer(f"k{place}")
    gate.store_answer("last", max_entries=2)

    assert [key for key in ("k4", "k5", "last") if gate.has(key)] == ["k5", "last"]
    assert gate.store.cache_stats().entries == 2


PLACES = [(org, provider, model) for org in ("a", "b") for provider in ("p", "q") for model in ("m", "n")]


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(),
        Pattern(org="a"),
        Pattern(provider="q"),
        Pattern(model="m"),
        Pattern(provider="p", model="n"),
        Pattern(org="b", provider="q", model="m"),
        Pattern(key="a p m"),
        Pattern(key="a p m", org="b"),
        Pattern(org="none"),
    ],
)
def test_an_invalidation_reaches_what_matches_all_that_is_given(gate: Gate, pattern: Pattern) -> None:
    for org, provider, model in PLACES:
        gate.store_answer(f"{org} {provider} {model}", org=org, provider=provider, model=model)

    count = gate.store.invalidate(**pattern)

    def is_meant(org: str, provider: str, model: str) -> bool:
        own = {"org": org, "provider": provider, "model": model, "key": f"{org} {provider} {model}"}
        return all(own[name] == value for name, value in pattern.items())

    gone = [place for place in PLACES if is_meant(*place)]
    assert [place for place in PLACES if not gate.has(" ".join(place))] == gone
    assert count == len(gone)
    assert gate.store.invalidate(**pattern) == 0
    assert gate.store.cache_stats().invalidations == 2


def test_what_was_being_made_before_an_invalidation_is_not_stored(gate: Gate) -> None:
    """Its answer may be of what the invalidation was about."""
    seq = gate.look("k").seq
    gate.store.invalidate(model="gpt")
    gate.store_answer("k", b"before", seq=seq)
    assert not gate.has("k")

    gate.store_answer("k", b"after", seq=gate.look("k").seq)

    assert gate.has("k")


def test_an_invalidation_of_something_else_stops_no_answer(gate: Gate) -> None:
    seq = gate.look("k").seq
    gate.store.invalidate(model="mini")
    gate.store.invalidate(org="b", provider="openai")
    gate.store.invalidate(key="other")
    gate.store_answer("k", seq=seq)

    assert gate.has("k")


def test_an_invalidation_does_not_outlive_its_moment(gate: Gate) -> None:
    gate.store.invalidate()
    gate.store_answer("k")
    gate.store.invalidate(org="b")

    assert gate.has("k")


def test_a_broken_answer_is_replaced_once_its_key_is_invalidated(gate: Gate) -> None:
    gate.store_answer("k", b"bad")
    assert gate.store.invalidate(key="k") == 1

    look = gate.look("k")
    assert look.what == "lead"
    gate.store_answer("k", b"good", seq=look.seq)

    assert gate.has("k")


def test_statistics(gate: Gate) -> None:
    gate.look("k")
    gate.look("k", owner="w2")
    gate.look("j", owner="")
    gate.store_answer("k", b"12345")
    gate.store.touch(["k", "k", "k"], 1, stale=1)
    gate.store.invalidate(org="nobody")

    stats = gate.store.cache_stats()

    assert (stats.entries, stats.bytes, stats.stores, stats.evictions, stats.invalidations) == (1, 5, 1, 0, 1)
    assert (stats.hits, stats.stale_hits, stats.misses) == (2, 1, 1)


def test_an_answer_and_its_settlement_are_one(gate: Gate) -> None:
    """A settlement that changes nothing stores nothing either."""
    gate.had("r")
    gate.settle("r")
    gate.store_answer("k")

    assert not gate.settle("r")
    assert gate.store.cache_stats().stores == 1
