"""What a key may still be used for, after all that was heard of it."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from claude_jobs.domain.generation import RateHeaders
from claude_jobs.policy.keys import LONGEST_MS, UNSAID_RESET_MS, KeyState, admit, cooled, heard, is_telling, killed

NOW = 1_800_000_000_000
times = st.integers(NOW - 100_000, NOW + 100_000)
lefts = st.none() | st.integers(0, 50)
states = st.builds(
    KeyState,
    cooling_until_ms=st.just(0) | times,
    dead=st.sampled_from(("", "", "", "401")),
    requests_limit=lefts,
    requests_left=lefts,
    requests_reset_ms=times,
    tokens_limit=lefts,
    tokens_left=lefts,
    tokens_reset_ms=times,
)
needs = st.integers(0, 80)


@given(states, needs)
def test_it_may_be_used_if_nothing_known_is_against_it(state: KeyState, needs_tokens: int) -> None:
    has_requests = state.requests_left is None or state.requests_left > 0 or state.requests_reset_ms <= NOW
    most = needs_tokens if state.tokens_limit is None else min(needs_tokens, state.tokens_limit)
    has_tokens = state.tokens_left is None or state.tokens_left >= most or state.tokens_reset_ms <= NOW
    is_free = not state.dead and state.cooling_until_ms <= NOW and has_requests and has_tokens

    assert isinstance(admit(state, needs_tokens, NOW), KeyState) == is_free


@given(states, needs)
def test_a_refusal_names_the_moment_from_which_it_may(state: KeyState, needs_tokens: int) -> None:
    refused = admit(state, needs_tokens, NOW)

    if state.dead:
        assert refused == 0
    elif isinstance(refused, int):
        assert refused > NOW
        assert isinstance(admit(state, needs_tokens, refused), KeyState)
        assert isinstance(admit(state, needs_tokens, refused - 1), int)


@given(states, needs)
def test_each_attempt_takes_its_share_of_what_was_announced(state: KeyState, needs_tokens: int) -> None:
    after = admit(state, needs_tokens, NOW)

    if isinstance(after, KeyState):
        is_known = state.requests_left is not None and state.requests_reset_ms > NOW
        assert after.requests_left == ((state.requests_left or 0) - 1 if is_known else None)
        is_known = state.tokens_left is not None and state.tokens_reset_ms > NOW
        assert after.tokens_left == (max(0, (state.tokens_left or 0) - needs_tokens) if is_known else None)
        kept = {"requests_left": after.requests_left, "tokens_left": after.tokens_left}
        assert after == replace(state, **kept)


def test_announced_limits_run_out_and_come_back_at_their_reset() -> None:
    state = heard(KeyState(), RateHeaders(requests_limit=9, requests_left=2, requests_reset_s=5.0), NOW)

    passed = 0
    while isinstance(after := admit(state, 1, NOW + 1_000), KeyState):
        state, passed = after, passed + 1

    assert passed == 2
    assert after == NOW + 5_000
    assert isinstance(admit(state, 1, NOW + 5_000), KeyState)


def test_an_attempt_larger_than_the_whole_token_limit_goes_with_a_full_one() -> None:
    """Else it would never go; the estimate is an upper bound."""
    full = KeyState(tokens_limit=100, tokens_left=100, tokens_reset_ms=NOW + 9)

    after = admit(full, 500, NOW)

    assert isinstance(after, KeyState)
    assert after.tokens_left == 0
    assert admit(replace(full, tokens_left=99), 500, NOW) == NOW + 9


@given(states, times, times)
def test_it_cools_until_the_later_of_two_times(state: KeyState, first: int, second: int) -> None:
    state = cooled(cooled(state, first), second)

    assert state.cooling_until_ms >= max(first, second)
    assert state == cooled(state, min(first, second))


@given(states)
def test_a_dead_key_stays_dead_with_its_first_reason(state: KeyState) -> None:
    dead = killed(killed(state, "401"), "403")

    assert dead.dead == (state.dead or "401")
    assert admit(dead, 0, NOW) == admit(dead, 0, NOW + 10**12) == 0
    assert killed(KeyState(), "").dead


@given(states, st.builds(RateHeaders, requests_left=lefts, tokens_left=lefts, tokens_limit=lefts))
def test_what_was_not_said_stays(state: KeyState, headers: RateHeaders) -> None:
    after = heard(state, headers, NOW)

    assert after.requests_left == (state.requests_left if headers.requests_left is None else headers.requests_left)
    assert after.tokens_left == (state.tokens_left if headers.tokens_left is None else headers.tokens_left)
    assert after.tokens_limit == (state.tokens_limit if headers.tokens_limit is None else headers.tokens_limit)
    assert (after.cooling_until_ms, after.dead) == (state.cooling_until_ms, state.dead)
    if headers.tokens_left is not None:
        assert after.tokens_reset_ms == NOW + UNSAID_RESET_MS


def test_a_reset_in_parts_of_a_second_is_not_cut() -> None:
    assert heard(KeyState(), RateHeaders(tokens_left=0, tokens_reset_s=0.0061), NOW).tokens_reset_ms == NOW + 7
    assert heard(KeyState(), RateHeaders(tokens_left=0, tokens_reset_s=1e30), NOW).tokens_reset_ms == NOW + LONGEST_MS


@given(states, needs)
def test_a_clock_that_is_set_back_far_stops_no_key(state: KeyState, needs_tokens: int) -> None:
    long_ago = NOW - 2 * LONGEST_MS

    assert isinstance(admit(state, needs_tokens, long_ago), KeyState) == (not state.dead)
    assert cooled(state, long_ago + 5).cooling_until_ms == long_ago + 5


def test_what_is_worth_telling() -> None:
    assert not is_telling(KeyState(), NOW)
    assert not is_telling(KeyState(cooling_until_ms=NOW, tokens_left=3, tokens_reset_ms=NOW), NOW)
    for state in (
        KeyState(dead="401"),
        KeyState(cooling_until_ms=NOW + 1),
        KeyState(requests_left=0, requests_reset_ms=NOW + 1),
        KeyState(tokens_left=3, tokens_reset_ms=NOW + 1),
    ):
        assert is_telling(state, NOW)
