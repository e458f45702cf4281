"""A raw MCP client of a `claude-jobs mcp` process: every line it says must be JSON-RPC, and every wait ends."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from support_processes import PATIENCE_S, end
from support_worker import COMMAND

Json = dict[str, Any]
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LEGACY = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}
ERAS = ("legacy", "modern")


class Wire:
    """One session. Used as a context manager; at the end the process is gone and all it said was JSON-RPC."""

    def __init__(self, env: Mapping[str, str], cwd: Path, argv: Sequence[str] = (COMMAND, "mcp")) -> None:
        self.process = subprocess.Popen(
            argv, env=dict(env), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin = self.process.stdin
        self.garbage: list[bytes] = []
        self.said: list[bytes] = []
        self._messages: queue.Queue[Json | None] = queue.Queue()
        self._ids = 0
        self._meta: Json | None = None
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout,)),
            threading.Thread(target=self._listen, args=(self.process.stderr,)),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        end(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if not self.stdin.closed:
            self.stdin.close()
        assert self.garbage == []

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return b"".join(self.said).decode()

    def open(self, era: str) -> Json:
        """Say what a client of that era says first. The server's answer."""
        if era == "legacy":
            answer = self.result("initialize", **LEGACY)
            self.notify("notifications/initialized")
            return answer
        self._meta = MODERN
        return self.result("server/discover")

    def line(self, line: bytes) -> None:
        """Send a line as it is."""
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    def notify(self, method: str, **params: object) -> None:
        """Send what is not answered."""
        self.line(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode())

    def ask(self, method: str, **params: object) -> int:
        """Send a request; the id under which its answer will come."""
        self._ids += 1
        params = {**params, "_meta": self._meta} if self._meta else params
        self.line(json.dumps({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}).encode())
        return self._ids

    def ask_tool(self, name: str, **arguments: object) -> int:
        """Call a tool; the id under which its answer will come."""
        return self.ask("tools/call", name=name, arguments=arguments)

    def answer(self, asked: int | None, timeout_s: float = 2 * PATIENCE_S) -> Json:
        """The message that answers; what comes before it is let go."""
        while (message := self._messages.get(timeout=timeout_s)) is not None:
            if "method" not in message and message["id"] == asked:
                return message
        raise AssertionError(f"it hung up: {self.stderr[-2000:]}")

    def result(self, method: str, **params: object) -> Json:
        """Ask, and wait for the result."""
        return self.answer(self.ask(method, **params))["result"]

    def tool(self, name: str, **arguments: object) -> Json:
        """A tool's structured answer, with its words as `text`."""
        return told(self.answer(self.ask_tool(name, **arguments)))

    def hang_up(self) -> int:
        """Close stdin, as clients do at the end. The exit status."""
        self.stdin.close()
        return self.process.wait(PATIENCE_S)

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                try:
                    message = json.loads(line)
                    assert message["jsonrpc"] == "2.0"
                except (ValueError, KeyError, TypeError, AssertionError):
                    self.garbage.append(line)
                else:
                    self._messages.put(message)
        self._messages.put(None)

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            self.said.extend(stream)


def told(message: Json) -> Json:
    """What a tool's answer says: its structured content with its words as `text`."""
    result = message["result"]
    assert not result.get("isError"), result
    return {**(result.get("structuredContent") or {}), "text": result["content"][0]["text"]}
