"""Arithmetic of prices: integers, tiers, what is missing, and rounding that never favours the caller."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.domain.generation import Provenance, Tokens
from claude_jobs.policy.pricing import (
    FREE,
    Price,
    Rates,
    nusd,
    nusd_of,
    rates_at,
    rates_of,
    scaled,
    usd_text,
    worst_nusd,
)

TIERED = Price(
    source="test",
    tiers=(
        rates_of(input_usd=Decimal(2), output_usd=Decimal(10), cache_read_usd=Decimal("0.1")),
        rates_of(above=1000, input_usd=Decimal(4), output_usd=Decimal(15), cache_read_usd=Decimal("0.2")),
    ),
)
COUNTS = st.integers(0, 10**8)
RATES = st.builds(
    Rates,
    input=st.integers(0, 10**12),
    output=st.integers(0, 10**12),
    cache_read=st.integers(0, 10**12),
    cache_write=st.integers(0, 10**12),
    cache_write_1h=st.integers(0, 10**12),
)


def test_a_call_costs_the_sum_of_its_parts() -> None:
    assert nusd(TIERED, Tokens(input=100, output=10, cache_read=50)) == 100 * 2_000 + 10 * 10_000 + 50 * 100


def test_thinking_is_within_the_output_and_costs_nothing_more() -> None:
    assert nusd(TIERED, Tokens(output=10, thinking=8)) == nusd(TIERED, Tokens(output=10))


def test_the_tier_of_the_whole_input_holds_for_every_token() -> None:
    assert nusd(TIERED, Tokens(input=400, cache_read=600, output=1)) == 400 * 2_000 + 600 * 100 + 10_000
    assert nusd(TIERED, Tokens(input=401, cache_read=600, output=1)) == 401 * 4_000 + 600 * 200 + 15_000
    assert rates_at(TIERED, 0) is TIERED.tiers[0]


def test_what_has_no_rate_of_its_own_costs_what_is_more_general() -> None:
    plain = rates_of(input_usd=Decimal(3), output_usd=Decimal(15))
    written = rates_of(input_usd=Decimal(3), output_usd=Decimal(15), cache_write_usd=Decimal(4))

    assert (plain.cache_read, plain.cache_write, plain.cache_write_1h) == (plain.input,) * 3
    assert written.cache_write_1h == written.cache_write == nusd_of(Decimal(4))


def test_writes_for_an_hour_are_a_part_of_the_writes() -> None:
    price = Price(
        source="", tiers=(Rates(input=0, output=0, cache_read=0, cache_write=10**6, cache_write_1h=2 * 10**6),)
    )

    assert nusd(price, Tokens(cache_write=10, cache_write_1h=4)) == 6 + 8
    assert nusd(price, Tokens(cache_write=10, cache_write_1h=40)) == 20


def test_unknown_tokens_have_no_cost_unless_nothing_costs_anything() -> None:
    unknown = Tokens(provenance=Provenance.UNKNOWN)

    assert nusd(TIERED, unknown) is None
    assert nusd(Price(source="local", tiers=(FREE,)), unknown) == 0


def test_estimated_tokens_are_priced_like_others() -> None:
    assert nusd(TIERED, Tokens(input=5, provenance=Provenance.ESTIMATED)) == nusd(TIERED, Tokens(input=5))


def test_figures_below_zero_earn_nothing() -> None:
    assert nusd(TIERED, Tokens(input=-50, output=10, cache_read=-1, cache_write_1h=-3)) == 10 * 10_000


@given(RATES, COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_cost_is_rounded_up_once_and_never_below_the_exact_one(
    rates: Rates, fresh: int, output: int, read: int, written: int
) -> None:
    exact = fresh * rates.input + output * rates.output + read * rates.cache_read + written * rates.cache_write
    tokens = Tokens(input=fresh, output=output, cache_read=read, cache_write=written)

    cost = nusd(Price(source="", tiers=(rates,)), tokens)

    assert cost is not None
    assert 0 <= cost * 10**6 - exact < 10**6


@given(RATES, RATES, st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_reservation_covers_whatever_the_call_then_is(
    low: Rates, high: Rates, edge: int, given_tokens: int, output: int, split: int
) -> None:
    price = Price(source="", tiers=(low, replace(high, above=edge)))
    written = min(split, given_tokens)

    most = worst_nusd(price, given_tokens, output)

    for tokens in (
        Tokens(input=given_tokens, output=output),
        Tokens(input=given_tokens - written, cache_write=written, output=output // 2),
    ):
        cost = nusd(price, tokens)
        assert cost is not None
        assert cost <= most


def test_a_prompt_estimated_just_below_a_tier_is_reserved_above_it() -> None:
    assert worst_nusd(TIERED, 900, 10) == 900 * 4_000 + 10 * 15_000
    assert worst_nusd(TIERED, 700, 10) == 700 * 2_000 + 10 * 10_000


def test_a_batch_costs_its_part_of_every_rate() -> None:
    half = scaled(TIERED, Decimal("0.5"), "half")
    tokens = Tokens(input=2_000, output=100, cache_read=40)
    whole, part = nusd(TIERED, tokens), nusd(half, tokens)

    assert half.source == "half"
    assert whole is not None
    assert part == whole // 2


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (1_250_000, "0.001250000"),
        (10**18 + 7, "1000000000.000000007"),
        (-5, "-0.000000005"),
    ],
)
def test_dollars_are_written_exactly(amount: int, text: str) -> None:
    assert usd_text(amount) == text
    assert nusd_of(Decimal(text)) == amount
