"""Pure forecast of a queue: who goes before a waiting job, how many run at once, and when it will probably start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a ready job stands in the queue.

    Attributes:
        ahead: Ready jobs that go before it. Of a batch with a cap those count that find room in it now: the others wait
            for their own batch, and hold up nobody.
        in_batch: Ready jobs of its own batch that go before it; not counted without a cap.
        max_parallel: How many of its batch may run at once, None for no cap.
    """

    ahead: int = 0
    in_batch: int = 0
    max_parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """What a batch may do: `max_parallel` of it run at once, and `room` more may start now."""

    max_parallel: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How many jobs are before one, and in how many seconds it will probably start; None if nothing can be said."""

    ahead: int
    eta_s: float | None


def places(
    queue: Iterable[tuple[str, str]], caps: Mapping[str, Cap], wanted: Collection[str]
) -> Iterator[tuple[str, Place]]:
    """Those of a queue that are wanted, each with its place.

    Args:
        queue: (job, batch) of the ready jobs, by rank.
        caps: Of the batches that have one.
    """
    ahead = 0
    seen = dict.fromkeys(caps, 0)
    for job, batch_id in queue:
        cap = caps.get(batch_id)
        in_batch = seen.get(batch_id, 0)
        if job in wanted:
            yield job, Place(ahead=ahead, in_batch=in_batch, max_parallel=cap.max_parallel if cap else None)
        if cap is None:
            ahead += 1
        else:
            ahead += in_batch < cap.room
            seen[batch_id] = in_batch + 1


def parallel(*, slots: int, at_depth: int | None, running: int | None, on_tokens: int) -> int:
    """Jobs like one that run at once when the queue is full: the narrowest gate decides.

    Args:
        slots: Jobs that the worker runs at once.
        at_depth: Cap of its depth, None for none.
        running: Cap of all workers together, None for none.
        on_tokens: Jobs that the tokens which it may use bear.
    """
    return max(0, min(cap for cap in (slots, at_depth, running, on_tokens) if cap is not None))


def forecast(place: Place, parallel: int, run_times_ms: Sequence[int]) -> Forecast:
    """When a job at `place` starts: it must get through the whole queue, and through that of its own batch.

    Args:
        parallel: Jobs that run at once, its batch's cap aside.
        run_times_ms: How long the latest jobs ran, of whatever kind goes before it.
    """
    whole = Forecast(ahead=place.ahead, eta_s=eta_s(place.ahead, parallel, run_times_ms))
    if place.max_parallel is None:
        return whole
    abreast = min(parallel, place.max_parallel)
    if abreast > 0 and (place.in_batch + 1) * parallel < (place.ahead + 1) * abreast:
        return whole
    return Forecast(ahead=place.in_batch, eta_s=eta_s(place.in_batch, abreast, run_times_ms))


def eta_s(ahead: int, parallel: int, run_times_ms: Sequence[int]) -> float | None:
    """Seconds until a queued job starts, if the jobs before it run as long as those that were seen.

    All places are taken to be busy, so that one becomes free every mean run time / `parallel`, and the job gets the
    (`ahead` + 1)th.

    Args:
        ahead: Jobs before it in the queue; those that run already are not counted.
        parallel: Jobs that run at once.
        run_times_ms: How long the latest jobs ran, of whatever kind goes before it.

    Returns:
        None if nothing was seen yet, or nothing may run.
    """
    if not run_times_ms or parallel < 1:
        return None
    mean_s = sum(run_times_ms) / len(run_times_ms) / 1000
    return mean_s * (max(0, ahead) + 1) / parallel
