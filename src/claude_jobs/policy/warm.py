"""Pure rules for claude processes that wait for work: how many a machine bears beside those that work."""

from __future__ import annotations

from claude_jobs.policy.slots import JOB_BYTES

SHARE = 4
"""What waits may hold a quarter of the memory that would be free without it: the rest is for jobs."""
MAX_AHEAD = 2
"""Processes started for jobs to come. Each costs two thirds of a core-second, lost if it is not used."""


def idle_limit(*, slots: int, idle: int, free_bytes: int) -> int:
    """How many processes may wait; fewer than wait now means that some must go.

    Args:
        slots: Jobs that may run at once: no more can be taken up again.
        free_bytes: Memory available now, the share of those that wait already gone.
    """
    return max(0, min(slots, (free_bytes + idle * JOB_BYTES) // SHARE // JOB_BYTES))


def may_prepare(*, prepared: int, free_bytes: int) -> bool:
    """Whether one more may be started for a job to come. A job that is admitted meanwhile must find its room, too."""
    return prepared < MAX_AHEAD and free_bytes >= 2 * JOB_BYTES


def must_give_way(free_bytes: int) -> bool:
    """Whether what was started for jobs to come is in the way of those that are there."""
    return free_bytes < JOB_BYTES
