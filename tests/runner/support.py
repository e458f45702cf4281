"""Orders, recording hooks and a stand-in claude for the runner's tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import JobSpec, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import Credential, TokenKind, Window
from claude_jobs.runner.order import Order


@dataclass
class Told:
    """Hooks that remember everything, and hand out `spares` at a limit."""

    spares: list[Credential] = field(default_factory=list[Credential])
    process: ProcessRef | None = None
    log: list[NewEvent] = field(default_factory=list[NewEvent])
    doing: list[str] = field(default_factory=list[str])
    windows: dict[str, Window] = field(default_factory=dict[str, Window])
    answers: int = 0
    works: int = 0
    limits: list[Outcome] = field(default_factory=list[Outcome])
    sessions: list[str] = field(default_factory=list[str])
    records_sessions: bool = True

    def started(self, process: ProcessRef) -> None:
        self.process = process

    def events(self, events: Sequence[NewEvent], progress: Progress | None) -> None:
        self.log.extend(events)
        if progress is not None and (not self.doing or self.doing[-1] != progress.doing):
            self.doing.append(progress.doing)

    def utilization(self, windows: dict[str, Window]) -> None:
        self.windows.update(windows)

    def answered(self) -> None:
        self.answers += 1

    def works_on(self) -> None:
        self.works += 1

    async def session(self, session_id: str) -> bool:
        self.sessions.append(session_id)
        return self.records_sessions

    async def on_limit(self, outcome: Outcome) -> Credential | None:
        self.limits.append(outcome)
        return self.spares.pop(0) if self.spares else None

    def tools(self) -> list[str]:
        return [str(event.data["tool"]) for event in self.log if event.kind is EventKind.TOOL]


def oauth(number: int = 1, *, url: str = "") -> Credential:
    profile = (("ANTHROPIC_BASE_URL", url),) if url else ()
    secret = f"sk-ant-oat01-rehearsal-{number}"
    return Credential(name=f"token{number}", kind=TokenKind.OAUTH, secret=secret, profile=profile)


def order(
    home: Path,
    prompt: str = "Say hello.",
    *,
    credential: Credential | None = None,
    timeout_s: float = 60.0,
    ceiling_s: float = 0.0,
    stall_s: float = 60.0,
    session_id: str = "",
    spent_nusd: int = 0,
    epoch: int = 1,
    cwd: Path | None = None,
    **spec: Any,
) -> Order:
    """An order with a home of its own and nothing inherited but PATH; its ceiling is its time-out unless told."""
    work = cwd or home / "work"
    if cwd is None:
        work.mkdir(parents=True, exist_ok=True)
    env = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
    }
    return Order(
        job_id="quiet-otter",
        epoch=epoch,
        spec=JobSpec(prompt=prompt, model="sonnet", cwd=str(work), env=tuple(sorted(env.items())), **spec),
        session_id=session_id or str(uuid.uuid4()),
        spent_nusd=spent_nusd,
        credential=credential or oauth(),
        timeout_s=timeout_s,
        ceiling_s=ceiling_s or timeout_s,
        stall_s=stall_s,
        home_mark=f"{home.name}-{os.getpid()}:worker:quiet-otter:{epoch}",
    )


_STAND_IN = """#!{python} -SE
import json, os, signal, subprocess, sys, time
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
def result(text="done", **more):
    say(**{{"type": "result", "subtype": "success", "is_error": False, "result": text, "total_cost_usd": 0.01, **more}})
def init():
    say(type="system", subtype="init", session_id="s", model="m", tools=["Bash", "Read"])
def answer(text="done", error=None):
    say(type="assistant", message={{"id": "msg_1", "model": "m", "content": [{{"type": "text", "text": text}}]}})
def tool(name="Bash", use_id="t1", **arguments):
    block = {{"type": "tool_use", "id": use_id, "name": name, "input": arguments}}
    say(type="assistant", message={{"id": "msg_0", "model": "m", "content": [block]}})
def tool_result(use_id="t1"):
    say(type="user", message={{"content": [{{"type": "tool_result", "tool_use_id": use_id}}]}})
first = sys.stdin.readline()
init()
{body}
"""


def stand_in(folder: Path, body: str) -> Path:
    """An executable that reads one line, says `init` and does what `body` says, with the words above."""
    path = folder / "claude-stand-in"
    path.write_text(_STAND_IN.format(python=sys.executable, body=body))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Ear:
    """A loopback relay before the rehearsal that hears what the CLI says: `heard()` gives it since the last call."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self._heard = bytearray()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()

    def heard(self) -> str:
        text = self._heard.decode("utf-8", "replace")
        self._heard.clear()
        return text

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pass(reader, back, self._heard), self._pass(there, writer, bytearray()))
        self._writers -= {writer, back}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                note += data
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
