"""Checks of the worker, of what its dead predecessors may have left, and of HTTP. None starts a worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from claude_jobs import __version__
from claude_jobs.cli.checks.check import Check, noted, ok, problem
from claude_jobs.cli.checks.machine import Look, Patient
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.holders import is_suspended
from claude_jobs.cli.stopping import elected
from claude_jobs.errors import ClaudeJobsError, WorkerUnavailable
from claude_jobs.rpc.hello import is_inside_job
from claude_jobs.runner import proctree
from claude_jobs.services.liveness import Liveness

_HEALTH_S = 20.0


def _worker(patient: Patient) -> list[Check]:
    try:
        with Connection(patient.environ, start=False) as worker:
            health: dict[str, Any] = worker.call("health", again=False, timeout_s=_HEALTH_S)
    except WorkerUnavailable as error:
        return _silent(patient, error.message)
    except ClaudeJobsError as error:
        return [problem("worker", error.message, "claude-jobs worker --stop ends it; the next command starts another.")]
    return [*_running(health), *_http(health), *_ledger(health)]


def _running(health: dict[str, Any]) -> list[Check]:
    jobs = f"{health['running']} jobs, {health['slots_free']} slots free, {health['connections']} connections"
    text = f"version {health['version']}, pid {health['pid']}: {jobs}"
    if health["version"] != __version__:
        remedy = "The newer takes over by itself with the next command; claude-jobs worker --stop ends this one now."
        return [noted("worker", f"{text}. This command has version {__version__}.", remedy)]
    return [ok("worker", text)]


def _silent(patient: Patient, why: str) -> list[Check]:
    """No answer: nobody there, somebody who hangs, or a socket without an owner."""
    keeper = elected(patient.home)
    if keeper is not None:
        asleep = [proc for proc in (keeper, *proctree.descendants(keeper.pid)) if is_suspended(proc.pid)]
        if asleep:
            pids = " ".join(str(proc.pid) for proc in asleep)
            return [problem("worker", f"It was stopped by a signal (pid {pids}).", f"kill -CONT {pids}")]
        remedy = "Wait a moment; if it stays so: claude-jobs worker --stop"
        return [problem("worker", f"It runs (keeper {keeper.pid}) and does not answer: {why}", remedy)]
    foreign = _foreign_socket(patient.home.socket)
    if foreign:
        return [problem("worker", foreign, "Remove it, or set TMPDIR to a directory of your own.")]
    left = " A dead one left its socket behind, which does no harm." if patient.home.socket.exists() else ""
    return [ok("worker", f"none runs; the next job starts one.{left}")]


def _foreign_socket(place: Path) -> str:
    try:
        owner = place.lstat().st_uid
    except OSError:
        return ""
    return f"{place} belongs to user {owner}, not to you." if owner != os.getuid() else ""


def _http(health: dict[str, Any]) -> list[Check]:
    if not health["http"]:
        return [ok("http", "closed; `claude-jobs serve` opens it")]
    return [ok("http", f"open at {health['http']}; the token is printed by `claude-jobs token`")]


def _ledger(health: dict[str, Any]) -> list[Check]:
    store = health["store"]
    if store["problems"]:
        return [problem("ledger", "; ".join(store["problems"]), "Report it, with the worker's log.")]
    if store["drift"]:
        return [
            noted(
                "ledger",
                f"Counters had drifted and were repaired: {store['drift']}.",
                "Report it, with the worker's log.",
            )
        ]
    return []


def _orphans(patient: Patient) -> list[Check]:
    """Processes that carry this home's marker and whose worker is dead."""
    home_id = patient.home.home_id
    owners = {proc.pid: proctree.mark_of(proc.pid).split(":")[1:2] for proc in proctree.marked(f"{home_id}:")}
    named = {owner[0] for owner in owners.values() if owner}
    dead = Liveness(patient.home.workers_dir, "").dead(named) if named else frozenset[str]()
    left = sorted(pid for pid, owner in owners.items() if owner and owner[0] in dead)
    if not left or is_inside_job(patient.environ):
        return [ok("orphans", "none")] if not left else []
    return [problem("orphans", f"Processes of dead workers' jobs: {left}", _kill(left))]


def _kill(pids: list[int]) -> str:
    return f"The next worker ends them (claude-jobs ps); by hand: kill -9 {' '.join(map(str, pids))}"


def _uid(patient: Patient) -> list[Check]:
    message = "Limits and tokens are guarded against runaway agents, not against hostile code that runs as you."
    return [
        noted("safety", message, "For work you do not trust, run claude-jobs as a user of its own, or in a container.")
    ]


CHECKS: tuple[Look, ...] = (_worker, _orphans, _uid)
