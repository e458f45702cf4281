"""A home with a real detached worker: keeper, worker, fronts, a stand-in claude or the real one, and proof that nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from support_cli import CLAUDE
from support_processes import PATIENCE_S, end, gone, is_running, wait_until

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rehearsal.script import Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.rpc.client import Client, connect
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home

COMMAND = str(Path(sys.executable).with_name("claude-jobs"))
SECRETS = tuple(f"sk-ant-oat01-rehearsal-{n}" for n in (1, 2, 3))

STAND_IN = """#!/bin/sh
[ "$1" = --version ] && echo "0.0.0 (stand-in)" && exit
[ "$1" = auth ] && echo '{{"loggedIn":false}}' && exit 1
echo x >> "{root}/started.$CLAUDE_JOBS_JOB_ID"
read -r line
echo '{{"type":"system","subtype":"init","session_id":"s","model":"m","tools":["Bash"]}}'
{body}
echo '{{"type":"result","subtype":"success","is_error":false,"result":"done","total_cost_usd":0.01,"num_turns":1}}'
"""

Json = dict[str, Any]


@dataclass
class Place:
    """A home of one's own. `env` is what its fronts are started with."""

    root: Path
    env: dict[str, str]
    clients: list[Client] = field(default_factory=list[Client])
    children: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def home(self) -> Home:
        return Home.resolve(self.env)

    @property
    def work(self) -> Path:
        return self.root / "work"

    def client(self, *, start: bool = True, **more: str) -> Client:
        """A client; it starts the worker if there is none."""
        client = connect(self.home, environ={**self.env, **more}, start=start)
        self.clients.append(client)
        return client

    def call(self, method: str, **params: object) -> Json:
        """One question on a connection of its own."""
        with connect(self.home, environ=self.env) as client:
            return cast("Json", client.call(method, params, 2 * PATIENCE_S))

    def health(self) -> Json:
        return self.call("health")

    def submit(self, prompts: Sequence[str], client: Client | None = None, **options: object) -> list[str]:
        """Ids of the jobs, one a prompt."""
        items = [{"prompt": prompt, "cwd": str(self.work), **options} for prompt in prompts]
        params = {"items": items, "batch": len(prompts) > 1}
        answer = cast("Json", (client or self.client()).call("submit", params, PATIENCE_S))
        return [job["job_id"] for job in answer["jobs"]]

    def result(self, job_id: str, wait_s: float = PATIENCE_S) -> Json:
        """The result, also if the worker is replaced while we wait."""
        return self.call("result", job_id=job_id, wait_s=wait_s)

    def ended(self, job_ids: Sequence[str], wait_s: float = PATIENCE_S) -> list[Json]:
        """The results of all, as they are when the last one has ended."""
        results = [self.result(job_id, wait_s) for job_id in job_ids]
        late = [one for one in results if one["state"] in ("queued", "running", "blocked")]
        assert not late, f"not ended: {late}"
        return results

    def events(self, job_id: str) -> list[Json]:
        with connect(self.home, environ=self.env) as client:
            return list(client.stream("events", {"job_id": job_id}, PATIENCE_S))

    def of(self, job_id: str, kind: str) -> list[Json]:
        """Its events of one kind."""
        return [event for event in self.events(job_id) if event["kind"] == kind]

    def starts(self, job_id: str) -> int:
        """How often a stand-in was started for a job."""
        try:
            return len((self.root / f"started.{job_id}").read_text().split())
        except OSError:
            return 0

    def all_started(self, job_ids: Sequence[str], times: int = 1) -> None:
        wait_until(lambda: all(self.starts(job_id) >= times for job_id in job_ids))

    def stand_in(self, body: str = ":") -> None:
        """Put a stand-in in claude's place, or replace what it does."""
        script = self.root / "stand-in"
        draft = self.root / "stand-in.draft"
        draft.write_text(STAND_IN.format(root=self.root, body=body))
        draft.chmod(0o755)
        draft.rename(script)
        self.env["CLAUDE_JOBS_CLI"] = str(script)

    def command(self, *args: str, timeout_s: float = 2 * PATIENCE_S, **more: str) -> subprocess.CompletedProcess[str]:
        """`claude-jobs …`, run to its end."""
        return subprocess.run(
            [COMMAND, *args],
            env={**self.env, **more},
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def background(self, *argv: str) -> int:
        """A process that has nothing to do with us; its pid."""
        child = subprocess.Popen(argv, env={"PATH": self.env["PATH"]}, start_new_session=True)
        self.children.append(child)
        return child.pid

    def log(self) -> str:
        """What the worker has logged."""
        return (self.home.logs_dir / "worker.log").read_text()

    def own_processes(self) -> list[int]:
        """Keepers and workers of this home, and everything that carries its mark."""
        names = (os.fsencode(self.home.root), os.fsencode(self.home.configured))
        marked = {proc.pid for proc in proctree.marked(f"{self.home.home_id}:")}
        return sorted(pid for pid in proctree.table() if pid in marked or (_serves(pid, names) and is_running(pid)))

    def stop(self) -> None:
        """Ask the worker to leave, if there is one that answers."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        for child in self.children:
            end(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        self.children.clear()
        for pid in self.own_processes():
            end(pid, signal.SIGCONT)
        try:
            with connect(self.home, start=False, environ=self.env) as client:
                client.call("stop", {"grace_s": 0}, 10)
        except ClaudeJobsError:  # none there, or it is leaving already
            return

    def leftovers(self) -> list[int]:
        """Who is still there after a while; ended by force."""
        try:
            wait_until(lambda: not self.own_processes())
        except AssertionError:
            left = self.own_processes()
            proctree.kill_tree([proc for pid in left if (proc := proctree.look(pid)) is not None])
            wait_until(lambda: all(gone(pid) for pid in left))
            return left
        return []


def _serves(pid: int, homes: Sequence[bytes]) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--home" in argv[:-1] and argv[argv.index(b"--home") + 1] in homes


@contextmanager
def place(root: Path, *, tokens: int = 3, **settings: str) -> Generator[Place]:
    """A home in `root` with a stand-in; its worker starts with the first client and is gone at the end, with all it started."""
    for name in ("home", "config", "work", "tmp"):
        (root / name).mkdir(exist_ok=True)
    env = {
        "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CONFIG_DIR": str(root / "config"),
        "CLAUDE_JOBS_HOME": str(root / "jobs"),
        "CLAUDE_RETRY_DELAY": "0.1",
        **{f"CLAUDE_CODE_TOKEN{n}": secret for n, secret in enumerate(SECRETS[:tokens], start=1)},
        **settings,
    }
    here = Place(root, env)
    if "CLAUDE_JOBS_CLI" not in settings:
        here.stand_in()
    try:
        yield here
    finally:
        here.stop()
        left = here.leftovers()
        here.home.socket.unlink(missing_ok=True)
    assert not left, f"processes {left} of this home outlived it"


@contextmanager
def real_place(root: Path, api: Rehearsal, *, tokens: int = 3, **settings: str) -> Generator[Place]:
    """A place whose jobs are run by the real claude against `api`."""
    with place(root, tokens=tokens, CLAUDE_JOBS_CLI=str(CLAUDE), ANTHROPIC_BASE_URL=api.url, **settings) as here:
        yield here


@contextmanager
def rehearsing(script: Script | None = None, *, port: int = 0) -> Generator[Rehearsal]:
    """A rehearsal API on a thread of its own, for tests that wait synchronously."""
    ready, over = threading.Event(), asyncio.Event()
    api = Rehearsal(script, port=port)
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with api:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield api
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def rehearse(reply: str, **action: object) -> str:
    """A prompt that tells the rehearsal what to do."""
    return f"{reply}\nrehearse: " + json.dumps({"reply": reply, **action})


def kill_hard(*pids: int) -> None:
    """kill -9, of processes that may have gone."""
    for pid in pids:
        end(pid, signal.SIGKILL)


def old_version(root: Path, version: str) -> Path:
    """A copy of the package that says it is `version`; the directory to import it from."""
    import claude_jobs

    there = root / f"v{version}"
    source = Path(claude_jobs.__file__).parent
    shutil.copytree(source, there / "claude_jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (there / "claude_jobs" / "__init__.py").write_text(f'"""Another version."""\n\n__version__ = "{version}"\n')
    return there


class Session:
    """An MCP client with its `claude-jobs mcp` process."""

    def __init__(self, here: Place, *argv: str, **more: str) -> None:
        self.process = subprocess.Popen(
            argv or (COMMAND, "mcp"),
            env={**here.env, **more},
            cwd=here.work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        here.children.append(self.process)
        self._ids = 0
        info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        self.answer(self.ask("initialize", **info))
        self._send({"method": "notifications/initialized"})

    def ask(self, method: str, **params: object) -> int:
        """The id under which the answer will come."""
        self._ids += 1
        self._send({"id": self._ids, "method": method, "params": params})
        return self._ids

    def answer(self, asked: int) -> Json:
        """The message that answers; what comes before it is let go."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == asked and "method" not in message:
                return message
        raise AssertionError("the server hung up")

    def tool(self, name: str, **arguments: object) -> Json:
        """The structured content of a tool's result with its `text`, or {"error": text}."""
        message = self.answer(self.ask("tools/call", name=name, arguments=arguments))
        if "error" in message:
            return {"error": message["error"]["message"]}
        result = message["result"]
        text = result["content"][0]["text"]
        return {"error": text} if result.get("isError") else {**(result.get("structuredContent") or {}), "text": text}

    def close(self) -> None:
        """End the session as a client does: close its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)

    def _send(self, message: Json) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()
