"""Ending the worker of a home: asked first, then signalled through its keeper, and waited for until it is really gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Mapping

from claude_jobs.cli.holders import lock_holder
from claude_jobs.errors import WorkerError, WorkerUnavailable
from claude_jobs.rpc.client import connect
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home
from claude_jobs.runner.proctree import Proc

_LEAVE_S = 15.0
"""What a worker may take beyond the grace it gives its jobs: stopping them and closing the store."""
_ANSWER_S = 20.0
_SIGNALLED_S = 5.0
_POLL_S = 0.05


def stop_worker(environ: Mapping[str, str], grace_s: float) -> list[int] | None:
    """Drain and end the worker.

    Returns:
        The pids that are still alive (none, in every sane world); None if no worker ran.
    """
    home = Home.resolve(environ)
    keeper = elected(home)
    asked = _asked(environ, grace_s)
    procs = {proc.pid: proc for proc in asked}
    if keeper is not None:
        procs[keeper.pid] = keeper
    if not procs:
        return None
    if asked and _gone(procs.values(), grace_s + _LEAVE_S):
        return []
    # A keeper passes the first TERM on, and answers the second with SIGKILL for the worker.
    for wait_s in (grace_s + _SIGNALLED_S, _LEAVE_S):
        for proc in procs.values():
            if keeper is None or proc.pid == keeper.pid:
                proctree.send(proc, signal.SIGTERM)
        if _gone(procs.values(), wait_s):
            return []
    return [proc.pid for proc in procs.values() if proctree.is_alive(proc)]


def _asked(environ: Mapping[str, str], grace_s: float) -> list[Proc]:
    """The worker, after it was asked to leave; empty if none answers. Nothing is asked that would need the store."""
    found: list[Proc | None] = []
    try:
        with connect(start=False, environ=environ) as worker:
            found.append(proctree.look(worker.welcome.pid))
            worker.call("stop", {"grace_s": grace_s}, _ANSWER_S)
    except WorkerUnavailable:
        return []
    except WorkerError:
        pass  # it went while it was asked, or it is too busy to answer: what we know of it is enough
    return [proc for proc in found if proc is not None]


def elected(home: Home) -> Proc | None:
    """The keeper that holds the election, whether it answers or not."""
    pid = lock_holder(home.elect_lock)
    return proctree.look(pid) if pid else None


def _gone(procs: Iterable[Proc], wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while any(proctree.is_alive(proc) for proc in procs):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
