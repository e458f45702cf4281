"""How the time for an answer is shared out over attempts, for any time and any number of them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from claude_jobs.policy.attempts import FAIR_SHARE, is_slow, patience_s

SECONDS = st.floats(0.01, 100_000)


@given(SECONDS, st.integers(1, 6))
def test_whoever_hangs_leaves_a_fair_share_to_everyone_after_it(left_s: float, attempts: int) -> None:
    shares: list[float] = []
    for n in range(attempts):
        shares.append(patience_s(left_s - sum(shares), has_others=n + 1 < attempts))

    assert sum(shares) <= left_s * 1.001 + 0.001 * attempts
    assert min(shares) >= left_s * FAIR_SHARE**attempts * 0.999


@given(SECONDS)
def test_the_last_one_gets_all_that_is_left(left_s: float) -> None:
    assert patience_s(left_s, has_others=False) == left_s


@given(st.floats(-100_000, 0), st.booleans())
def test_no_time_left_is_a_moment_never_none(left_s: float, has_others: bool) -> None:
    assert patience_s(left_s, has_others=has_others) > 0


@given(SECONDS, SECONDS, st.integers(0, 100_000))
def test_a_whole_answer_may_take_longer_than_the_beginning_of_one(took_s: float, timeout_s: float, tokens: int) -> None:
    assert is_slow(took_s, timeout_s, 0) or not is_slow(took_s, timeout_s, tokens)
    assert not is_slow(timeout_s / 2, timeout_s, 0)
    assert is_slow(timeout_s, timeout_s, 0)
