"""When a circuit opens, who may find out whether it closes, and what a late answer does."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.policy.breaker import (
    AGAIN_MS,
    JITTER,
    LATELY_MS,
    BreakerRules,
    CircuitState,
    Phase,
    Verdict,
    admit,
    is_telling,
    luck,
    record,
)

NOW = 1_800_000_000_000
RULES = BreakerRules(failure_threshold=5, recovery_ms=1_000, longest_ms=8_000, window_ms=10_000, min_calls=10)
BY_RATIO = replace(RULES, failure_threshold=0)
OPEN = CircuitState(phase=Phase.OPEN, open_until_ms=NOW, opened=1)
verdicts = st.sampled_from(Verdict)
lucks = st.floats(0, 0.999)


def after(*verdicts: Verdict, rules: BreakerRules = RULES, step_ms: int = 1) -> CircuitState:
    """A new circuit after calls that ended so, one every `step_ms`."""
    state = CircuitState()
    for place, verdict in enumerate(verdicts):
        state = record(state, NOW + place * step_ms, verdict, f"c{place}", rules, 0.0)
    return state


def probing(
    state: CircuitState = OPEN, probe_id: str = "p", now_ms: int = NOW, rules: BreakerRules = RULES
) -> CircuitState:
    """The circuit with one more probe under way."""
    admitted = admit(state, now_ms, probe_id, rules)
    assert not isinstance(admitted, int)
    assert admitted[1]
    return admitted[0]


def test_consecutive_faults_open_it_before_there_are_enough_for_a_ratio() -> None:
    assert after(*[Verdict.FAULT] * 4).phase is Phase.CLOSED
    assert after(*[Verdict.FAULT] * 5).phase is Phase.OPEN


@pytest.mark.parametrize("between", [Verdict.OK, Verdict.SLOW])
def test_an_answer_ends_the_row_of_faults(between: Verdict) -> None:
    state = after(*[Verdict.FAULT] * 4, between, *[Verdict.FAULT] * 4, rules=replace(RULES, min_calls=99))

    assert state.phase is Phase.CLOSED
    assert state.faults_in_a_row == 4


def test_neutral_counts_for_nothing() -> None:
    """429s, 4xx, cancelled calls: they are in no bucket, and neither begin nor end a row."""
    faults = after(*[Verdict.FAULT] * 4)

    state = faults
    for place in range(50):
        state = record(state, NOW + 4, Verdict.NEUTRAL, f"n{place}", RULES, 0.0)

    assert state == faults


@pytest.mark.parametrize("bad", [Verdict.FAULT, Verdict.SLOW])
def test_half_of_the_calls_open_it_once_there_are_enough(bad: Verdict) -> None:
    assert after(*[Verdict.OK, bad] * 4, Verdict.OK, rules=BY_RATIO).phase is Phase.CLOSED
    assert after(*[Verdict.OK, bad] * 5, rules=BY_RATIO).phase is Phase.OPEN
    assert after(*[Verdict.OK, Verdict.OK, bad] * 9, rules=BY_RATIO).phase is Phase.CLOSED


def test_what_is_older_than_the_window_is_forgotten() -> None:
    old = after(*[Verdict.FAULT] * 4, *[Verdict.OK] * 5, rules=BY_RATIO)

    state = record(old, NOW + BY_RATIO.window_ms * 2, Verdict.FAULT, "x", BY_RATIO, 0.0)

    assert state.phase is Phase.CLOSED
    assert [bucket[1:] for bucket in state.buckets] == [(0, 1, 0)]


@given(st.lists(st.tuples(st.integers(-500, 3_000), verdicts), max_size=40))
def test_buckets_are_few_ordered_and_within_the_window(calls: list[tuple[int, Verdict]]) -> None:
    state, now_ms = CircuitState(), NOW
    for step_ms, verdict in calls:
        now_ms += step_ms
        state = record(state, now_ms, verdict, "x", replace(BY_RATIO, ratio=2.0), 0.0)

    starts = [bucket[0] for bucket in state.buckets]
    assert starts == sorted(set(starts))
    assert len(starts) <= 21
    assert sum(sum(bucket[1:]) for bucket in state.buckets) <= sum(
        verdict is not Verdict.NEUTRAL for _, verdict in calls
    )


def test_an_open_circuit_refuses_until_its_time() -> None:
    state = after(*[Verdict.FAULT] * 5)

    until_ms = NOW + 4 + RULES.recovery_ms
    assert [admit(state, NOW + at, "x", RULES) for at in (5, 1_003)] == [until_ms] * 2
    assert admit(state, until_ms, "x", RULES) == (probing(state, "x", until_ms), True)


@given(st.integers(0, 40), lucks)
def test_it_stays_open_twice_as_long_each_time_and_a_little_longer_by_chance(times: int, rnd: float) -> None:
    state = record(probing(replace(OPEN, opened=times)), NOW, Verdict.FAULT, "p", RULES, rnd)

    base_ms = min(RULES.longest_ms, RULES.recovery_ms * 2**times)
    assert state.opened == times + 1
    assert base_ms <= state.open_until_ms - NOW <= base_ms * (1 + JITTER)
    assert (state.phase, state.probes, state.buckets) == (Phase.OPEN, (), ())


def test_somebody_elses_longer_deadline_holds() -> None:
    """Two processes with different settings, or one that learns of an opening late."""
    patient = replace(RULES, recovery_ms=8_000)
    known = probing(replace(OPEN, open_until_ms=NOW - 1))
    known = replace(known, open_until_ms=NOW + 7_000)

    assert record(known, NOW, Verdict.FAULT, "p", RULES, 0.0).open_until_ms == NOW + 7_000
    assert record(known, NOW, Verdict.FAULT, "p", patient, 0.0).open_until_ms == NOW + 8_000


@given(st.integers(1, 4), st.integers(1, 12))
def test_never_more_probes_at_once_than_allowed(probes: int, asking: int) -> None:
    rules, state, let_in = replace(RULES, probes=probes), OPEN, 0
    for place in range(asking):
        admitted = admit(state, NOW + place, f"p{place}", rules)
        if isinstance(admitted, int):
            assert NOW + place < admitted <= NOW + place + AGAIN_MS
        else:
            state, is_probe = admitted
            let_in += is_probe

    assert let_in == min(probes, asking)


def test_a_lost_probe_frees_itself() -> None:
    state = probing()

    assert isinstance(admit(state, NOW + RULES.probe_ms - 1, "q", RULES), int)
    assert not isinstance(admit(state, NOW + RULES.probe_ms, "q", RULES), int)


def test_a_probe_that_took_longer_than_its_lease_still_tells_what_it_found() -> None:
    """Else answers that always take longer would never close the circuit."""
    later_ms = NOW + RULES.probe_ms + 9
    state = probing(probing(), "q", later_ms)

    assert record(state, later_ms, Verdict.OK, "p", RULES, 0.0) == CircuitState()
    assert record(state, later_ms, Verdict.FAULT, "p", RULES, 0.0).phase is Phase.OPEN


def test_lost_probes_do_not_add_up() -> None:
    state = OPEN
    for place in range(100):
        state = probing(state, f"p{place}", NOW + place * RULES.probe_ms)

    assert len(state.probes) <= 8


@given(st.integers(1, 4))
def test_it_closes_after_so_many_good_probes(closes_after: int) -> None:
    rules, state = replace(RULES, closes_after=closes_after), OPEN
    for place in range(closes_after):
        assert state.phase is not Phase.CLOSED
        state = record(probing(state, f"p{place}", NOW, rules), NOW, Verdict.OK, f"p{place}", rules, 0.0)

    assert state == CircuitState()


@pytest.mark.parametrize("verdict", [Verdict.FAULT, Verdict.SLOW])
def test_a_bad_probe_opens_it_again(verdict: Verdict) -> None:
    rules = replace(RULES, closes_after=2)
    state = record(probing(rules=rules), NOW, Verdict.OK, "p", rules, 0.0)
    state = record(probing(state, "q", NOW, rules), NOW, verdict, "q", rules, 0.0)

    assert (state.phase, state.opened, state.probes_ok) == (Phase.OPEN, 2, 0)


def test_a_probe_that_told_nothing_gives_its_place_to_the_next() -> None:
    state = record(probing(), NOW, Verdict.NEUTRAL, "p", RULES, 0.0)

    assert (state.phase, state.probes) == (Phase.HALF_OPEN, ())
    assert probing(state, "q").probes


@given(verdicts, st.sampled_from((OPEN, probing())))
def test_what_began_before_it_opened_changes_nothing(verdict: Verdict, state: CircuitState) -> None:
    assert record(state, NOW, verdict, "late", RULES, 0.5) == state


@given(st.lists(st.tuples(st.sampled_from("abc"), verdicts, st.integers(0, 2_000)), max_size=60), st.integers(1, 3))
def test_it_closes_by_probes_alone(calls: list[tuple[str, Verdict, int]], probes: int) -> None:
    """Whatever comes: never two more probes than allowed, and from not closed to closed only by a probe's OK."""
    rules, state, now_ms = replace(RULES, probes=probes), CircuitState(), NOW
    for place, (name, verdict, step_ms) in enumerate(calls):
        now_ms += step_ms
        admitted = admit(state, now_ms, f"{name}{place % 5}", rules)
        if not isinstance(admitted, int):
            state = admitted[0]
        assert sum(until > now_ms for _, until in state.probes) <= probes
        known = {probe for probe, _ in state.probes}
        before, state = state, record(state, now_ms, verdict, f"{name}{place % 3}", rules, 0.0)
        if before.phase is not Phase.CLOSED and state.phase is Phase.CLOSED:
            assert verdict is Verdict.OK
            assert f"{name}{place % 3}" in known


