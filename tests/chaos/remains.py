"""What a storm left behind: processes that belong to no job, and what its workers had to put right."""

from __future__ import annotations

import time
from pathlib import Path

from support_worker import Place

from claude_jobs.runner import proctree

LEAVE_S = 10.0
"""What was started ahead waits some seconds for a job that does not come."""
PAUSE_S = 0.2


def left_behind(here: Place) -> list[str]:
    """Processes that live on although no job runs, with the reason why they should not."""
    end = time.monotonic() + LEAVE_S
    while (left := _left(here)) and time.monotonic() < end:
        time.sleep(PAUSE_S)
    return left


def _left(here: Place) -> list[str]:
    argvs = {pid: argv_of(pid) for pid in here.own_processes()}
    workers = {pid for pid, argv in argvs.items() if "_worker" in argv}
    keepers = {pid for pid, argv in argvs.items() if any(word.endswith("keeper.py") for word in argv)}
    found: list[str] = []
    for proc in proctree.marked(f"{here.home.home_id}:"):
        mark = proctree.mark_of(proc.pid)
        # One that waits for a conversation is its worker's own child; below it there is nobody.
        if mark and not (":warm:" in mark and proc.ppid in workers):
            found.append(f"{proc.pid} {argv_of(proc.pid)} of {mark}")
    for keeper in keepers:
        strangers = [proc for proc in proctree.children(keeper) if proc.pid not in workers and not proc.is_dead]
        found += [f"{proc.pid} {argv_of(proc.pid)} with its keeper" for proc in strangers]
    return found


def argv_of(pid: int) -> list[str]:
    """Its command line, [] if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except OSError:
        return []


def strangers(stranger_s: str) -> list[proctree.Proc]:
    """What left its job's tree, group and marker behind, wherever it is now.

    Nobody can find those of a worker without a keeper (an odd one), nor those whose keeper was killed with its worker.
    """
    return [proc for proc in proctree.table().values() if argv_of(proc.pid) == ["sleep", stranger_s]]


def repaired(here: Place) -> list[str]:
    """Lines in which a worker says that its counters or rows were wrong: who looks later finds them right."""
    logs = [*here.home.logs_dir.glob("worker.log*"), here.root / "odd.log"]
    texts = [log.read_text(errors="replace") for log in logs if log.exists()]
    return [line for text in texts for line in text.splitlines() if "audit.repaired" in line]
