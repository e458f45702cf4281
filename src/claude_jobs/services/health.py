"""How the worker is doing, as one object: for `doctor`, HTTP and the operator at three in the morning."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from claude_jobs.errors import ClaudeNotFound
from claude_jobs.runner import proctree
from claude_jobs.runner.executable import claude_version, find_claude
from claude_jobs.services.desk import Desk
from claude_jobs.services.worker import Worker


async def health(
    desk: Desk, worker: Worker, connections: int, facts: Mapping[str, object], path: str
) -> dict[str, object]:
    """Facts of the process, the store, the CLI and what runs.

    Args:
        facts: What the process knows of itself: version, pid, home, home_id, cli, slots, ….
        path: PATH to look for claude on.
    """
    report = await desk.database(desk.store.audit, desk.clock())
    counts = await desk.database(desk.store.counts)
    return {
        **facts,
        "owner": worker.owner,
        "running": worker.running,
        "connections": connections,
        "slots_free": worker.room().free,
        "store": {"drift": {key: list(pair) for key, pair in report.drift.items()}, "problems": list(report.problems)},
        "counts": {state.value: count for state, count in counts.by_state.items()},
        "unread": counts.unread,
        "cli": await asyncio.to_thread(_cli, str(facts.get("cli") or ""), path),
        "orphans": await asyncio.to_thread(_orphans, str(facts["home_id"]), worker.owner),
    }


def _cli(configured: str, path: str) -> dict[str, str]:
    try:
        found = find_claude(configured or None, path)
    except ClaudeNotFound as error:
        return {"error": error.message}
    return {"path": str(found), "version": claude_version(found)}


def _orphans(home_id: str, owner: str) -> list[int]:
    """Processes of this home's jobs that no living owner claims: none, in every sane world."""
    marks = proctree.marks_of([proc.pid for proc in proctree.marked(f"{home_id}:")])
    return [pid for pid, mark in marks.items() if not mark.startswith(f"{home_id}:{owner}:")]
