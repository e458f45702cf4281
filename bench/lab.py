"""A place to measure in: a state directory of its own, a real detached worker, fake tokens, and a stand-in or the real claude."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from claude_jobs.client import Client, Home, connect
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.runner import proctree

BIN = Path(sys.executable).parent
COMMAND = str(BIN / "claude-jobs")

STAND_IN = """#!/bin/sh
[ "$1" = --version ] && echo "0.0.0 (stand-in)" && exit
date +%s%N > "{root}/started.$CLAUDE_JOBS_JOB_ID"
read -r line
echo '{{"type":"system","subtype":"init","session_id":"s","model":"m","tools":[]}}'
{body}
echo '{{"type":"result","subtype":"success","is_error":false,"result":"done","total_cost_usd":0.01,"num_turns":1}}'
"""


@dataclass
class Lab:
    """The place. `env` is what fronts and bare CLIs run with."""

    root: Path
    env: dict[str, str]
    api: subprocess.Popen[str] | None = None
    opened: list[Client] = field(default_factory=list[Client])

    @property
    def home(self) -> Home:
        return Home.resolve(self.env)

    def client(self) -> Client:
        client = connect(self.home, environ=self.env)
        self.opened.append(client)
        return client

    def settle(self) -> None:
        """Wait until the worker has made the imports that it makes beside its first jobs."""
        time.sleep(4)

    def health(self) -> dict[str, Any]:
        with connect(self.home, environ=self.env) as client:
            return cast("dict[str, Any]", client.call("health"))

    def submit(self, prompts: Sequence[str], client: Client, **options: object) -> list[str]:
        items = [{"prompt": prompt, "max_attempts": 5, **options} for prompt in prompts]
        ids: list[str] = []
        for start in range(0, len(items), 200):
            answer = cast(
                "dict[str, Any]", client.call("submit", {"items": items[start : start + 200], "batch": len(items) > 1})
            )
            ids.extend(job["job_id"] for job in answer["jobs"])
        return ids

    def wait(self, job_id: str, client: Client) -> dict[str, Any]:
        return cast("dict[str, Any]", client.call("result", {"job_id": job_id, "wait_s": 300}, 310))

    def started(self, job_id: str) -> float | None:
        """When the stand-in of a job said it runs, epoch seconds."""
        try:
            return int((self.root / f"started.{job_id}").read_text()) / 1e9
        except (OSError, ValueError):
            return None

    def stop(self) -> None:
        """Stop the worker and its keeper."""
        for client in self.opened:
            client.close()
        self.opened.clear()
        try:
            with connect(self.home, start=False, environ=self.env) as client:
                health = cast("dict[str, Any]", client.call("health"))
                client.call("stop", {"grace_s": 0})
        except ClaudeJobsError:  # no worker: nothing to stop
            return
        end = time.monotonic() + 20
        while proctree.look(health["pid"]) is not None and time.monotonic() < end:
            time.sleep(0.02)


@contextmanager
def lab(*, body: str = ":", real: bool = False, script: str = "", tokens: int = 3, **settings: str) -> Iterator[Lab]:
    """A lab; with `real` the claude of claude-agent-sdk against the rehearsal API, else a stand-in that does `body`.

    `script` is what the API plays, as JSON.
    """
    root = Path(tempfile.mkdtemp(prefix="cj-bench-"))
    for name in ("home", "jobs", "config", "work", "tmp"):
        (root / name).mkdir()
    env = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CONFIG_DIR": str(root / "config"),
        "CLAUDE_JOBS_HOME": str(root / "jobs"),
        "CLAUDE_JOBS_LOG_LEVEL": "warning",
        "CLAUDE_RETRY_DELAY": "0.1",
        "CLAUDE_MAX_CONCURRENT_AT_DEPTH": "1000",  # only slots and tokens bound what is measured
        **{f"CLAUDE_CODE_TOKEN{n}": f"sk-ant-oat01-rehearsal-{n}" for n in range(1, tokens + 1)},
        **settings,
    }
    place = Lab(root, env)
    if real:
        argv = [sys.executable, "-m", "claude_jobs.rehearsal", "--port", "0"]
        if script:
            (root / "script.json").write_text(script)
            argv += ["--script", str(root / "script.json")]
        place.api = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert place.api.stdout is not None
        env["ANTHROPIC_BASE_URL"] = place.api.stdout.readline().strip()
    else:
        script = root / "stand-in"
        script.write_text(STAND_IN.format(root=root, body=body))
        script.chmod(0o755)
        env["CLAUDE_JOBS_CLI"] = str(script)
    back = Path.cwd()
    os.chdir(root / "work")
    try:
        yield place
    finally:
        os.chdir(back)
        place.stop()
        if place.api is not None:
            place.api.send_signal(signal.SIGTERM)
            place.api.wait()
            for pipe in (place.api.stdin, place.api.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(root, ignore_errors=True)


def rehearse(reply: str, **action: object) -> str:
    """A prompt that tells the rehearsal API what to do."""
    return "rehearse: " + json.dumps({"reply": reply, **action})
