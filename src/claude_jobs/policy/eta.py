"""Pure forecast of a queue: when a waiting job will probably start."""

from __future__ import annotations

from collections.abc import Sequence


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
