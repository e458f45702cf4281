"""Rates in the store: apart from quotas, and not consumed by a denial."""

from __future__ import annotations

from gate.builders import HOUR, NOW, Gate, quota

from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import Refused, RefusedBy, Reserved

RATE = Rate(id="org:acme|requests", per_minute=60, burst=2)


def test_a_rate_lets_a_burst_pass_and_then_says_when_the_next_may(gate: Gate) -> None:
    answers = [gate.ask(f"r{place}", rates=((RATE, 1),)) for place in range(3)]

    assert [type(answer) for answer in answers] == [Reserved, Reserved, Refused]
    refused = answers[2]
    assert refused == Refused(by=RefusedBy.RATE, counter=RATE.id, limit=60, asked=1, retry_at_ms=NOW + 1_000)
    assert isinstance(gate.ask("s", rates=((RATE, 1),), at=999), Refused)
    assert isinstance(gate.ask("s", rates=((RATE, 1),), at=1_000), Reserved)


def test_all_rates_or_none(gate: Gate) -> None:
    full = Rate(id="org:acme|tokens", per_minute=60, burst=1)
    gate.ask("r", rates=((full, 1),))

    for place in range(5):
        assert isinstance(gate.ask(f"r{place}", rates=((RATE, 1), (full, 1))), Refused)

    assert isinstance(gate.ask("s", rates=((RATE, 2),)), Reserved)


def test_a_rate_is_not_consumed_where_a_quota_refuses(gate: Gate) -> None:
    for place in range(5):
        assert isinstance(gate.ask(f"r{place}", (quota(0), 1), rates=((RATE, 1),)), Refused)

    assert isinstance(gate.ask("s", rates=((RATE, 2),)), Reserved)


def test_a_quota_is_not_consumed_where_a_rate_refuses(gate: Gate) -> None:
    gate.ask("full", rates=((RATE, 2),))

    assert isinstance(gate.ask("r", (quota(100), 60), rates=((RATE, 1),)), Refused)
    assert gate.stands(quota(100)) == (0, 0)


def test_what_is_settled_gives_no_rate_back(gate: Gate) -> None:
    """A rate says how fast, not how much."""
    gate.ask("r", rates=((RATE, 2),))
    gate.settle("r", tokens=0, requests=0)

    assert isinstance(gate.ask("s", rates=((RATE, 1),)), Refused)


def test_a_reset_of_the_quota_is_none_of_the_rate(gate: Gate) -> None:
    gate.ask("r", (quota(1), 1), rates=((RATE, 2),), at=HOUR - 1)

    refused = gate.ask("s", (quota(1), 1), rates=((RATE, 1),), at=HOUR)

    assert isinstance(refused, Refused)
    assert refused.by is RefusedBy.RATE


def test_zero_per_minute_lets_nothing_pass(gate: Gate) -> None:
    refused = gate.ask("r", rates=((Rate(id="r", per_minute=0), 1),))

    assert isinstance(refused, Refused)
    assert (refused.by, refused.limit, refused.retry_at_ms) == (RefusedBy.RATE, 0, 0)


def test_what_is_dearer_than_the_burst_passes_and_is_paid_for_afterwards(gate: Gate) -> None:
    assert isinstance(gate.ask("r", rates=((RATE, 30),)), Reserved)

    refused = gate.ask("s", rates=((RATE, 1),), at=1)
    assert isinstance(refused, Refused)
    assert refused.retry_at_ms == NOW + 29_000


def test_rates_are_kept_apart_by_their_id(gate: Gate) -> None:
    gate.ask("r", rates=((RATE, 2),))

    assert isinstance(gate.ask("s", rates=((Rate(id="org:b|requests", per_minute=60, burst=2), 2),)), Reserved)