@given(st.integers(0, 10**10))
def test_a_clock_that_is_set_back_keeps_no_circuit_open_for_long(back_ms: int) -> None:
    opened, half_open = after(*[Verdict.FAULT] * 5), probing()

    longest_ms = int(RULES.longest_ms * (1 + JITTER)) + AGAIN_MS
    for state in (opened, half_open):
        admitted = admit(state, NOW - back_ms, "x", RULES)
        if isinstance(admitted, int):
            assert admitted - (NOW - back_ms) <= longest_ms


def test_a_clock_that_is_set_back_does_not_lose_recent_faults() -> None:
    state = after(*[Verdict.FAULT] * 4)

    assert record(state, NOW - 3_000, Verdict.FAULT, "x", RULES, 0.0).phase is Phase.OPEN


@given(st.text())
def test_luck_is_chance_by_the_reservation(reservation_id: str) -> None:
    assert 0 <= luck(reservation_id) < 1
    assert luck(reservation_id) == luck(reservation_id)


def test_luck_is_spread_evenly() -> None:
    lucks = [luck(f"r-{place}") for place in range(1_000)]

    assert all(60 <= sum(tenth <= one * 10 < tenth + 1 for one in lucks) <= 140 for tenth in range(10))


def test_what_is_worth_telling() -> None:
    assert not is_telling(CircuitState(), NOW)
    assert is_telling(OPEN, NOW + 10 * LATELY_MS)
    assert is_telling(after(Verdict.OK), NOW)
    assert not is_telling(after(Verdict.OK), NOW + LATELY_MS)
