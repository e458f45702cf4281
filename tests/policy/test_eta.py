"""When a waiting job will start, told from what was seen."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.policy.eta import eta_s

seen = st.lists(st.integers(0, 10**8), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("ahead", "parallel", "run_times_ms", "expected"),
    [
        (0, 1, (10_000,), 10.0),
        (0, 4, (10_000,), 2.5),
        (7, 4, (10_000,), 20.0),
        (3, 2, (5_000, 15_000), 20.0),
        (3, 2, (), None),
        (3, 0, (10_000,), None),
        (-1, 1, (10_000,), 10.0),
    ],
)
def test_one_place_becomes_free_every_share_of_a_run_time(
    ahead: int, parallel: int, run_times_ms: tuple[int, ...], expected: float | None
) -> None:
    assert eta_s(ahead, parallel, run_times_ms) == expected


@given(st.integers(0, 10**6), st.integers(1, 1_000), seen)
def test_more_ahead_is_later_and_more_places_are_sooner(ahead: int, parallel: int, run_times_ms: list[int]) -> None:
    here = eta_s(ahead, parallel, run_times_ms)
    behind = eta_s(ahead + 1, parallel, run_times_ms)
    wider = eta_s(ahead, parallel + 1, run_times_ms)

    assert here is not None
    assert behind is not None
    assert wider is not None
    assert 0 <= wider <= here <= behind
