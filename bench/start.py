"""Start-up of the MCP server: with a worker running, with none, inline; each against a bare FastMCP process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Row, median, ms, ratio
from bench.lab import COMMAND, Lab, lab

PAIRS = 11
_BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}


class Session:
    """One stdio server as a client sees it."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            text=True,
            bufsize=1,
        )

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended with {self.process.wait()}")
            answer = json.loads(line)
            if answer.get("id") == message["id"]:
                return answer

    def start(self) -> tuple[float, float]:
        """Seconds from the start of the process to the answers of initialize and tools/list."""
        self.ask(_INITIALIZE)
        first = time.perf_counter() - self.began
        assert self.process.stdin is not None
        self.process.stdin.write('{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        tools = self.ask({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
        assert tools["result"]["tools"]
        return first, time.perf_counter() - self.began

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(20)


def run() -> list[Row]:
    with lab() as place:
        place.client()
        rows = [*_warm(place), _sessions(place)]
    with lab() as place:
        rows.append(_cold(place))
    with lab(CLAUDE_JOBS_WORKER="inline") as place:
        rows.append(_inline(place))
    return rows


def _once(argv: Sequence[str], env: dict[str, str]) -> tuple[float, float, float]:
    session = Session(argv, env)
    first, listed = session.start()
    rss = session.rss_mb() if Path("/proc/self").exists() else 0.0
    session.close()
    return first, listed, rss


def _pairs(place: Lab, pairs: int = PAIRS) -> tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]:
    ours: list[tuple[float, float, float]] = []
    bare: list[tuple[float, float, float]] = []
    for n in range(pairs):
        for which in ("ours", "bare") if n % 2 else ("bare", "ours"):
            if which == "ours":
                ours.append(_once([COMMAND, "mcp"], place.env))
            else:
                bare.append(_once(_BARE, place.env))
    return ours, bare


def _warm(place: Lab) -> list[Row]:
    _once([COMMAND, "mcp"], place.env)
    ours, bare = _pairs(place)
    rows: list[Row] = []
    for index, what in (
        (0, "`mcp` start to first answer, worker running / bare FastMCP"),
        (1, "the same to tools/list"),
    ):
        mine, theirs = [sample[index] for sample in ours], [sample[index] for sample in bare]
        found = ratio(mine, theirs)
        rows.append(Row(what, "≤ 0.10x", f"{found:.3f}x ({ms(median(mine))} / {ms(median(theirs))})", found <= 0.10))
    rss = max(sample[2] for sample in ours)
    rows.append(Row("memory of a session's process", "≤ 15 MB", f"{rss:.1f} MB (bare {bare[0][2]:.0f} MB)", rss <= 15))
    return rows


def _sessions(place: Lab) -> Row:
    """Fifty at once: all are answered."""
    answered: list[float] = []
    sessions = [Session([COMMAND, "mcp"], place.env) for _ in range(50)]
    threads = [threading.Thread(target=lambda s=session: answered.append(s.start()[1])) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for session in sessions:
        session.close()
    slowest = f"slowest tools/list {ms(max(answered, default=0))}"
    return Row("50 sessions at once", "all work", f"{len(answered)} of 50, {slowest}", len(answered) == 50)


def _cold(place: Lab) -> Row:
    ours: list[float] = []
    bare: list[float] = []
    for n in range(PAIRS):
        for which in ("ours", "bare") if n % 2 else ("bare", "ours"):
            if which == "ours":
                ours.append(_once([COMMAND, "mcp"], place.env)[0])
                place.stop()
            else:
                bare.append(_once(_BARE, place.env)[0])
    found = ratio(ours, bare)
    measured = f"{found:.2f}x ({ms(median(ours))} / {ms(median(bare))})"
    return Row("`mcp` start with no worker running / bare FastMCP", "≤ 1.8x", measured, found <= 1.8)


def _inline(place: Lab) -> Row:
    ours, bare = _pairs(place)
    mine, theirs = [sample[0] for sample in ours], [sample[0] for sample in bare]
    found = ratio(mine, theirs)
    measured = f"{found:.2f}x ({ms(median(mine))} / {ms(median(theirs))})"
    return Row("`mcp` start inline / bare FastMCP", "≤ 1.0x", measured, found <= 1.0)
