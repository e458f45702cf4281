"""Whose descendant a process is, as the kernel knows it: what its environment says about it can be scrubbed or forged.

The way up from a process of a job leads through its claude to the worker that started it, and from there to the keeper.
A process that was cut off (setsid, double fork) was given to the keeper: on its way up there is no worker. Where the
keeper does not adopt (macOS, or it has died) such a process looks like any other, and only its environment tells.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from claude_jobs.runner import proctree
from claude_jobs.runner.proctree import Proc

_KEEPER = b"/claude_jobs/runner/keeper.py"
_WORKER = b"_worker"
_CMDLINE_CAP = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """A process and its ancestors.

    Attributes:
        procs: Nearest first, the process itself at the beginning; empty if it is gone.
        mark: The marker of the outermost that has one. That one was set by a worker; whoever is below could set its own.
        is_below_worker: A worker started it, or an ancestor of it.
        is_orphan: A keeper adopted it, or an ancestor of it.
    """

    procs: tuple[Proc, ...]
    mark: str = ""
    is_below_worker: bool = False
    is_orphan: bool = False

    @property
    def is_of_a_job(self) -> bool:
        """Whether it descends from a job's process, of whatever home."""
        return bool(self.mark) or self.is_below_worker or self.is_orphan


def trace(pid: int, keeper_pid: int = 0) -> Ancestry | None:
    """The ancestry of a process of this machine; None where it cannot be known (another pid namespace). Blocks for some reads.

    Args:
        keeper_pid: A process that is known to be a keeper, 0 for none. Others are known by their command line.
    """
    if pid <= 0:
        return None
    try:
        procs = proctree.line(pid)
        marks = proctree.marks_of([proc.pid for proc in procs])
    except (OSError, subprocess.SubprocessError):  # no `ps`, or it does not answer
        return None
    mark = next((marks[proc.pid] for proc in reversed(procs) if proc.pid in marks), "")
    pids = [proc.pid for proc in procs]
    keeper = next((at for at, one in enumerate(pids) if one == keeper_pid or _is_keeper(one)), None)
    # The first process of a container adopts for everybody.
    if not keeper or pids[keeper] == 1:
        return Ancestry(procs=tuple(procs), mark=mark)
    is_worker = pids[keeper - 1] == os.getpid() or _WORKER in _argv(pids[keeper - 1])
    return Ancestry(
        procs=tuple(procs),
        mark=mark,
        is_below_worker=is_worker and keeper > 1,
        is_orphan=not is_worker,
    )


def _is_keeper(pid: int) -> bool:
    argv = _argv(pid)
    return b"--home" in argv and any(word.endswith(_KEEPER) for word in argv)


def _argv(pid: int) -> list[bytes]:
    """Its command line; [] where there is no /proc: no keeper adopts there."""
    try:
        with Path(f"/proc/{pid}/cmdline").open("rb") as file:
            return file.read(_CMDLINE_CAP).split(b"\0")
    except OSError:
        return []
