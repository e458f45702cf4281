"""`claude-jobs mcp`: passes JSON-RPC lines between a client's pipes and the worker's socket, and outlives workers.

Standard library only and no asyncio: it answers in milliseconds and stays near 12 MB in each session. Nothing but
JSON-RPC goes to stdout.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc import link, offer, offline
from claude_jobs.rpc.launch import ensure_worker, is_inside_job
from claude_jobs.rpc.pipes import READ_BYTES, LineReader, write_ready
from claude_jobs.rpc.traffic import REPLAY_ID, Message, Traffic, error_line, line_of, parse, unreadable_line
from claude_jobs.runner.paths import Home

MAX_LINE_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20
_LAST_ANSWERS_S = 1.0
_HANG_UP_S = 2.0
_TOO_LONG = f"A line has more than {MAX_LINE_BYTES} bytes. Put the text into a file and name it in the prompt."


def main(inline: Callable[[bool], int], environ: Mapping[str, str] = os.environ) -> int:
    """Serve the client on stdin and stdout.

    Args:
        inline: Serves without a worker; told whether jobs run in this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # like SIGTERM and SIGHUP: nothing here needs saving
    mode = environ.get("CLAUDE_JOBS_WORKER", "")
    home = Home.resolve(environ)
    wants_inline = mode == "inline" or (mode == "none" and not link.is_listening(home))
    if wants_inline and not is_inside_job(environ):
        return inline(mode == "inline")  # see `inline`
    return Bridge(home, environ).run()


