"""Answers that are being made: one leader among all processes, and what becomes of those who wait."""

from __future__ import annotations

from gate.builders import LEASE, NOW, Gate

from claude_jobs.stores.gate import Landing


def test_one_leads_and_the_others_follow(gate: Gate) -> None:
    first = gate.look(owner="w1")

    assert first.what == "lead"
    assert first.fence > 0
    assert [gate.look(owner=f"w{place}", at=1, since=1).what for place in (2, 3)] == ["follow", "follow"]
    assert gate.look("other", owner="w2").what == "lead"


def test_who_only_looks_claims_nothing(gate: Gate) -> None:
    assert gate.look(owner="").what == "miss"
    assert gate.look(owner="w1").what == "lead"
    assert gate.look(owner="", at=1).what == "miss"


def test_the_followers_find_what_the_leader_stored(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.look(owner="w2")
    gate.store_answer(at=5, seq=lead.seq, landing=Landing(key="k", fence=lead.fence))

    assert gate.look(owner="w2", at=6, since=0).what == "hit"


def test_a_flight_that_leaves_no_answer_lets_the_next_lead(gate: Gate) -> None:
    """An answer that is not kept: truncated, or larger than the cache."""
    lead = gate.look(owner="w1")
    gate.land("k", lead.fence, at=5)

    again = gate.look(owner="w2", at=6, since=1)

    assert again.what == "lead"
    assert again.fence > lead.fence


def test_those_who_waited_get_the_error_and_who_comes_later_does_not(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.look(owner="w2", at=1)
    gate.land("k", lead.fence, at=5, error='{"code":"overloaded"}')

    waited = gate.look(owner="w2", at=7, since=1)
    assert (waited.what, waited.error, waited.fence) == ("failed", '{"code":"overloaded"}', 0)
    assert gate.look(owner="w3", at=7, since=6).what == "lead"
    assert gate.look(owner="w4", at=8, since=8).what == "follow"


def test_an_error_is_not_lost_when_somebody_already_tries_again(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.land("k", lead.fence, at=5, error="no")
    again = gate.look(owner="w3", at=6, since=6)

    assert gate.look(owner="w2", at=7, since=1).what == "failed"
    gate.land("k", again.fence, at=8)
    assert gate.look(owner="w2", at=9, since=1).what == "failed"


def test_an_answer_is_better_than_an_error(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.land("k", lead.fence, at=5, error="no")
    gate.store_answer(at=6)

    assert gate.look(owner="w2", at=7, since=1).what == "hit"


def test_an_error_after_the_clock_was_set_back_is_nobodys(gate: Gate) -> None:
    lead = gate.look(owner="w1", at=100_000)
    gate.land("k", lead.fence, at=100_005, error="no")

    assert gate.look(owner="w2", at=0, since=0).what == "lead"


def test_a_leader_that_died_is_followed_by_who_asks_next(gate: Gate) -> None:
    dead = gate.look(owner="w1")

    assert gate.look(owner="w2", at=LEASE - 1).what == "follow"
    heir = gate.look(owner="w2", at=LEASE, since=1)

    assert heir.what == "lead"
    assert heir.fence > dead.fence
    assert gate.look(owner="w3", at=LEASE).what == "follow"


def test_a_leader_that_goes_on_keeps_its_flight(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.store.renew_flights([("k", lead.fence), ("unknown", 7)], NOW + 2 * LEASE)

    assert gate.look(owner="w2", at=2 * LEASE - 1).what == "follow"
    assert gate.look(owner="w2", at=2 * LEASE).what == "lead"


def test_a_lost_leader_cannot_take_its_flight_back(gate: Gate) -> None:
    lost = gate.look(owner="w1")
    heir = gate.look(owner="w2", at=LEASE)

    gate.store.renew_flights([("k", lost.fence)], NOW + 9 * LEASE)
    gate.land("k", lost.fence, at=LEASE + 1, error="mine")

    assert gate.look(owner="w3", at=LEASE + 2, since=1).what == "follow"
    gate.land("k", heir.fence, at=LEASE + 3)
    assert gate.look(owner="w3", at=LEASE + 4, since=1).what == "lead"


def test_a_late_answer_of_a_lost_leader_does_no_harm(gate: Gate) -> None:
    """It is an answer to the same question: the followers have it sooner, and the heir's flight goes on."""
    lost = gate.look(owner="w1")
    heir = gate.look(owner="w2", at=LEASE)

    gate.store_answer(value=b"late", at=LEASE + 1, seq=lost.seq, landing=Landing(key="k", fence=lost.fence))
    assert gate.look(owner="w3", at=LEASE + 2).what == "hit"
    gate.store_answer(value=b"heir's", at=LEASE + 3, seq=heir.seq, landing=Landing(key="k", fence=heir.fence))

    entry = gate.look(owner="w3", at=LEASE + 4).entry
    assert entry is not None
    assert entry.value == b"heir's"


def test_a_landed_flight_cannot_be_renewed_or_landed_again(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.land("k", lead.fence, at=1)

    gate.store.renew_flights([("k", lead.fence)], NOW + LEASE)
    gate.land("k", lead.fence, at=2, error="late")

    assert gate.look(owner="w2", at=3, since=1).what == "lead"


def test_who_looks_again_for_its_own_flight_leads_it_still(gate: Gate) -> None:
    """A caller that was cancelled just after it claimed: its process need not wait for its own lease to end."""
    first = gate.look(owner="w1")
    again = gate.look(owner="w1", at=1)

    assert (again.what, again.fence) == ("lead", first.fence)
    assert gate.store.cache_stats().misses == 1


def test_a_stale_answer_is_served_while_one_makes_it_anew(gate: Gate) -> None:
    gate.store_answer(fresh=10, stale=10_000)

    looks = [gate.look(owner=owner, at=20) for owner in ("w1", "w2", "w1")]

    assert [look.what for look in looks] == ["stale"] * 3
    assert [look.fence > 0 for look in looks] == [True, False, False]
    assert all(look.entry is not None for look in looks)


def test_a_refresh_that_failed_leaves_the_stale_answer(gate: Gate) -> None:
    gate.store_answer(fresh=10, stale=10_000)
    lead = gate.look(owner="w1", at=20)
    gate.land("k", lead.fence, at=25, error="no")

    again = gate.look(owner="w2", at=30, since=21)

    assert again.what == "stale"
    assert again.fence > lead.fence


def test_a_refresh_replaces_the_stale_answer(gate: Gate) -> None:
    gate.store_answer(fresh=10, stale=10_000)
    lead = gate.look(owner="w1", at=20)
    gate.store_answer(value=b"new", at=25, seq=lead.seq, landing=Landing(key="k", fence=lead.fence))

    entry = gate.look(owner="w2", at=30).entry
    assert entry is not None
    assert entry.value == b"new"


def test_an_invalidation_ends_no_flight_but_its_answer_is_not_kept(gate: Gate) -> None:
    lead = gate.look(owner="w1")
    gate.store.invalidate()

    assert gate.look(owner="w2", at=1).what == "follow"
    gate.store_answer(at=2, seq=lead.seq, landing=Landing(key="k", fence=lead.fence))

    assert gate.look(owner="w2", at=3, since=1).what == "lead"


def test_fences_never_repeat(gate: Gate) -> None:
    """Not even after a key was forgotten."""
    fences: list[int] = []
    for place in range(5):
        look = gate.look(owner=f"w{place}", at=place * 10**7)
        fences.append(look.fence)
        gate.land("k", look.fence, at=place * 10**7 + 1, error="no")
        gate.store.clean(NOW + place * 10**7 + 9 * 10**6, keep_ms=1)

    assert fences == sorted(set(fences))
