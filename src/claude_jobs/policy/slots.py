"""Pure rules for how many jobs a machine runs at once."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SLOTS = 32
SLOTS_PER_CORE = 8
"""A claude process mostly waits for the API: about one core-second of work a job (claude-cli.md §5)."""
JOB_BYTES = 300 * 1024 * 1024
"""Room reserved for one more claude process with its tools (measured 150-290 MB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What runs on a machine and what it bears.

    Attributes:
        live: Jobs with a process, those included that wait for other jobs.
        blocked: Those that wait: they hold memory, but no slot.
        cores: CPUs this process may use; a container's quota may make it fractional.
        free_bytes: Memory available now, the live jobs' share already gone.
    """

    live: int
    blocked: int
    cores: float
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many more jobs may start now.

    Attributes:
        free: How many.
        nested_first: All live jobs wait and there is no room for another process: one more may start nevertheless, and it
            should be one that a waiting job needs, or nothing would ever go on.
    """

    free: int
    nested_first: bool = False


def slots(cores: float, fixed: int | None) -> int:
    """Jobs that may run at once, memory aside. `fixed` is CLAUDE_JOBS_SLOTS, which is taken as it is."""
    return fixed if fixed is not None else min(MAX_SLOTS, max(1, int(SLOTS_PER_CORE * cores)))


def room(load: Load, *, fixed: int | None, max_live: int | None = None) -> Room:
    """How many more jobs may start now.

    Args:
        max_live: CLAUDE_JOBS_MAX_PROCESSES; None for what the free memory bears, a fixed number of slots included.
    """
    active = load.live - load.blocked
    wanted = slots(load.cores, fixed) - active
    bearable = load.free_bytes // JOB_BYTES
    if fixed is not None:
        bearable = max(bearable, fixed - load.live)
    elif not load.live:
        bearable = max(1, bearable)
    if max_live is not None:
        bearable = min(bearable, max_live - load.live)
    free = max(0, min(wanted, bearable))
    if not free and not active and load.live and wanted > 0:
        return Room(free=1, nested_first=True)
    return Room(free=free)
