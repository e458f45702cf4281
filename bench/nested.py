"""Jobs that spawn jobs: what our server costs a job, and a tree that runs through one token, one job at a time."""

from __future__ import annotations

import time
from typing import Any, cast

from bench.figures import Row, median, ms, paired, ratio, timed
from bench.lab import Lab, lab, rehearse
from claude_jobs.client import Client

PAIRS = 9
FAN = 5
SERVER = "mcp__claude-jobs__"
ROOM = {"CLAUDE_MAX_TOTAL_JOBS": "100", "CLAUDE_JOBS_MAX_SPAWN_RATE": "100"}


def run() -> list[Row]:
    return [one_call(), fan_out()]


def one_call() -> Row:
    """A job that calls our server once, against the same job that runs `true` in a shell and has no server."""
    with lab(real=True) as place:
        client = place.client()
        place.settle()
        ours = rehearse("done", tools=[_call("list_models")])
        bash = rehearse("done", tools=[{"name": "Bash", "input": {"command": "true", "description": "Nothing"}}])

        def nested() -> float:
            return timed(lambda: _succeed(place, client, ours, model="sonnet"))

        def bare() -> float:
            return timed(lambda: _succeed(place, client, bash, model="sonnet", nest=False, tools=["Bash(true)"]))

        nested()
        bare()
        values, baselines = paired(nested, bare, PAIRS)
    found = ratio(values, baselines)
    measured = f"{found:.2f}x ({ms(median(values))} / {ms(median(baselines))})"
    return Row("job with one call of our server / with one Bash call and no server", "≤ 1.20x", measured, found <= 1.20)


def fan_out() -> Row:
    """1 → 5 → 25 jobs, each parent waiting for its children, on one token that runs one job at a time."""
    settings = {"CLAUDE_JOBS_SLOTS": "1", "CLAUDE_JOBS_TOKEN_CONCURRENCY": "1", **ROOM}
    with lab(real=True, tokens=1, **settings) as place:
        client = place.client()
        place.settle()
        began = time.perf_counter()
        root = _succeed(place, client, _tree(2, "0"), model="sonnet")
        wall = time.perf_counter() - began
        jobs = cast("dict[str, Any]", client.call("jobs", {"limit": 100}))["jobs"]
        busy = sum(_busy_s(client, job["job_id"]) for job in jobs)
    assert len(jobs) == 1 + FAN + FAN * FAN and all(job["state"] == "succeeded" for job in jobs), root
    found = wall / busy
    measured = f"{found:.2f}x ({wall:.1f} s / {busy:.1f} s, {len(jobs)} jobs)"
    return Row("1 → 5 → 25 on one token, one at a time / the sum of its run times", "≤ 1.15x", measured, found <= 1.15)


def _tree(levels: int, name: str) -> str:
    """A prompt whose job spawns FAN jobs, `levels` deep, and waits for them."""
    if not levels:
        return f"Leaf {name}. {rehearse('leaf')}"
    children = [{"prompt": _tree(levels - 1, f"{name}.{place}")} for place in range(FAN)]
    waits = [_call("result", job_id=f"{{job{place + 1}}}", wait_s=110) for place in range(FAN)]
    directive = rehearse("done", tools=[_call("batch", items=_escaped(children)), waits])
    return f"Node {name}. {directive}"


def _escaped(value: Any) -> Any:
    """What a parent's template must leave to its children."""
    if isinstance(value, str):
        for place in range(FAN, 0, -1):
            value = value.replace(f"{{job{place}}}", f"{{{{job{place}}}}}")
        return value
    if isinstance(value, list):
        return [_escaped(one) for one in cast("list[Any]", value)]
    return {key: _escaped(one) for key, one in cast("dict[str, Any]", value).items()}


def _call(tool: str, **arguments: object) -> dict[str, object]:
    return {"name": f"{SERVER}{tool}", "input": arguments}


def _succeed(place: Lab, client: Client, prompt: str, **options: object) -> dict[str, Any]:
    result = place.wait(place.submit([prompt], client, **options)[0], client)
    assert result["state"] == "succeeded", result
    return result


def _busy_s(client: Client, job_id: str) -> float:
    """Seconds a job's attempts held their place: from admission to the end, waits for children taken out."""
    total, since = 0.0, None
    for event in client.stream("events", {"job_id": job_id}):
        kind, at = event["kind"], _seconds(str(event["at"]))
        if kind in {"admitted", "unblocked"}:
            since = at
        elif kind in {"blocked", "finished", "retry"} and since is not None:
            total, since = total + at - since, None
    return total


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()
