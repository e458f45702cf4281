"""The real parts in this process, on a home in tmp_path, with a stand-in claude or the real one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from support_processes import PATIENCE_S

from claude_jobs.domain.job import Job
from claude_jobs.factory import App, open_app
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.settings import load

TOKENS = tuple((f"CLAUDE_CODE_TOKEN{n}", "oauth", f"sk-ant-oat01-rehearsal-{n}") for n in (1, 2, 3))

_CLAUDE = """#!/bin/sh
# Speaks just enough of the CLI's language: one answer after {seconds} s.
if [ "$1" = auth ]; then echo '{{"loggedIn":false}}'; exit 1; fi
read -r line
echo '{{"type":"system","subtype":"init","session_id":"s","model":"m","tools":["Bash","Read"]}}'
echo '{{"type":"assistant","message":{{"id":"m1","model":"m","content":[{{"type":"text","text":"{text}"}}]}}}}'
{body}
sleep {seconds}
echo '{{"type":"result","subtype":"success","is_error":false,"result":"{text}","total_cost_usd":0.01,"num_turns":1}}'
"""


def stand_in(folder: Path, *, seconds: float = 0.0, text: str = "done", body: str = ":") -> Path:
    """A tiny executable in claude's place."""
    path = folder / f"claude-{seconds}-{text}-{abs(hash(body))}"
    path.write_text(_CLAUDE.format(seconds=seconds, text=text, body=body))
    path.chmod(0o755)
    return path


def environment(root: Path, **settings: str) -> dict[str, str]:
    """A clean environment with a home, a state directory and a config directory of its own."""
    for name in ("home", "jobs", "config", "work", "tmp"):
        (root / name).mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CONFIG_DIR": str(root / "config"),
        "CLAUDE_JOBS_HOME": str(root / "jobs"),
        **settings,
    }


def caller(root: Path, env: Mapping[str, str], *, url: str = "", tokens: int = 3) -> Caller:
    """A front in `root/work` that offers rehearsal tokens."""
    inherited = {name: value for name, value in env.items() if not name.startswith("CLAUDE_JOBS_")}
    return Caller(
        cwd=str(root / "work"),
        submitter=f"uid:{os.getuid()}",
        env=tuple(sorted(inherited.items())),
        profile=(("ANTHROPIC_BASE_URL", url),) if url else (),
        credentials=TOKENS[:tokens],
    )


@asynccontextmanager
async def running_app(env: Mapping[str, str], *, grace_s: float = 0.0) -> AsyncGenerator[App]:
    """The parts, with the worker running until the block ends."""
    home = Home.resolve(env)
    async with open_app(load(env, home.env_file), home) as app:
        await app.desk.tokens.restore(())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(app.worker.run())
            try:
                yield app
            finally:
                await app.worker.leave(grace_s)


async def ended(app: App, job_id: str, timeout_s: float = PATIENCE_S) -> Job:
    """The job when it has ended."""
    async for situation in app.jobs.wait(job_id, timeout_s):
        if situation.job.is_terminal:
            return situation.job
    raise AssertionError(f"{job_id} has not ended in {timeout_s} s: {await app.jobs.get(job_id)}")


async def until(predicate: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a fact."""
    end = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < end, "it did not become true in time"
        await asyncio.sleep(0.02)


PYTHON = sys.executable
