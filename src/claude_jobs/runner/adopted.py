"""Orphans of ended jobs: processes that left their job's tree, group and marker behind, and were given to the keeper.

Only descendants of jobs are ever given to the keeper (it is their nearest child subreaper), so each of its children but
the worker belongs to some job. It lives no longer than the last job it could belong to: one that had started before it.
"""

from __future__ import annotations

import os

from claude_jobs.runner import proctree


def kill_adopted(keeper_pid: int, oldest_running_ticks: int | None) -> list[int]:
    """Kill what the keeper adopted and no running attempt can own.

    Args:
        keeper_pid: Our parent; nothing is done if it is not.
        oldest_running_ticks: When the oldest attempt still running began (proctree ticks), None if none runs. Its
            process may be older: what that started before was another job's.

    Returns:
        The pids that were killed.
    """
    own = proctree.look(os.getpid())
    if own is None or own.ppid != keeper_pid or keeper_pid <= 1:
        return []
    orphans = [
        proc
        for proc in proctree.children(keeper_pid)
        if proc.pid != own.pid
        and not proc.is_dead
        and proc.started_ticks >= own.started_ticks
        and (oldest_running_ticks is None or proc.started_ticks < oldest_running_ticks)
    ]
    return proctree.kill_tree(orphans)[0]
