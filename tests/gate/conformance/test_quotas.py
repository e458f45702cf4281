"""Reservations and quotas: facts/gateway.md 4.1, rule by rule."""

from __future__ import annotations

import pytest
from gate.builders import HOUR, LEASE, NOW, ROUTE, Gate, quota

from claude_jobs.policy.quota import Scope, Unit
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import Refused, RefusedBy, Reserved

TOKENS = quota(100)
DOLLARS = quota(1_000, unit=Unit.NUSD)
REQUESTS = quota(3, unit=Unit.REQUESTS)
MODEL = quota(50, scope=Scope.MODEL, subject="openai/gpt")


def test_a_reservation_holds_its_amounts_until_it_is_settled(gate: Gate) -> None:
    assert gate.had("r", (TOKENS, 60), (DOLLARS, 500)) == Reserved(id="r")
    assert (gate.stands(TOKENS), gate.stands(DOLLARS)) == ((0, 60), (0, 500))

    assert gate.settle("r", tokens=20, nusd=300)

    assert (gate.stands(TOKENS), gate.stands(DOLLARS)) == ((20, 0), (300, 0))


def test_all_counters_or_none(gate: Gate) -> None:
    answer = gate.ask("r", (TOKENS, 10), (DOLLARS, 10), (MODEL, 51))

    assert isinstance(answer, Refused)
    assert [gate.stands(one) for one in (TOKENS, DOLLARS, MODEL)] == [(0, 0)] * 3


def test_a_denial_tells_limit_used_asked_and_reset(gate: Gate) -> None:
    gate.had("a", (TOKENS, 30))
    gate.settle("a", tokens=30)
    gate.had("b", (TOKENS, 50))

    assert gate.ask("c", (TOKENS, 21), at=5) == Refused(
        by=RefusedBy.QUOTA,
        counter="org acme, tokens per 3600 s",
        limit=100,
        used=80,
        asked=21,
        retry_at_ms=NOW + HOUR,
        is_org=True,
    )
    assert isinstance(gate.ask("c", (TOKENS, 20), at=6), Reserved)


def test_a_denial_consumes_nothing_anywhere(gate: Gate) -> None:
    """No quota, no rate, no place of a probe, nothing of a key's announced limits."""
    rate = Rate(id="org:acme|requests", per_minute=60, burst=1)
    gate.had("full", (MODEL, 50))

    for place in range(20):
        assert isinstance(gate.ask(f"r{place}", (TOKENS, 10), (MODEL, 1), rates=((rate, 1),), route=ROUTE), Refused)

    assert gate.stands(TOKENS) == (0, 0)
    assert isinstance(gate.ask("s", (TOKENS, 100), rates=((rate, 1),)), Reserved)


@pytest.mark.parametrize("scope", [Scope.MODEL, Scope.KEY])
def test_only_an_organizations_quota_is_the_same_on_every_route(gate: Gate, scope: Scope) -> None:
    refused = gate.ask("r", (quota(1, scope=scope), 2))

    assert isinstance(refused, Refused)
    assert not refused.is_org


def test_what_is_more_than_the_limit_will_never_fit(gate: Gate) -> None:
    refused = gate.ask("r", (TOKENS, 101))

    assert isinstance(refused, Refused)
    assert (refused.asked, refused.retry_at_ms) == (101, 0)


def test_zero_is_nothing_at_all(gate: Gate) -> None:
    for amount in (0, 1):
        refused = gate.ask("r", (quota(0), amount))
        assert isinstance(refused, Refused)
        assert (refused.limit, refused.retry_at_ms) == (0, 0)


def test_no_quota_is_no_limit(gate: Gate) -> None:
    for place in range(5):
        assert isinstance(gate.ask(f"r{place}"), Reserved)
        assert gate.settle(f"r{place}", tokens=10**12)


