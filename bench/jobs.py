"""Jobs through the worker: submit, start, run, in parallel, over tokens, stopped; each against its ideal or the bare CLI."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, cast

from bench.figures import Row, median, ms, p95, paired, ratio, timed
from bench.lab import Lab, lab, rehearse
from claude_jobs.client import Home, connect
from claude_jobs.runner.executable import find_claude

PAIRS = 11


def run() -> list[Row]:
    return [
        submit(),
        submit_from_processes(),
        idle_start(),
        trivial(),
        warm(),
        slots(),
        *tokens(),
        stops(),
        memory(),
    ]


def submit() -> Row:
    with lab(CLAUDE_JOBS_SLOTS="0", CLAUDE_QUEUE_SIZE="100000") as place:
        client = place.client()
        place.submit(["warm"], client)
        place.settle()
        samples = [timed(lambda n=n: place.submit([f"job {n}"], client)) for n in range(300)]
    found = p95(samples)
    return Row("durable submit, p95", "≤ 10 ms", f"{ms(found)} (median {ms(median(samples))})", found <= 0.010)


def _submit_many(root: str, env: dict[str, str], process: int, count: int) -> None:
    with connect(Home.resolve(env), environ=env) as client:
        for n in range(count):
            # Every key is used twice: the second must find the first's job.
            item = {"prompt": f"{process}-{n}", "key": f"{process}-{n}"}
            client.call("submit", {"items": [item]})
            if n % 10 == 0:
                client.call("submit", {"items": [item]})


def submit_from_processes() -> Row:
    with lab(CLAUDE_JOBS_SLOTS="0", CLAUDE_QUEUE_SIZE="100000") as place:
        client = place.client()
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_submit_many, args=(str(place.root), place.env, n, 1_000)) for n in range(4)]
        took = timed(lambda: [*map(lambda w: w.start(), workers), *map(lambda w: w.join(), workers)])
        total = cast("dict[str, Any]", client.call("jobs", {"limit": 1}))["total"]
    return Row(
        "4 processes x 1,000 submits, each exactly once", "4,000", f"{total} jobs in {took:.1f} s", total == 4_000
    )


def idle_start() -> Row:
    with lab() as place:
        client = place.client()
        place.wait(place.submit(["warm"], client)[0], client)
        place.settle()
        samples: list[float] = []
        for n in range(31):
            time.sleep(0.15)
            began = time.time()
            job_id = place.submit([f"job {n}"], client)[0]
            place.wait(job_id, client)
            started = place.started(job_id)
            assert started is not None
            samples.append(started - began)
    found = p95(samples)
    return Row(
        "idle: submit to claude process started, p95",
        "≤ 100 ms",
        f"{ms(found)} (median {ms(median(samples))})",
        found <= 0.1,
    )


def trivial() -> Row:
    with lab(real=True) as place:
        client = place.client()
        place.settle()
        claude = str(find_claude(None, ""))
        prompt = rehearse("hello")

        def ours() -> float:
            return timed(lambda: place.wait(place.submit([prompt], client, model="sonnet", nest=False)[0], client))

        def bare() -> float:
            return timed(lambda: _bare_cli(place, claude, prompt))

        ours(), bare()
        values, baselines = paired(ours, bare, PAIRS)
    found = ratio(values, baselines)
    extra = median(values) - median(baselines)
    measured = f"{found:.2f}x, {extra * 1000:+.0f} ms ({ms(median(values))} / {ms(median(baselines))})"
    return Row(
        "a trivial job / the same claude command bare", "≤ 1.10x or +40 ms", measured, found <= 1.10 or extra <= 0.04
    )


def warm() -> Row:
    """A trivial job without tools, in a process that has done others, against one in a process of its own."""
    with lab(real=True) as place:
        client = place.client()
        prompt = rehearse("hello")

        def job(*, fresh: bool) -> float:
            options = {"model": "sonnet", "tools": [], "project": "none", "fresh": fresh}
            return timed(lambda: place.wait(place.submit([prompt], client, **options)[0], client))

        job(fresh=False), job(fresh=True)
        values, baselines = paired(lambda: job(fresh=False), lambda: job(fresh=True), PAIRS)
    found = ratio(values, baselines)
    measured = f"{found:.2f}x ({ms(median(values))} / {ms(median(baselines))})"
    return Row("tool-less job in a warm process / fresh", "≤ 0.50x", measured, found <= 0.50)


def _bare_cli(place: Lab, claude: str, prompt: str) -> None:
    argv = [claude, "-p", "--output-format", "stream-json", "--input-format", "stream-json", "--verbose"]
    argv += [
        "--include-partial-messages",
        "--model",
        "sonnet",
        "--session-id",
        str(uuid.uuid4()),
        "--strict-mcp-config",
    ]
    argv += ["--setting-sources", "", "--permission-mode", "acceptEdits"]
    env = {k: v for k, v in place.env.items() if not k.startswith(("CLAUDE_JOBS", "CLAUDE_CODE_TOKEN", "CLAUDE_RETRY"))}
    env |= {"CLAUDE_CODE_OAUTH_TOKEN": place.env["CLAUDE_CODE_TOKEN1"], "CLAUDE_CODE_MAX_RETRIES": "0"}
    env |= {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1"}
    line = json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n"
    subprocess.run(
        argv,
        input=line,
        text=True,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=Path.cwd(),
    )


def slots() -> Row:
    samples: list[float] = []
    with lab(body="sleep 0.2", CLAUDE_JOBS_SLOTS="8") as place:
        client = place.client()
        place.settle()
        _batch(place, client, 8)
        for _ in range(5):
            samples.append(_batch(place, client, 60))
    found = median(samples) / 1.6
    return Row(
        "60 jobs of 0.2 s on 8 slots / the ideal 1.6 s",
        "≤ 1.20x",
        f"{found:.2f}x ({median(samples):.2f} s)",
        found <= 1.20,
    )


def _batch(place: Lab, client: Any, count: int, **options: object) -> float:
    """Seconds from submit to the end of the last of `count` jobs."""
    began = time.perf_counter()
    ids = place.submit([f"job {n}" for n in range(count)], client, **options)
    for job_id in ids:
        result = place.wait(job_id, client)
        assert result["state"] == "succeeded", result
    return time.perf_counter() - began


def tokens() -> list[Row]:
    """Six jobs whose answers take 2 s, one job per token at a time: three tokens against one."""
    return [_tokens(real=True, pairs=3, goal=2.4), _tokens(real=False, pairs=3, goal=2.9)]


def _tokens(*, real: bool, pairs: int, goal: float) -> Row:
    prompts = [rehearse(f"answer {n}", duration_s=2) if real else f"job {n}" for n in range(6)]

    def wall(count: int) -> float:
        with lab(real=real, body="sleep 2", tokens=count, CLAUDE_JOBS_TOKEN_CONCURRENCY="1") as place:
            client = place.client()
            place.wait(place.submit(["warm" if not real else rehearse("warm")], client)[0], client)
            began = time.perf_counter()
            for job_id in place.submit(prompts, client):
                place.wait(job_id, client)
            return time.perf_counter() - began

    one, three = paired(lambda: wall(1), lambda: wall(3), pairs)
    found = ratio(one, three)
    who = "real claude" if real else "stand-in"
    measured = f"{found:.2f}x ({median(one):.1f} s / {median(three):.1f} s)"
    return Row(f"3 tokens against 1, answers of 2 s, {who}", f"≥ {goal}x", measured, found >= goal)


def stops() -> Row:
    """Cancel fifty that ignore SIGTERM, against one."""
    body = "trap '' TERM INT; while :; do sleep 5; done"

    def stop(count: int) -> float:
        with lab(body=body, CLAUDE_JOBS_SLOTS="60", CLAUDE_JOBS_TOKEN_CONCURRENCY="60") as place:
            client = place.client()
            ids = place.submit([f"job {n}" for n in range(count)], client)
            while not all(place.started(job_id) for job_id in ids):
                time.sleep(0.05)
            time.sleep(0.5)
            began = time.perf_counter()
            answer = cast("dict[str, Any]", client.call("cancel", {"job_ids": ids}, 60))
            took = time.perf_counter() - began
            assert all(job["state"] == "cancelled" and not job["survivors"] for job in answer["jobs"]), answer
            return took

    many, one = paired(lambda: stop(50), lambda: stop(1), 3)
    found = ratio(many, one)
    measured = f"{found:.2f}x ({median(many):.2f} s / {median(one):.2f} s)"
    return Row("stop of 50 running jobs that ignore SIGTERM / of 1", "≤ 1.5x", measured, found <= 1.5)


def memory() -> Row:
    with lab(body="sleep 60", CLAUDE_JOBS_SLOTS="200", CLAUDE_JOBS_TOKEN_CONCURRENCY="200") as place:
        client = place.client()
        place.settle()
        pid = place.health()["pid"]
        before = _rss_mb(pid)
        ids = place.submit([f"job {n}" for n in range(200)], client)
        while not all(place.started(job_id) for job_id in ids):
            time.sleep(0.1)
        time.sleep(1)
        found = (_rss_mb(pid) - before) / 200
        client.call("cancel", {"job_ids": ids}, 120)
    return Row(
        "memory of the worker per running job (200)",
        "≤ 1 MB",
        f"{found:.2f} MB (worker alone {before:.0f} MB)",
        found <= 1,
    )


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
