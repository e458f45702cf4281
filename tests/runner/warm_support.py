"""A runner that keeps processes, with proof at the end that none is left; a stand-in that holds conversations."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runner.support import Told, order
from support_processes import PATIENCE_S

from claude_jobs.domain.job import Outcome, ProjectFiles
from claude_jobs.runner import proctree
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.family import Waits
from claude_jobs.runner.mcp_config import Access
from claude_jobs.runner.order import Order
from claude_jobs.runner.warm import WarmPool, WarmRules

QUICK = Waits(interrupt_s=1.0, term_s=0.5)
RULES = WarmRules()
MOST_ROUNDS = 20
"""Noise only lengthens a time, so shortest times are compared: three rounds do when nothing else runs."""


class Bench:
    """A runner with a pool, and the pids its attempts ran in. `free_bytes` is the memory it believes to be free."""

    def __init__(
        self, claude: Path | None, rules: WarmRules, access: Access | None = None, max_live: int | None = None
    ) -> None:
        self.free_bytes = 64 << 30
        self.pool = WarmPool(rules=rules, waits=QUICK, free_bytes=self._free_bytes)
        self.cli = ClaudeCli(
            claude, waits=QUICK, pool=self.pool, access=access, free_bytes=self._free_bytes, max_live=max_live
        )
        self.pids: list[int] = []

    def _free_bytes(self) -> int:
        return self.free_bytes

    async def prepare(self, the_order: Order) -> int:
        """The pid of the process that was started for this order."""
        self.cli.prepare([the_order])
        await until(lambda: bool(waiting_for(the_order)))
        (pid,) = waiting_for(the_order)
        self.pids.append(pid)
        return pid

    async def run(self, the_order: Order, told: Told | None = None) -> Outcome:
        told = told or Told()
        outcome = await self.cli.start(the_order, told).outcome()
        assert told.process is not None, outcome
        self.pids.append(told.process.pid)
        return outcome


@asynccontextmanager
async def bench(
    claude: Path | None = None,
    rules: WarmRules = RULES,
    *,
    access: Access | None = None,
    max_live: int | None = None,
) -> AsyncGenerator[Bench]:
    place = Bench(claude, rules, access, max_live)
    try:
        yield place
    finally:
        await place.cli.close()
        assert place.pool.idle == ()
        assert [pid for pid in place.pids if is_alive(pid)] == []


def plain(home: Path, prompt: str = "Say hello.", **more: Any) -> Order:
    """Like `generate`: no tools, nothing of the project."""
    more.setdefault("tools", ())
    more.setdefault("project", ProjectFiles.NONE)
    return order(home, prompt, **more)


def waiting_for(the_order: Order) -> list[int]:
    """Processes that carry the order's marker."""
    return [proc.pid for proc in proctree.marked(the_order.home_mark)]


def requests(heard: str) -> list[dict[str, Any]]:
    """The bodies of the requests that an Ear heard."""
    starts = [match.end() for match in re.finditer(r"POST /v1/messages\S* HTTP/1.1\r\n.*?\r\n\r\n", heard, re.DOTALL)]
    return [json.JSONDecoder().raw_decode(heard, start)[0] for start in starts]


_NOTES = ("<local-command-caveat>", "<command-name>/clear</command-name>", "<local-command-stdout>")
_IDS = re.compile(r"toolu_\w+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|cc_version=[\w.]+|CLAUDE_PID=\d+|cc-socks/\d+")


def normal(body: dict[str, Any]) -> str:
    """A request without what differs between any two processes, and without the CLI's notes about a `/clear`."""
    for message in body["messages"]:
        if isinstance(message["content"], list):
            message["content"] = _without_notes(message["content"])
    return re.sub(r"CLAUDE_CODE_MESSAGING_TOKEN=\w+", "", _IDS.sub("…", json.dumps(body, indent=1, sort_keys=True)))


def _without_notes(blocks: list[dict[str, Any]]) -> object:
    """A lone text is sent as a string, and is one again once the notes are gone."""
    kept = [block for block in blocks if not str(block.get("text", "")).startswith(_NOTES)]
    return kept[0]["text"] if len(kept) == 1 and set(kept[0]) == {"type", "text"} else kept


def is_alive(pid: int) -> bool:
    proc = proctree.look(pid)
    return proc is not None and not proc.is_dead


async def until(predicate: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not predicate():
            await asyncio.sleep(0.02)


_STAND_IN = """#!{python} -SE
import json, os, sys, time, uuid
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
session, costs, resets = "", 0.0, True
for line in sys.stdin:
    message = json.loads(line)
    {on_line}
    if message["type"] == "control_request":
        say(type="control_response", response={{"subtype": "success", "request_id": message["request_id"]}})
    if message["type"] != "user": continue
    text = message["message"]["content"]
    if text == "/clear":
        {on_clear}
        say(type="conversation_reset", new_conversation_id="x")
        session = str(uuid.uuid4())
        say(type="system", subtype="init", session_id=session, model="m", tools=[])
        say(type="result", subtype="success", is_error=False, result="", total_cost_usd=0)
        continue
    {on_prompt}
    say(type="system", subtype="init", session_id=session, model="m", tools=[], claude_code_version="9.9.9")
    say(type="assistant", message={{"id": "m1", "model": "m", "content": [{{"type": "text", "text": text}}]}})
    mark = os.environ["CLAUDE_JOBS_MARK"], os.environ.get("CLAUDE_JOBS_JOB_ID", "")
    say(type="result", subtype="success", is_error=False, result=json.dumps(mark), total_cost_usd=0.01)
"""


WAITS = "while 'z' in text and not os.path.exists('go-on'): time.sleep(0.02)"
"""What a talker may do on a prompt: with a z in it, hold until `go_on`."""


def go_on(home: Path) -> None:
    (home / "work" / "go-on").touch()


def talker(folder: Path, *, on_clear: str = "pass", on_prompt: str = "pass", on_line: str = "pass") -> Path:
    """Does what it is told by statements: at a `/clear`, at any other prompt, at any line."""
    path = folder / "claude-talker"
    path.write_text(_STAND_IN.format(python=sys.executable, on_clear=on_clear, on_prompt=on_prompt, on_line=on_line))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