def test_settling_twice_changes_nothing(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60))

    assert [gate.settle("r", tokens=20), gate.settle("r", tokens=99), gate.settle("never")] == [True, False, False]
    assert gate.stands(TOKENS) == (20, 0)


def test_what_was_used_beyond_the_reservation_is_booked_in_full(gate: Gate) -> None:
    """And nothing is admitted until the window is below its limit again."""
    gate.had("r", (TOKENS, 60))
    gate.settle("r", tokens=250)

    assert gate.stands(TOKENS) == (250, 0)
    for amount in (0, 1, 100):
        refused = gate.ask("s", (TOKENS, amount), at=1)
        assert isinstance(refused, Refused)
        assert refused.used == 250
    assert isinstance(gate.ask("s", (TOKENS, 100), at=HOUR), Reserved)


def test_unknown_usage_keeps_what_was_reserved(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60), (DOLLARS, 500), (REQUESTS, 1))
    gate.settle("r", tokens=None, nusd=3)

    assert [gate.stands(one) for one in (TOKENS, DOLLARS, REQUESTS)] == [(60, 0), (3, 0), (1, 0)]


def test_an_attempt_that_never_reached_the_provider_gives_all_back(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60), (REQUESTS, 1))
    gate.settle("r", tokens=0, nusd=0, requests=0)

    assert [gate.stands(one) for one in (TOKENS, REQUESTS)] == [(0, 0)] * 2


def test_a_lease_that_ends_frees_what_it_held(gate: Gate) -> None:
    gate.had("dead", (TOKENS, 100))

    assert isinstance(gate.ask("r", (TOKENS, 1), at=LEASE - 1), Refused)
    assert gate.stands(TOKENS, at=LEASE) == (0, 0)
    assert isinstance(gate.ask("r", (TOKENS, 100), at=LEASE), Reserved)


def test_many_dead_reservations_free_themselves_at_once(gate: Gate) -> None:
    many = quota(1_000)
    for place in range(1_000):
        gate.had(f"dead{place}", (many, 1))

    assert isinstance(gate.ask("r", (many, 1_000), at=LEASE), Reserved)


def test_a_settlement_after_the_lease_is_charged_in_full(gate: Gate) -> None:
    gate.had("late", (TOKENS, 60))
    gate.had("next", (TOKENS, 100), at=LEASE)

    assert gate.settle("late", at=LEASE + 1, tokens=55)
    assert not gate.settle("late", at=LEASE + 2, tokens=55)
    assert gate.stands(TOKENS, at=LEASE + 3) == (55, 100)


def test_a_renewed_lease_goes_on(gate: Gate) -> None:
    gate.had("long", (TOKENS, 60))

    assert gate.store.renew(["long", "unknown"], NOW + 2 * LEASE) == ("long",)
    assert gate.stands(TOKENS, at=2 * LEASE - 1) == (0, 60)
    assert gate.stands(TOKENS, at=2 * LEASE) == (0, 0)


def test_what_was_swept_while_its_owner_slept_is_held_again(gate: Gate) -> None:
    gate.had("slept", (TOKENS, 60))
    gate.had("other", (TOKENS, 100), at=LEASE)

    assert gate.store.renew(["slept"], NOW + 3 * LEASE) == ("slept",)
    assert gate.stands(TOKENS, at=LEASE) == (0, 160)
    assert isinstance(gate.ask("r", (TOKENS, 1), at=LEASE), Refused)


def test_what_is_settled_cannot_be_renewed(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60))
    gate.settle("r", tokens=1)

    assert gate.store.renew(["r"], NOW + LEASE) == ()
    assert gate.stands(TOKENS) == (1, 0)


def test_it_is_booked_in_the_window_that_reserved(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60), at=HOUR - 1)
    assert isinstance(gate.ask("s", (TOKENS, 100), at=HOUR), Reserved)

    gate.settle("r", at=HOUR + 5, tokens=70)

    assert gate.stands(TOKENS, at=HOUR - 1) == (70, 0)
    assert gate.stands(TOKENS, at=HOUR) == (0, 100)


