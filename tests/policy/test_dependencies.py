"""When a dependency is met, and which graphs can never run."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.domain.job import TERMINAL, DependencyMode, DependencyOn, JobState
from claude_jobs.policy.dependencies import Verdict, find_cycle, verdict

ALL, ANY = DependencyMode.ALL, DependencyMode.ANY
SUCCESS, END = DependencyOn.SUCCESS, DependencyOn.END
DONE, BAD, LIVE = JobState.SUCCEEDED, JobState.FAILED, JobState.RUNNING
STATES = st.lists(st.sampled_from(JobState), max_size=6)
MODES = st.sampled_from(DependencyMode)
KINDS = st.sampled_from(DependencyOn)
NAMES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=8)


@pytest.mark.parametrize(
    ("states", "needs", "on", "expected"),
    [
        ((), ALL, SUCCESS, Verdict.MET),
        ((), ANY, END, Verdict.MET),
        ((DONE, DONE), ALL, SUCCESS, Verdict.MET),
        ((DONE, LIVE), ALL, SUCCESS, Verdict.PENDING),
        ((BAD, LIVE), ALL, SUCCESS, Verdict.FAILED),
        ((DONE, LIVE), ANY, SUCCESS, Verdict.MET),
        ((BAD, LIVE), ANY, SUCCESS, Verdict.PENDING),
        ((BAD, JobState.CANCELLED, JobState.EXPIRED), ANY, SUCCESS, Verdict.FAILED),
        ((BAD, DONE), ALL, END, Verdict.MET),
        ((BAD, LIVE), ALL, END, Verdict.PENDING),
        ((JobState.EXPIRED, LIVE), ANY, END, Verdict.MET),
        ((LIVE, LIVE), ANY, END, Verdict.PENDING),
    ],
)
def test_verdicts(states: tuple[JobState, ...], needs: DependencyMode, on: DependencyOn, expected: Verdict) -> None:
    assert verdict(states, needs, on) is expected


@given(STATES, MODES)
def test_the_end_of_a_dependency_cannot_be_missed(states: list[JobState], needs: DependencyMode) -> None:
    assert verdict(states, needs, END) is not Verdict.FAILED


@given(STATES, MODES, KINDS)
def test_when_all_have_ended_it_is_decided(states: list[JobState], needs: DependencyMode, on: DependencyOn) -> None:
    ended = [state for state in states if state in TERMINAL]

    assert verdict(ended, needs, on) is not Verdict.PENDING


@given(STATES, MODES, KINDS, st.integers(0, 5), st.sampled_from(sorted(TERMINAL)))
def test_a_decision_is_final(
    states: list[JobState], needs: DependencyMode, on: DependencyOn, place: int, end: JobState
) -> None:
    before = verdict(states, needs, on)
    live = [number for number, state in enumerate(states) if state not in TERMINAL]
    if live:
        states[live[place % len(live)]] = end

    if before is not Verdict.PENDING:
        assert verdict(states, needs, on) is before


@given(STATES, KINDS)
def test_any_is_met_where_all_is(states: list[JobState], on: DependencyOn) -> None:
    if verdict(states, ALL, on) is Verdict.MET:
        assert verdict(states, ANY, on) is Verdict.MET


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({}, ()),
        ({"a": ["a"]}, ("a", "a")),
        ({"a": ["b"], "b": ["a"]}, ("a", "b", "a")),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ("b", "c", "b")),
        ({"a": ["b", "c"], "b": ["c"], "c": []}, ()),
        ({"a": ["gone"]}, ()),
    ],
)
def test_circles(edges: dict[str, list[str]], expected: tuple[str, ...]) -> None:
    assert find_cycle(edges) == expected


def has_order(edges: dict[str, list[str]]) -> bool:
    """Whether names can be taken away one by one, each after all it depends on: the definition, said slowly."""
    left = {name: set(targets) & set(edges) for name, targets in edges.items()}
    while free := [name for name, targets in left.items() if not targets]:
        left = {name: targets - set(free) for name, targets in left.items() if name not in free}
    return not left


@given(GRAPHS)
def test_a_circle_is_found_exactly_where_there_is_no_order(edges: dict[str, list[str]]) -> None:
    found = find_cycle(edges)

    assert bool(found) != has_order(edges)
    if found:
        assert found[0] == found[-1]
        assert len(set(found)) == len(found) - 1
        assert all(after in edges[before] for before, after in pairwise(found))


def test_a_long_chain_needs_no_deep_stack() -> None:
    edges = {str(number): [str(number + 1)] for number in range(10_000)}

    assert find_cycle(edges) == ()
    assert len(find_cycle(edges | {"10000": ["0"]})) == 10_002


def test_a_dense_graph_is_walked_once() -> None:
    edges = {str(number): [str(lower) for lower in range(number)] for number in range(600)}

    assert find_cycle(edges) == ()
