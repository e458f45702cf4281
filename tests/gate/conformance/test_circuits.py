"""Circuits in the store: one state for all who share it, probes owned by their reservations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gate.builders import NOW, ROUTE, RULES, Gate, quota

from claude_jobs.policy.breaker import AGAIN_MS, JITTER, BreakerRules, CircuitState, Phase, Verdict
from claude_jobs.stores.gate import Refused, RefusedBy, Reserved

OTHER = replace(ROUTE, key="k2")
RECOVERED = int(RULES.recovery_ms * (1 + JITTER)) + 1
"""From then on a circuit that opened at NOW lets probes in, whatever the jitter."""


def state(gate: Gate, *, at: int = 0) -> CircuitState:
    return dict(gate.store.circuits(NOW + at)).get(ROUTE, CircuitState())


def opened(gate: Gate) -> None:
    for place in range(RULES.failure_threshold):
        gate.call(f"fault{place}", Verdict.FAULT)
    assert state(gate).phase is Phase.OPEN


def test_faults_in_a_row_open_it_for_everybody(gate: Gate) -> None:
    opened(gate)

    refused = gate.attempt("r", at=1)
    assert isinstance(refused, Refused)
    assert refused.by is RefusedBy.CIRCUIT
    assert "openai" in refused.counter
    assert NOW + RULES.recovery_ms <= refused.retry_at_ms < NOW + RECOVERED


def test_the_ratio_opens_it_once_there_are_enough_calls(gate: Gate) -> None:
    rules = replace(RULES, failure_threshold=0)
    for place, verdict in enumerate((Verdict.FAULT, Verdict.OK, Verdict.OK, Verdict.OK, Verdict.SLOW)):
        gate.call(f"c{place}", verdict, rules=rules)
        assert state(gate).phase is Phase.CLOSED

    gate.call("half of them", Verdict.SLOW, rules=rules)

    assert state(gate).phase is Phase.OPEN


def test_neutral_is_counted_nowhere(gate: Gate) -> None:
    for place in range(20):
        gate.call(f"c{place}", Verdict.NEUTRAL)

    assert state(gate) == CircuitState()


def test_circuits_of_routes_are_apart(gate: Gate) -> None:
    """By provider, model and key."""
    opened(gate)

    for place, route in enumerate((OTHER, replace(ROUTE, model="mini"), replace(ROUTE, provider="qwen"))):
        assert isinstance(gate.attempt(f"r{place}", route=route), Reserved)


def test_one_probe_at_a_time_owned_by_its_reservation(gate: Gate) -> None:
    opened(gate)

    assert gate.attempt("p", at=RECOVERED) == Reserved(id="p", is_probe=True)
    refused = gate.attempt("q", at=RECOVERED)

    assert isinstance(refused, Refused)
    assert refused.retry_at_ms == NOW + RECOVERED + AGAIN_MS
    assert [probe for probe, _ in state(gate, at=RECOVERED).probes] == ["p"]


def test_so_many_probes_as_the_rules_say(gate: Gate) -> None:
    opened(gate)
    rules = replace(RULES, probes=3, closes_after=3)

    answers = [gate.attempt(f"p{place}", at=RECOVERED, rules=rules) for place in range(5)]

    assert [isinstance(answer, Reserved) and answer.is_probe for answer in answers] == [True] * 3 + [False] * 2


def test_a_good_probe_closes_it(gate: Gate) -> None:
    opened(gate)
    gate.attempt("p", at=RECOVERED)
    gate.settle("p", at=RECOVERED + 1, route=ROUTE, verdict=Verdict.OK)

    assert state(gate, at=RECOVERED) == CircuitState()
    assert gate.attempt("r", at=RECOVERED + 2) == Reserved(id="r")


def test_it_closes_after_as_many_good_probes_as_the_rules_say(gate: Gate) -> None:
    opened(gate)
    rules = replace(RULES, closes_after=2)

    gate.call("p", Verdict.OK, at=RECOVERED, rules=rules)
    assert state(gate, at=RECOVERED).phase is Phase.HALF_OPEN
    gate.call("q", Verdict.OK, at=RECOVERED, rules=rules)

    assert state(gate, at=RECOVERED).phase is Phase.CLOSED


@pytest.mark.parametrize("verdict", [Verdict.FAULT, Verdict.SLOW])
def test_a_bad_probe_opens_it_for_twice_as_long(gate: Gate, verdict: Verdict) -> None:
    opened(gate)
    gate.call("p", verdict, at=RECOVERED)

    refused = gate.attempt("q", at=RECOVERED + 2 * RULES.recovery_ms - 1)

    assert isinstance(refused, Refused)
    assert refused.retry_at_ms >= NOW + RECOVERED + 2 * RULES.recovery_ms
    assert isinstance(gate.attempt("q", at=RECOVERED + 2 * RECOVERED), Reserved)


def test_a_lost_probe_frees_itself(gate: Gate) -> None:
    opened(gate)
    gate.attempt("lost", at=RECOVERED)

    assert isinstance(gate.attempt("q", at=RECOVERED + RULES.probe_ms - 1), Refused)
    assert gate.attempt("q", at=RECOVERED + RULES.probe_ms) == Reserved(id="q", is_probe=True)


def test_a_probe_that_ends_without_a_verdict_gives_its_place_to_the_next(gate: Gate) -> None:
    opened(gate)
    gate.call("p", Verdict.NEUTRAL, at=RECOVERED)

    assert gate.attempt("q", at=RECOVERED) == Reserved(id="q", is_probe=True)


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.FAULT])
def test_a_call_begun_before_it_opened_tells_nothing_when_it_ends(gate: Gate, verdict: Verdict) -> None:
    gate.attempt("late")
    gate.attempt("later")
    opened(gate)
    before = state(gate)
    gate.settle("late", at=1, route=ROUTE, verdict=verdict)
    assert state(gate) == before

    gate.attempt("p", at=RECOVERED)
    gate.settle("later", at=RECOVERED + 1, route=ROUTE, verdict=verdict)

    assert state(gate, at=RECOVERED).phase is Phase.HALF_OPEN


def test_settling_a_probe_twice_counts_once(gate: Gate) -> None:
    rules = replace(RULES, closes_after=2)
    opened(gate)
    gate.attempt("p", at=RECOVERED, rules=rules)

    for _ in range(3):
        gate.settle("p", at=RECOVERED, route=ROUTE, verdict=Verdict.OK, rules=rules)

    assert state(gate, at=RECOVERED).probes_ok == 1


def test_a_longer_deadline_of_another_process_holds(gate: Gate) -> None:
    """Both learn of the outage; the one with the longer recovery opened it."""
    patient = replace(RULES, recovery_ms=60_000)
    gate.attempt("a", rules=patient)
    gate.attempt("b")
    gate.settle("a", route=ROUTE, verdict=Verdict.FAULT, rules=replace(patient, failure_threshold=1))
    gate.settle("b", at=1, route=ROUTE, verdict=Verdict.FAULT, rules=replace(RULES, failure_threshold=1))

    refused = gate.attempt("c", at=RECOVERED)

    assert isinstance(refused, Refused)
    assert refused.retry_at_ms >= NOW + 60_000


def test_a_refusal_by_the_circuit_holds_no_quota(gate: Gate) -> None:
    opened(gate)

    assert isinstance(gate.ask("r", (quota(100), 10), at=1, route=ROUTE), Refused)
    assert gate.stands(quota(100)) == (0, 0)


def test_a_quota_refuses_before_the_circuit_is_asked(gate: Gate) -> None:
    """So that no probe is spent on what may not be sent."""
    opened(gate)

    refused = gate.ask("r", (quota(0), 1), at=RECOVERED, route=ROUTE)

    assert isinstance(refused, Refused)
    assert refused.by is RefusedBy.QUOTA
    assert state(gate, at=RECOVERED).phase is Phase.OPEN


def test_reservations_without_a_route_ask_no_circuit(gate: Gate) -> None:
    opened(gate)

    assert gate.ask("r", at=1) == Reserved(id="r")


def test_a_clock_that_is_set_back_lets_a_probe_find_out(gate: Gate) -> None:
    opened(gate)

    assert gate.attempt("r", at=-BreakerRules().longest_ms * 9) == Reserved(id="r", is_probe=True)


def test_what_nobody_used_lately_is_not_told(gate: Gate) -> None:
    gate.call("a", Verdict.OK)
    gate.call("b", Verdict.OK, at=3_000_000, route=OTHER)

    assert [route for route, _ in gate.store.circuits(NOW + 3_000_000)] == [ROUTE, OTHER]
    assert [route for route, _ in gate.store.circuits(NOW + 3_700_000)] == [OTHER]
