"""A plan of many jobs, and a tree that wants to grow without end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from bench.figures import Row
from bench.lab import Lab, lab
from claude_jobs.client import Client
from claude_jobs.domain.event import Event, EventKind
from claude_jobs.domain.job import Job
from claude_jobs.policy.auditor import audit
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.slots import slots
from claude_jobs.policy.transitions import public
from claude_jobs.runner import proctree
from claude_jobs.services import machine
from claude_jobs.settings import load
from claude_jobs.stores.base import Limits
from claude_jobs.stores.sqlite.store import open_sqlite

JOBS = 1_000
SLOTS = 32
RUNAWAY_S = 60.0
MAX = RecursionLimits(depth=3, at_depth=8, total=30, rate=30)


def run() -> list[Row]:
    return [graph(), *runaway()]


def graph() -> Row:
    """Random dependencies among stand-in jobs of 0.5 to 2 s, against what no schedule on so many slots can beat."""
    dice = random.Random(2026)
    lengths = [round(dice.uniform(0.5, 2.0), 2) for _ in range(JOBS)]
    needs = [sorted({dice.randrange(n) for _ in range(dice.randint(0, 2))}) if n else [] for n in range(JOBS)]
    items = [
        {"id": f"n{n}", "prompt": f"pause={length}", "depends_on": [f"n{m}" for m in needs[n]], "tools": []}
        for n, length in enumerate(lengths)
    ]
    ends: list[float] = []
    for n, length in enumerate(lengths):
        ends.append(length + max((ends[m] for m in needs[n]), default=0.0))
    bound = max(max(ends), sum(lengths) / SLOTS)
    pause = 'sleep "$(echo "$line" | sed "s/.*pause=\\([0-9.]*\\).*/\\1/")"'
    settings: dict[str, Any] = {
        "CLAUDE_JOBS_SLOTS": str(SLOTS),
        "CLAUDE_JOBS_TOKEN_CONCURRENCY": "100",
        "CLAUDE_QUEUE_SIZE": "2000",
    }
    with lab(body=pause, **settings) as place:
        client = place.client()
        place.settle()
        began = time.perf_counter()
        answer = cast("dict[str, Any]", client.call("submit", {"items": items, "batch": True}))
        _until_done(client, answer["batch_id"])
        wall = time.perf_counter() - began
        states = Counter(job["state"] for job in _jobs(client, answer["batch_id"]))
    assert states == {"succeeded": JOBS}, states
    found = wall / bound
    measured = f"{found:.2f}x ({wall:.1f} s / {bound:.1f} s)"
    return Row(
        f"graph of {JOBS:,} jobs on {SLOTS} slots / critical path or total work", "≤ 1.25x", measured, found <= 1.25
    )


def runaway() -> list[Row]:
    """A real claude told to spawn ten jobs again and again, each of which is told the same; then one cancel.

    Every other job waits for one that it spawned, and gives its place back meanwhile.
    """
    waiting = [_ten(), *[_wait()] * 5] * 20
    script = {
        "rules": [
            {"when": {"prompt": "RUN AWAY AND WAIT"}, "do": {"tools": waiting, "reply": "done"}},
            {"when": {"prompt": "RUN AWAY"}, "do": {"tools": [_ten()] * 200, "reply": "done"}},
        ]
    }
    with lab(real=True, script=json.dumps(script), CLAUDE_MAX_CONCURRENT_AT_DEPTH=str(MAX.at_depth)) as place:
        client = place.client()
        place.settle()
        root = place.submit(["RUN AWAY AND WAIT"], client, model="sonnet")[0]
        time.sleep(RUNAWAY_S)
        began = time.perf_counter()
        client.call("cancel", {"job_ids": [root]}, 60)
        took = time.perf_counter() - began
        left = [p for p in proctree.marked(f"{place.home.home_id}:") if ":warm:" not in proctree.mark_of(p.pid)]
        events, jobs = recorded(place)
    states = Counter(public(job.state).value for job in jobs)
    alive = states["running"] + states["blocked"] + states["queued"] + len(left)
    return [
        _within(events, jobs),
        Row(
            "one cancel stops its whole tree; left alive",
            "≤ 5 s, 0",
            f"{took:.1f} s, {alive}",
            took <= 5.0 and not alive,
        ),
    ]


def _within(events: Sequence[Event], jobs: Sequence[Job]) -> Row:
    """Whether a limit was ever passed: not as somebody saw it now and then, but at each event of the log."""
    settings = load({"CLAUDE_MAX_CONCURRENT_AT_DEPTH": str(MAX.at_depth)})
    caps = Limits(per_token=settings.token_concurrency, at_depth=MAX.at_depth, depth=MAX.depth, total=MAX.total)
    room = slots(machine.cores(), settings.slots)
    broken = audit(events, jobs, limits=caps, slots=room, now_ms=time.time_ns() // 1_000_000, recursion=MAX)
    for violation in broken[:20]:
        print(f"   BROKEN {violation}")
    waits = sum(event.kind is EventKind.BLOCKED for event in events)
    deepest = max(job.depth for job in jobs)
    return Row(
        f"runaway for {RUNAWAY_S:.0f} s: deepest, in all; events beyond a limit",
        f"≤ {MAX.depth}, {MAX.total}; 0",
        f"{deepest}, {len(jobs)}; {len(broken)} of {len(events)}, with {waits} waits",
        deepest <= MAX.depth and len(jobs) <= MAX.total and not broken and waits > 0,
    )


def _ten() -> list[dict[str, object]]:
    """Ten spawns at once. `{n}` counts the requests to the API, so that no task is one of its ancestors'."""
    spawn = "mcp__claude-jobs__spawn"
    names = ("RUN AWAY", "RUN AWAY AND WAIT")
    return [{"name": spawn, "input": {"prompt": f"{names[place % 2]} {{n}} {place}"}} for place in range(10)]


def _wait() -> list[dict[str, object]]:
    """For the first of them, a little while."""
    return [{"name": "mcp__claude-jobs__result", "input": {"job_id": "{job}", "wait_s": 2}}]


def recorded(place: Lab) -> tuple[list[Event], list[Job]]:
    """The whole event log, and all jobs."""
    store = open_sqlite(place.home.db_dir)
    try:
        events: list[Event] = []
        while page := store.read(events[-1].seq if events else 0, limit=5_000):
            events += page
        return events, [store.get(job_id) for job_id in dict.fromkeys(event.job_id for event in events)]
    finally:
        store.close()


def _jobs(client: Client, batch_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        query = {"limit": 500, "batch_id": batch_id, "cursor": cursor, "unread_first": False}
        page = cast("dict[str, Any]", client.call("jobs", query))
        found += page["jobs"]
        cursor = page["cursor"]
        if not cursor:
            return found


def _until_done(client: Client, batch_id: str) -> None:
    while True:
        page = cast("dict[str, Any]", client.call("jobs", {"limit": 1, "batch_id": batch_id}))
        if not any(page["counts"].get(state) for state in ("queued", "running", "blocked")):
            return
        time.sleep(0.05)
