"""Processes that wait for work: a job without tools in a warm one, a full queue with spawn-ahead, tokens with warm ones."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.figures import Row, median, ms, paired, ratio, timed
from bench.lab import Lab, lab, rehearse
from claude_jobs.client import Client
from claude_jobs.runner import proctree
from claude_jobs.runner.executable import find_claude

PAIRS = 15
QUEUE = 8
ANSWERS = 12
PLAIN = {"model": "sonnet", "tools": [], "project": "none"}


def run() -> list[Row]:
    return [*trivial(), queue(), tokens()]


def trivial() -> list[Row]:
    """A trivial job without tools, submitted, run warm and fetched, against the same question to a bare CLI."""
    with lab(real=True, tokens=1) as place:
        client = place.client()
        prompt = rehearse("hello")
        _jobs(place, client, [prompt] * 3, **PLAIN)
        place.settle()

        def ours() -> float:
            return timed(lambda: _jobs(place, client, [prompt], **PLAIN))

        def bare() -> float:
            return timed(lambda: _bare(place, prompt, "--tools", ""))

        ours(), bare()
        walls, bare_walls = paired(ours, bare, PAIRS)
        worker = place.health()
        cpus = [_cpu(lambda: _spent(worker["keeper_pid"]), ours) for _ in range(PAIRS)]
        bare_cpus = [_cpu(_spent_below, bare) for _ in range(PAIRS)]
    wall, cpu = ratio(walls, bare_walls), median(cpus) / median(bare_cpus)
    what = "trivial tool-less job in a warm process, the whole path / bare CLI"
    measured = f"{wall:.2f}x ({ms(median(walls))} / {ms(median(bare_walls))})"
    used = f"{cpu:.2f}x ({ms(sum(cpus) / PAIRS)} / {ms(sum(bare_cpus) / PAIRS)})"
    return [
        Row(f"{what}: wall", "≤ 0.35x", measured, wall <= 0.35),
        Row(f"{what}: CPU", "≤ 0.30x", used, cpu <= 0.30),
    ]


def queue() -> Row:
    """Ordinary jobs, one at a time: the next one's process is started while the one before runs."""
    with lab(real=True, tokens=1, CLAUDE_JOBS_TOKEN_CONCURRENCY="1") as place:
        client = place.client()
        prompts = [rehearse(f"answer {n}") for n in range(QUEUE)]
        _jobs(place, client, [rehearse("hello")])
        place.settle()
        values, baselines = paired(
            lambda: timed(lambda: _jobs(place, client, prompts)) / QUEUE,
            lambda: timed(lambda: [_bare(place, prompt) for prompt in prompts]) / QUEUE,
            5,
        )
    found = ratio(values, baselines)
    measured = f"{found:.2f}x ({ms(median(values))} / {ms(median(baselines))})"
    return Row("full queue with spawn-ahead / bare CLI runs, one token, per job", "≤ 0.9x", measured, found <= 0.9)


def tokens() -> Row:
    """Jobs without tools whose answers take 2 s, one at a time for each token."""
    prompts = [rehearse(f"answer {n}", duration_s=2) for n in range(ANSWERS)]

    def wall(count: int) -> float:
        with lab(real=True, tokens=count, CLAUDE_JOBS_TOKEN_CONCURRENCY="1") as place:
            client = place.client()
            _jobs(place, client, [rehearse("hello", duration_s=1)] * 2 * count, **PLAIN)
            return timed(lambda: _jobs(place, client, prompts, **PLAIN))

    one, three = paired(lambda: wall(1), lambda: wall(3), 3)
    found = ratio(one, three)
    measured = f"{found:.2f}x ({median(one):.1f} s / {median(three):.1f} s)"
    return Row("3 tokens against 1, answers of 2 s, real claude, warm", "≥ 2.9x", measured, found >= 2.9)


def _jobs(place: Lab, client: Client, prompts: list[str], **options: object) -> None:
    for job_id in place.submit(prompts, client, **{"model": "sonnet", **options}):
        result = place.wait(job_id, client)
        assert result["state"] == "succeeded", result


def _bare(place: Lab, prompt: str, *more: str) -> None:
    argv = [str(find_claude(None, "")), "-p", "--output-format", "stream-json", "--input-format", "stream-json"]
    argv += ["--verbose", "--include-partial-messages", "--model", "sonnet", "--strict-mcp-config"]
    argv += ["--setting-sources", "", "--permission-mode", "acceptEdits", *more]
    env: dict[str, str] = {
        name: place.env[name] for name in ("PATH", "HOME", "TMPDIR", "CLAUDE_CONFIG_DIR", "ANTHROPIC_BASE_URL")
    }
    env |= {"CLAUDE_CODE_OAUTH_TOKEN": place.env["CLAUDE_CODE_TOKEN1"], "CLAUDE_CODE_MAX_RETRIES": "0"}
    env |= {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1"}
    line = json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n"
    done = subprocess.run(argv, input=line, text=True, env=env, capture_output=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr


def _cpu(spent: Callable[[], float], action: Callable[[], Any]) -> float:
    before = spent()
    action()
    return spent() - before


def _spent(keeper_pid: int) -> float:
    """CPU-seconds of keeper, worker, all that they started, and of us, the front."""
    return time.process_time() + sum(_ticks(pid) for pid in proctree.tree(keeper_pid)) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    """Of a process and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _spent_below() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