def test_a_clock_that_is_set_back_frees_nothing(gate: Gate) -> None:
    """Neither into a window that is over, nor a reservation."""
    gate.had("r", (TOKENS, 90), at=HOUR + 10)
    gate.settle("r", at=HOUR + 11, tokens=90)
    gate.had("s", (TOKENS, 5), at=HOUR + 12)

    assert gate.stands(TOKENS, at=HOUR) == (90, 5)
    assert isinstance(gate.ask("t", (TOKENS, 6), at=HOUR), Refused)


def test_quotas_and_windows_of_one_subject_are_counted_apart(gate: Gate) -> None:
    """A fixed window and a longer one; the smaller decides."""
    monthly = quota(120, window="month")
    gate.had("r", (TOKENS, 70), (monthly, 70))
    gate.settle("r", tokens=70)

    assert isinstance(gate.ask("s", (TOKENS, 60), (monthly, 60), at=HOUR), Refused)
    assert gate.stands(TOKENS, at=HOUR) == (0, 0)
    assert gate.stands(monthly, at=HOUR) == (70, 0)


def test_subjects_are_counted_apart(gate: Gate) -> None:
    gate.had("a", (TOKENS, 100))

    assert isinstance(gate.ask("b", (quota(100, subject="other"), 100)), Reserved)


def test_a_lower_limit_counts_what_was_used_before(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60))
    gate.settle("r", tokens=60)

    assert isinstance(gate.ask("s", (quota(50), 1)), Refused)
    assert isinstance(gate.ask("s", (quota(200), 140)), Reserved)


def test_warnings_at_80_and_95_percent(gate: Gate) -> None:
    """With every call, as long as it is so."""
    assert gate.had("a", (TOKENS, 79)).warnings == ()
    (eighty,) = gate.had("b", (TOKENS, 1)).warnings
    (ninety_five,) = gate.had("c", (TOKENS, 15)).warnings

    assert "org acme, tokens per 3600 s: at 80 %" in eighty
    assert "at 95 % (95 tokens of 100 tokens)" in ninety_five


def test_quotas_that_were_set_are_read_back_in_order(gate: Gate) -> None:
    gate.store.set_quota(TOKENS)
    gate.store.set_quota(MODEL)
    gate.store.set_quota(quota(7))

    assert gate.store.quotas() == (MODEL, quota(7))
    assert [gate.store.drop_quota(MODEL.id), gate.store.drop_quota(MODEL.id)] == [True, False]
    assert gate.store.quotas() == (quota(7),)


def test_dropping_a_quota_keeps_what_was_used(gate: Gate) -> None:
    gate.store.set_quota(TOKENS)
    gate.had("r", (TOKENS, 60))
    gate.store.drop_quota(TOKENS.id)
    gate.settle("r", tokens=60)

    assert gate.stands(TOKENS) == (60, 0)


def test_uses_tell_the_present_window(gate: Gate) -> None:
    gate.had("r", (TOKENS, 60), at=HOUR)

    (use, none) = gate.store.uses([TOKENS, MODEL], NOW + HOUR + 5)

    assert (use.quota, use.used, use.held, use.starts_ms, use.resets_ms) == (TOKENS, 0, 60, NOW + HOUR, NOW + 2 * HOUR)
    assert (none.quota, none.used, none.held) == (MODEL, 0, 0)


def test_reservations_without_amounts_are_settled_once_too(gate: Gate) -> None:
    gate.had("r")

    assert [gate.settle("r"), gate.settle("r")] == [True, False]


def test_a_reservation_that_failed_was_never_made(gate: Gate) -> None:
    gate.ask("r", (TOKENS, 101))

    assert not gate.settle("r", tokens=9)
    assert gate.store.renew(["r"], NOW + LEASE) == ()
    assert gate.stands(TOKENS) == (0, 0)
