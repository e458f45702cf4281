"""kill -9 of the worker, and of keeper and worker together, with twenty jobs running: what is lost, and how soon it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, cast

from bench.figures import Row, median
from bench.lab import Lab, lab
from claude_jobs.runner import proctree

JOBS = 20
ROUNDS = 3


def run() -> list[Row]:
    return [_killed("worker"), _killed("keeper + worker")]


def _killed(what: str) -> Row:
    takeovers: list[float] = []
    lost = twice = orphans = 0
    for _ in range(ROUNDS):
        with lab(body="sleep 1.5", CLAUDE_JOBS_SLOTS="20", CLAUDE_JOBS_TOKEN_CONCURRENCY="20") as place:
            took, facts = _round(place, with_keeper=what != "worker")
            takeovers.append(took)
            lost += facts["lost"]
            twice += facts["twice"]
            orphans += facts["orphans"]
    goal = "0 lost, 0 twice, 0 orphans" + (", takeover < 1 s" if what == "worker" else "")
    measured = f"{lost} lost, {twice} twice, {orphans} orphans, takeover {median(takeovers):.2f} s"
    is_met = lost == twice == orphans == 0 and (what != "worker" or median(takeovers) < 1.0)
    return Row(f"kill -9 of the {what} with {JOBS} jobs running", goal, measured, is_met)


def _round(place: Lab, *, with_keeper: bool) -> tuple[float, dict[str, int]]:
    client = place.client()
    ids = place.submit([f"job {n}" for n in range(JOBS)], client)
    while not all(place.started(job_id) for job_id in ids):
        time.sleep(0.02)
    health = place.health()
    before = {job_id: place.started(job_id) for job_id in ids}
    died = time.time()
    for pid in ([health["keeper_pid"]] if with_keeper else []) + [health["pid"]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    client = place.client()
    results = [place.wait(job_id, client) for job_id in ids]
    first = min(started for job_id in ids if (started := place.started(job_id)) and started != before[job_id])
    finished = [_finishes(client, job_id) for job_id in ids]
    facts = {
        "lost": sum(result["state"] != "succeeded" for result in results),
        "twice": sum(count > 1 for count in finished),
        "orphans": len(proctree.marked(f"{place.home.home_id}:")),
    }
    return first - died, facts


def _finishes(client: Any, job_id: str) -> int:
    events = list(cast("Any", client.stream("events", {"job_id": job_id})))
    return sum(event["kind"] == "finished" for event in events)
