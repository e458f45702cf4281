"""Asks the worker over its private socket. Synchronous and standard library only, for shell commands and other programs."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Generator, Mapping
from typing import cast

from claude_jobs.errors import InvalidRequest, WorkerError, WorkerLost, WorkerUnavailable
from claude_jobs.rpc import link, offer
from claude_jobs.rpc.fault import from_fault
from claude_jobs.rpc.launch import ensure_worker
from claude_jobs.rpc.offer import Welcome
from claude_jobs.runner.paths import Home

MAX_LINE_BYTES = 32 << 20


def connect(
    home: Home | None = None, *, start: bool = True, environ: Mapping[str, str] = os.environ, hello: bytes | None = None
) -> Client:
    """A client of the worker of `home`.

    Args:
        home: Default: the one that `environ` names.
        start: Start a worker if none runs, unless CLAUDE_JOBS_WORKER says otherwise.
        hello: Default: one with everything that `environ` offers.

    Raises:
        InvalidRequest: CLAUDE_JOBS_WORKER is none of its values.
        WorkerUnavailable: There is none, and none could be started.
        ClaudeJobsError: The worker refused us, or the state directory is not usable.
    """
    where = home or Home.resolve(environ)
    line = hello or offer.build(environ, "rpc")
    if start:
        return Client(*ensure_worker(where, environ, line))
    found = link.connect(where, line)
    if found is None:
        raise WorkerUnavailable("No worker runs. One starts with the first job, or with `claude-jobs worker`.")
    return Client(*found)


class Client:
    """One connection, one request at a time. Closing it cancels what it waits for, never a job.

    Attributes:
        welcome: What the worker said about itself.
    """

    def __init__(self, sock: socket.socket, welcome: Welcome) -> None:
        self.welcome = welcome
        self._sock = sock
        self._buffer = bytearray()
        self._requests = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def call(self, method: str, params: Mapping[str, object] | None = None, timeout_s: float | None = None) -> object:
        """The result of a method.

        Args:
            timeout_s: Longest silence; a method that emits events breaks it with each.

        Raises:
            WorkerLost: The worker went away, or did not answer in time: the request may have taken effect.
            ClaudeJobsError: What the method raised.
        """
        running = self.stream(method, params, timeout_s)
        while True:
            try:
                next(running)
            except StopIteration as stop:
                return cast("object", stop.value)

    def stream(
        self, method: str, params: Mapping[str, object] | None = None, timeout_s: float | None = None
    ) -> Generator[dict[str, object], None, object]:
        """The events of a method as they come; the generator's value is the result.

        Args:
            timeout_s: Longest silence between two events.

        Raises:
            InvalidRequest: The request is too long.
            WorkerLost: As for `call`.
            ClaudeJobsError: What the method raised.
        """
        self._requests += 1
        request = {"id": self._requests, "method": method, "params": dict(params or {})}
        line = json.dumps(request).encode("ascii") + b"\n"
        if len(line) > MAX_LINE_BYTES:
            message = f"The request {method!r} has {len(line)} bytes, more than {MAX_LINE_BYTES}. Send less at once."
            raise InvalidRequest(message, field="params")
        self._send(line, method, timeout_s)
        return self._answers(self._requests, method, timeout_s)

    def _answers(
        self, request_id: int, method: str, timeout_s: float | None
    ) -> Generator[dict[str, object], None, object]:
        while True:
            message = self._read(method, timeout_s)
            if message.get("id") not in (request_id, None):
                continue  # the late answer to a request that was given up
            if "event" in message:
                yield cast("dict[str, object]", message["event"])
            elif "error" in message:
                raise from_fault(cast("dict[str, object]", message["error"]))
            else:
                return message.get("result")

    def _send(self, line: bytes, method: str, timeout_s: float | None) -> None:
        self._sock.settimeout(timeout_s)
        try:
            self._sock.sendall(line)
        except TimeoutError as error:
            raise WorkerLost(f"The worker took no request {method!r} within {timeout_s} s. {_NEXT}") from error
        except OSError as error:
            raise WorkerLost(f"The worker went away before {method!r} was answered. {_NEXT}") from error

    def _read(self, method: str, timeout_s: float | None) -> dict[str, object]:
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0 and len(self._buffer) <= MAX_LINE_BYTES:
            seen = len(self._buffer)
            self._receive(method, give_up_at)
        if end < 0 or end > MAX_LINE_BYTES:
            raise WorkerError(f"The answer to {method!r} is longer than {MAX_LINE_BYTES} bytes. Ask for less of it.")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return cast("dict[str, object]", json.loads(line))
        except ValueError as error:
            raise WorkerError(f"The worker's answer to {method!r} is not JSON. See its log.") from error

    def _receive(self, method: str, give_up_at: float | None) -> None:
        try:
            if give_up_at is not None:
                self._sock.settimeout(max(0.001, give_up_at - time.monotonic()))
            chunk = self._sock.recv(1 << 18)
        except TimeoutError as error:
            raise WorkerLost(f"The worker did not answer {method!r} in time. {_NEXT}") from error
        except OSError as error:
            raise WorkerLost(f"The worker went away before {method!r} was answered. {_NEXT}") from error
        if not chunk:
            raise WorkerLost(f"The worker went away before {method!r} was answered. {_NEXT}")
        self._buffer += chunk


_NEXT = "Accepted jobs are safe: look with `claude-jobs ps`, or repeat a spawn with the same key."
