"""GCRA: what passes within any time, and what a denial leaves behind."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from claude_jobs.policy.rates import LONGEST_DEBT_MINUTES, MINUTE_US, Rate, burst_of, decide

NOW = 1_800_000_000_000
MINUTE_MS = 60_000

rates = st.builds(
    Rate, id=st.just("r"), per_minute=st.sampled_from((1, 7, 60, 1_000, 100_000)), burst=st.sampled_from((0, 1, 5, 500))
)
steps = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 50_000)), max_size=25)


@given(rates, steps)
def test_no_more_passes_than_the_burst_and_what_is_earned_since(rate: Rate, steps: list[tuple[int, int]]) -> None:
    """Over any stretch of time. The dearest single use counts beside the burst, since it may pass a full one."""
    tat_us, now_ms = 0, NOW
    passed: list[tuple[int, int]] = []
    for step_ms, cost in steps:
        now_ms += step_ms
        charged = min(cost, max(burst_of(rate), rate.per_minute * LONGEST_DEBT_MINUTES))
        tat_us, wait_ms = decide(tat_us, rate, cost, now_ms)
        if not wait_ms:
            passed.append((now_ms, charged))

    for first, (begin_ms, _) in enumerate(passed):
        total = 0
        for at_ms, cost in passed[first:]:
            total += cost
            earned = (at_ms - begin_ms + 1) * rate.per_minute / MINUTE_MS
            assert total <= max(burst_of(rate), cost) + earned + 1


@given(rates, steps)
def test_a_denial_uses_up_nothing_and_says_exactly_when(rate: Rate, steps: list[tuple[int, int]]) -> None:
    tat_us, now_ms = 0, NOW
    for step_ms, cost in steps:
        now_ms += step_ms
        after_us, wait_ms = decide(tat_us, rate, cost, now_ms)
        if wait_ms:
            assert after_us == tat_us
            assert decide(tat_us, rate, cost, now_ms + wait_ms)[1] == 0
            assert decide(tat_us, rate, cost, now_ms + wait_ms - 1)[1] > 0
        tat_us = after_us


@given(rates)
def test_the_burst_may_come_at_once(rate: Rate) -> None:
    tat_us, passed, wait_ms = 0, -1, 0
    while not wait_ms:
        tat_us, wait_ms = decide(tat_us, rate, 1, NOW)
        passed += 1

    assert passed == burst_of(rate)


@given(rates, st.integers(1, 10**9))
def test_what_is_dearer_than_the_burst_is_spread_and_never_refused_for_ever(rate: Rate, cost: int) -> None:
    tat_us, wait_ms = decide(0, rate, cost, NOW)

    assert wait_ms == 0
    _, pause_ms = decide(tat_us, rate, cost, NOW)
    assert pause_ms <= max(LONGEST_DEBT_MINUTES * MINUTE_MS, burst_of(rate) * MINUTE_MS // rate.per_minute + 1)


def test_twice_the_burst_costs_twice_the_pause() -> None:
    rate = Rate(id="r", per_minute=60, burst=10)

    tat_us, _ = decide(0, rate, 20, NOW)

    assert tat_us == NOW * 1_000 + 20 * MINUTE_US // 60
    assert decide(tat_us, rate, 1, NOW)[1] == 11_000


@given(st.integers(0, NOW * 2_000), st.integers(0, 100))
def test_zero_per_minute_lets_nothing_pass(tat_us: int, cost: int) -> None:
    after_us, wait_ms = decide(tat_us, Rate(id="r", per_minute=0), cost, NOW)

    assert after_us == tat_us
    assert wait_ms > 0


@given(rates, st.integers(1, 10**6), st.integers(0, 10**10))
def test_a_clock_that_is_set_back_neither_stops_it_for_long_nor_gives_a_burst_for_nothing(
    rate: Rate, cost: int, back_ms: int
) -> None:
    tat_us, _ = decide(0, rate, cost, NOW)

    _, wait_ms = decide(tat_us, rate, 1, NOW - back_ms)

    longest_us = max(MINUTE_US * LONGEST_DEBT_MINUTES, -(-burst_of(rate) * MINUTE_US // rate.per_minute))
    assert wait_ms <= longest_us // 1_000 + 1
    if tat_us - (NOW - back_ms) * 1_000 <= longest_us:
        assert wait_ms >= decide(tat_us, rate, 1, NOW)[1]


def test_an_unset_burst_is_a_tenth_of_the_rate() -> None:
    assert [burst_of(Rate(id="r", per_minute=per_minute)) for per_minute in (1, 9, 600)] == [1, 1, 60]
    assert burst_of(Rate(id="r", per_minute=600, burst=3)) == 3
