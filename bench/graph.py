"""A plan of many jobs, and a tree that wants to grow without end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any, cast

from bench.figures import Row
from bench.lab import lab
from claude_jobs.client import Client
from claude_jobs.runner import proctree

JOBS = 1_000
SLOTS = 32
RUNAWAY_S = 60.0
MAX = {"depth": 3, "at_depth": 8, "total": 30}


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
    settings = {"CLAUDE_JOBS_SLOTS": str(SLOTS), "CLAUDE_JOBS_TOKEN_CONCURRENCY": "100", "CLAUDE_QUEUE_SIZE": "2000"}
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
    """A real claude told to spawn ten jobs again and again, each of which is told the same; then one cancel."""
    script = {
        "rules": [{"when": {"prompt": "RUN AWAY"}, "do": {"tools": [_ten() for _ in range(200)], "reply": "done"}}]
    }
    with lab(real=True, script=json.dumps(script), CLAUDE_MAX_CONCURRENT_AT_DEPTH=str(MAX["at_depth"])) as place:
        client = place.client()
        place.settle()
        root = place.submit(["RUN AWAY"], client, model="sonnet")[0]
        peak: Counter[str] = Counter()
        end = time.monotonic() + RUNAWAY_S
        while time.monotonic() < end:
            jobs = _jobs(client, "")
            depths = Counter(job["depth"] for job in jobs if job["state"] in {"running", "blocked"})
            peak["total"] = max(peak["total"], len(jobs))
            peak["depth"] = max([peak["depth"], *(job["depth"] for job in jobs)])
            peak["at_depth"] = max([peak["at_depth"], *depths.values()])
            time.sleep(0.2)
        began = time.perf_counter()
        client.call("cancel", {"job_ids": [root]}, 60)
        took = time.perf_counter() - began
        left = [p for p in proctree.marked(f"{place.home.home_id}:") if ":warm:" not in proctree.mark_of(p.pid)]
        states = Counter(job["state"] for job in _jobs(client, ""))
    within = all(peak[name] <= MAX[name] for name in MAX)
    alive = states["running"] + states["blocked"] + states["queued"] + len(left)
    return [
        Row(
            f"runaway for {RUNAWAY_S:.0f} s: deepest, most at one depth, in all",
            "≤ 3, 8, 30",
            f"{peak['depth']}, {peak['at_depth']}, {peak['total']}",
            within,
        ),
        Row(
            "one cancel stops its whole tree; left alive",
            "≤ 5 s, 0",
            f"{took:.1f} s, {alive}",
            took <= 5.0 and not alive,
        ),
    ]


def _ten() -> list[dict[str, object]]:
    """Ten spawns at once. `{n}` counts the requests to the API, so that no task is one of its ancestors'."""
    spawn = "mcp__claude-jobs__spawn"
    return [{"name": spawn, "input": {"prompt": f"RUN AWAY {{n}} {place}"}} for place in range(10)]


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
