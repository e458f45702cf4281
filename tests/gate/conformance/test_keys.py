"""Keys in the store: cooling, dead, and the limits that providers announce."""

from __future__ import annotations

from dataclasses import replace

from gate.builders import NOW, ROUTE, Gate, quota

from claude_jobs.domain.generation import RateHeaders
from claude_jobs.policy.breaker import Phase, Verdict
from claude_jobs.policy.keys import KeyState
from claude_jobs.stores.gate import Refused, RefusedBy, Reserved

MINI = replace(ROUTE, model="mini")
OTHER = replace(ROUTE, key="k2")


def state(gate: Gate, *, at: int = 0) -> KeyState:
    return dict(gate.store.keys(NOW + at)).get(ROUTE, KeyState())


def told(
    gate: Gate, *, at: int = 0, headers: RateHeaders | None = None, cool: int | None = None, dead: str = ""
) -> None:
    """An attempt ended with this news of its key."""
    gate.had(f"told{at}", at=at)
    assert gate.settle(f"told{at}", at=at, route=ROUTE, headers=headers, cool_until=cool, dead=dead)


def test_a_cooling_key_waits_for_this_model_only(gate: Gate) -> None:
    told(gate, cool=5_000)

    refused = gate.attempt("r", at=4_999)
    assert isinstance(refused, Refused)
    assert (refused.by, refused.retry_at_ms) == (RefusedBy.COOLING, NOW + 5_000)
    assert isinstance(gate.attempt("s", at=1, route=MINI), Reserved)
    assert isinstance(gate.attempt("t", at=1, route=OTHER), Reserved)
    assert isinstance(gate.attempt("u", at=5_000), Reserved)


def test_a_shorter_rest_does_not_end_a_longer_one(gate: Gate) -> None:
    told(gate, cool=5_000)
    told(gate, at=1, cool=3_000)
    told(gate, at=2)

    assert state(gate).cooling_until_ms == NOW + 5_000


def test_a_cooling_key_is_no_fault_of_the_provider(gate: Gate) -> None:
    for at in range(10):
        told(gate, at=at, cool=5_000)

    assert all(circuit.phase is Phase.CLOSED for _, circuit in gate.store.circuits(NOW))


def test_a_dead_key_is_dead_for_all_models_until_it_is_offered_anew(gate: Gate) -> None:
    told(gate, dead="401: wrong key")

    for place, route in enumerate((ROUTE, MINI)):
        refused = gate.attempt(f"r{place}", at=10**9, route=route)
        assert isinstance(refused, Refused)
        assert (refused.by, refused.retry_at_ms) == (RefusedBy.DEAD_KEY, 0)
    assert isinstance(gate.attempt("s", route=OTHER), Reserved)
    assert state(gate).dead == "401: wrong key"

    gate.store.revive_key("k1")

    assert state(gate).dead == ""
    for route in (ROUTE, MINI):
        assert isinstance(gate.attempt(f"t{route.model}", route=route), Reserved)


def test_the_first_reason_of_a_death_stays(gate: Gate) -> None:
    told(gate, dead="401")
    told(gate, at=1, dead="403")

    assert state(gate).dead == "401"


def test_reviving_one_key_leaves_the_others_and_what_cools(gate: Gate) -> None:
    """A key is offered anew by each process that starts: a limit that was met holds nevertheless."""
    told(gate, cool=5_000, dead="401")

    gate.store.revive_key("k2")
    assert state(gate).dead == "401"
    gate.store.revive_key("k1")

    assert state(gate) == KeyState(cooling_until_ms=NOW + 5_000)


def test_announced_requests_are_taken_until_their_reset(gate: Gate) -> None:
    told(gate, headers=RateHeaders(requests_limit=50, requests_left=2, requests_reset_s=10.0))

    answers = [gate.attempt(f"r{place}", at=1) for place in range(3)]

    assert [type(answer) for answer in answers] == [Reserved, Reserved, Refused]
    assert answers[2] == replace(answers[2], by=RefusedBy.COOLING, retry_at_ms=NOW + 10_000)
    assert isinstance(gate.attempt("s", at=10_000), Reserved)


def test_announced_tokens_are_taken_until_their_reset(gate: Gate) -> None:
    told(gate, headers=RateHeaders(tokens_limit=1_000, tokens_left=500, tokens_reset_s=10.0))

    assert isinstance(gate.attempt("a", needs=300), Reserved)
    refused = gate.attempt("b", needs=300)

    assert isinstance(refused, Refused)
    assert refused.retry_at_ms == NOW + 10_000
    assert state(gate).tokens_left == 200
    assert isinstance(gate.attempt("c", needs=200), Reserved)
    assert isinstance(gate.attempt("d", at=10_000, needs=900), Reserved)


def test_the_next_answer_says_it_better(gate: Gate) -> None:
    told(gate, headers=RateHeaders(tokens_limit=1_000, tokens_left=500, tokens_reset_s=10.0))
    gate.attempt("a", needs=300)
    told(gate, at=1, headers=RateHeaders(tokens_left=450, tokens_reset_s=9.0))

    assert state(gate, at=1) == KeyState(tokens_limit=1_000, tokens_left=450, tokens_reset_ms=NOW + 9_001)


def test_a_refusal_by_the_circuit_takes_nothing_of_the_announced_limits(gate: Gate) -> None:
    for place in range(2):
        gate.call(f"c{place}", Verdict.FAULT)
    told(gate, headers=RateHeaders(requests_left=5, requests_reset_s=10.0))

    for place in range(4):
        assert isinstance(gate.attempt(f"r{place}", at=1), Refused)

    assert state(gate).requests_left == 5


def test_a_refusal_by_the_key_consumes_no_quota(gate: Gate) -> None:
    told(gate, cool=5_000)

    assert isinstance(gate.ask("r", (quota(100), 10), at=1, route=ROUTE), Refused)
    assert gate.stands(quota(100)) == (0, 0)


def test_a_key_is_asked_before_the_circuit(gate: Gate) -> None:
    """So that no probe is spent on a key that cannot be used."""
    for place in range(2):
        gate.call(f"c{place}", Verdict.FAULT)
    told(gate, dead="401")

    refused = gate.attempt("r", at=100_000)

    assert isinstance(refused, Refused)
    assert refused.by is RefusedBy.DEAD_KEY


def test_only_what_says_something_is_told(gate: Gate) -> None:
    gate.call("a", Verdict.OK)
    gate.call("b", Verdict.OK, route=OTHER)
    told(gate, cool=5_000)

    assert [route for route, _ in gate.store.keys(NOW)] == [ROUTE]
    assert gate.store.keys(NOW + 5_000) == ()
