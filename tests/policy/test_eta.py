"""When a waiting job will start, told from what was seen."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.policy.eta import Cap, Forecast, Place, eta_s, forecast, parallel, places

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


@pytest.mark.parametrize(
    ("slots", "at_depth", "running", "on_tokens", "expected"),
    [(16, 8, None, 24, 8), (16, None, None, 24, 16), (16, 8, 5, 24, 5), (16, 8, None, 4, 4), (16, 0, None, 8, 0)],
)
def test_the_narrowest_gate_says_how_many_run_at_once(
    slots: int, at_depth: int | None, running: int | None, on_tokens: int, expected: int
) -> None:
    assert parallel(slots=slots, at_depth=at_depth, running=running, on_tokens=on_tokens) == expected


def test_of_a_capped_batch_only_those_that_find_room_are_ahead_of_others() -> None:
    queue = [("a", "b-1"), ("b", "b-1"), ("c", "b-1"), ("d", ""), ("e", "b-2"), ("f", "b-1")]
    found = dict(places(queue, {"b-1": Cap(max_parallel=2, room=1)}, ("a", "c", "d", "e", "f")))

    assert found == {
        "a": Place(ahead=0, in_batch=0, max_parallel=2),
        "c": Place(ahead=1, in_batch=2, max_parallel=2),
        "d": Place(ahead=1),
        "e": Place(ahead=2),
        "f": Place(ahead=3, in_batch=3, max_parallel=2),
    }


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place(ahead=7), Forecast(ahead=7, eta_s=10.0)),
        (Place(ahead=7, in_batch=7, max_parallel=1), Forecast(ahead=7, eta_s=80.0)),
        (Place(ahead=7, in_batch=0, max_parallel=1), Forecast(ahead=0, eta_s=10.0)),
        (Place(ahead=79, in_batch=1, max_parallel=2), Forecast(ahead=79, eta_s=100.0)),
        (Place(ahead=7, in_batch=3, max_parallel=100), Forecast(ahead=7, eta_s=10.0)),
        (Place(ahead=0, in_batch=3, max_parallel=0), Forecast(ahead=3, eta_s=None)),
    ],
)
def test_a_job_of_a_capped_batch_waits_for_its_batch_or_for_the_queue_whichever_is_longer(
    place: Place, expected: Forecast
) -> None:
    assert forecast(place, 8, (10_000,)) == expected


def test_nothing_seen_or_nothing_allowed_is_no_forecast() -> None:
    assert forecast(Place(ahead=3), 8, ()) == Forecast(ahead=3, eta_s=None)
    assert forecast(Place(ahead=3), 0, (10_000,)) == Forecast(ahead=3, eta_s=None)


queues = st.lists(st.sampled_from(("", "b-1", "b-2")), max_size=30)


@given(queues, st.integers(0, 4), st.integers(0, 4))
def test_nobody_has_more_ahead_than_stand_before_it(batches: list[str], first: int, second: int) -> None:
    queue = [(str(n), batch_id) for n, batch_id in enumerate(batches)]
    caps = {"b-1": Cap(max_parallel=4, room=first), "b-2": Cap(max_parallel=4, room=second)}
    found = dict(places(queue, caps, [job for job, _ in queue]))
    uncapped = dict(places(queue, {}, [job for job, _ in queue]))

    assert [uncapped[job].ahead for job, _ in queue] == list(range(len(queue)))
    assert all(found[job].ahead <= uncapped[job].ahead for job, _ in queue)
    assert all(found[job].in_batch <= uncapped[job].ahead for job, _ in queue)