class Bridge:
    """One client's connection.

    Args:
        worker: Command line of the worker to start, for a test.
    """

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        *,
        stdin: int = 0,
        stdout: int = 1,
        worker: Sequence[str] | None = None,
    ) -> None:
        self._home = home
        self._environ = environ
        self._stdin = stdin
        self._stdout = stdout
        self._worker = worker
        self._sock: socket.socket | None = None
        self._cause = ""
        self._traffic = Traffic()
        self._client_lines = LineReader(MAX_LINE_BYTES)
        self._worker_lines = LineReader(2 * MAX_LINE_BYTES)
        self._to_client = bytearray()
        self._to_worker = bytearray()
        self._after_replay: list[bytes] | None = None
        self._ends_at: float | None = None
        self._is_hung_up = False

    def run(self) -> int:
        """Until the client closes its end."""
        try:
            self._connect()
            while not self._is_over():
                self._step()
        except BrokenPipeError:
            return 0  # the client has gone without closing its end first
        return 0

    def _is_over(self) -> bool:
        if self._ends_at is None:
            return False
        is_done = self._sock is None and not self._to_client
        return is_done or time.monotonic() >= self._ends_at + _HANG_UP_S

    def _step(self) -> None:
        """Wait for something to do, and do it."""
        poll = select.poll()
        if self._ends_at is None and len(self._to_worker) < _BUFFER_BYTES:
            poll.register(self._stdin, select.POLLIN)
        if self._to_client:
            poll.register(self._stdout, select.POLLOUT)
        if self._sock is not None and (wanted := self._wanted()):
            poll.register(self._sock, wanted)
        self._act({fd for fd, _ in poll.poll(self._pause_ms())})

    def _wanted(self) -> int:
        reads = select.POLLIN if len(self._to_client) < _BUFFER_BYTES else 0
        return reads | (select.POLLOUT if self._to_worker else 0)

    def _pause_ms(self) -> float | None:
        return None if self._ends_at is None else 50.0

    def _act(self, ready: set[int]) -> None:
        if self._to_client and self._stdout in ready:
            write_ready(self._stdout, self._to_client)
        # The worker's end first: what the client sends now must not be taken for sent to one that is gone.
        if self._sock is not None and self._sock.fileno() in ready:
            self._serve_worker(self._sock)
        if self._stdin in ready:
            self._read_client()
        if self._ends_at is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        """The client has closed its end: close ours to the worker, once it has answered or a moment has passed."""
        late = self._ends_at is not None and time.monotonic() >= self._ends_at
        if self._sock is None or self._is_hung_up or not (late or (self._traffic.is_idle and not self._to_worker)):
            return
        self._is_hung_up = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop()

    def _read_client(self) -> None:
        chunk = os.read(self._stdin, READ_BYTES)
        if not chunk:
            self._ends_at = time.monotonic() + _LAST_ANSWERS_S
            chunk = b"\n"  # a last line without its end is still a line
        before = self._client_lines.dropped
        for line in self._client_lines.feed(chunk):
            self._take(line)
        if self._client_lines.dropped > before:
            self._to_client += error_line(None, -32600, _TOO_LONG)

    def _take(self, line: bytes) -> None:
        """One line of the client."""
        message = parse(line)
        if message is None:
            self._to_client += unreadable_line()
        elif self._traffic.from_client(message, line + b"\n"):
            self._pass(message, line + b"\n")

    def _pass(self, message: Message, line: bytes) -> None:
        is_request = "id" in message and "method" in message
        if self._sock is None and is_request:
            self._try_again(message)
        if self._sock is not None:
            self._send(line)
        elif is_request:
            self._traffic.answered(message["id"])
            self._to_client += offline.answer(message, self._cause, is_legacy=self._traffic.is_legacy)

    def _try_again(self, message: Message) -> None:
        """After a loss, connect. After a failure a tool call is worth a new start; others only look whether one came."""
        had_failed = bool(self._cause)
        if had_failed and message.get("method") != "tools/call" and not link.is_listening(self._home):
            return
        self._flush_client()
        self._connect()
        if had_failed and self._sock is not None and self._traffic.is_legacy:
            self._to_client += line_of({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})

    def _send(self, line: bytes) -> None:
        if self._after_replay is not None:
            self._after_replay.append(line)
        else:
            self._to_worker += line

    def _serve_worker(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # full, or broken: then what it still said is read before its end
            del self._to_worker[: sock.send(self._to_worker[:READ_BYTES], socket.MSG_DONTWAIT)]
        try:
            chunk = sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        for line in self._worker_lines.feed(chunk):
            self._give(line)
        if not chunk:
            self._lost()

    def _give(self, line: bytes) -> None:
        """One line of the worker."""
        message = parse(line)
        if message is None:
            sys.stderr.write("claude-jobs: the worker sent a line that is not JSON-RPC; it was dropped.\n")
        elif self._traffic.from_worker(message):
            self._to_client += line + b"\n"
        elif self._after_replay is not None and message.get("id") == REPLAY_ID:
            self._to_worker += b"".join(self._after_replay)
            self._after_replay = None

    def _lost(self) -> None:
        """The worker has gone: say so to those who wait for a tool, and ask the next one for the rest.

        With nothing left to ask, no worker is started before the client speaks: it may have been stopped on purpose.
        """
        self._drop()
        answers, again = self._traffic.lost()
        self._to_client += b"".join(answers)
        if self._ends_at is None:
            for line in again:
                self._resend(line)

    def _resend(self, line: bytes) -> None:
        message = parse(line)
        assert message is not None, "it was parsed when it came"
        self._pass(message, line)

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._after_replay = None
        self._to_worker.clear()
        self._worker_lines.clear()

    def _connect(self) -> None:
        """Find or start a worker; on failure note why."""
        try:
            self._sock = self._greeted()
        except ClaudeJobsError as error:
            self._cause = f"claude-jobs cannot run: {error.message}"
            return
        self._cause = ""
        if replay := self._traffic.replay():
            self._to_worker += replay[0]
            self._after_replay = replay[1:]

    def _greeted(self) -> socket.socket:
        hello = offer.build(self._environ, "mcp")
        return ensure_worker(self._home, self._environ, hello, worker=self._worker)[0]

    def _flush_client(self) -> None:
        """Give the client what it is owed before something that may take long."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLOUT)
        while self._to_client and poll.poll(1_000):
            write_ready(self._stdout, self._to_client)
