"""One asyncio connection to the worker: one request at a time. Closing it cancels what it waits for, never a job."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from claude_jobs.errors import InvalidRequest, WorkerLost, WorkerUnavailable
from claude_jobs.rpc import link, offer
from claude_jobs.rpc.client import MAX_LINE_BYTES
from claude_jobs.rpc.fault import from_fault
from claude_jobs.rpc.launch import ensure_worker
from claude_jobs.runner.paths import Home

_NEXT = "It may have taken effect. Ask again: a new worker answers."


class Ended:
    """The last thing a request gives: its result. All methods that the client asks give an object."""

    __slots__ = ("result",)

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.result = result


def dial(home: Home, environ: Mapping[str, str], *, start: bool) -> socket.socket:
    """A socket on which a worker has welcomed us. Blocks while one is started.

    Raises:
        WorkerUnavailable: There is none, and none could be started.
        ClaudeJobsError: The worker refused us, or the state directory is not usable.
    """
    hello = offer.build(environ, "rpc")
    if start:
        return ensure_worker(home, environ, hello)[0]
    found = link.connect(home, hello)
    if found is None:
        raise WorkerUnavailable("No worker runs. One starts with the first job, or with `claude-jobs worker`.")
    return found[0]


class Connection:
    """A greeted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._requests = 0
        self._is_asked = False

    @classmethod
    async def open(cls, home: Home, environ: Mapping[str, str], *, start: bool) -> Connection:
        """Dial in a thread. Raises as `dial`."""
        dialling = asyncio.ensure_future(asyncio.to_thread(dial, home, environ, start=start))
        try:
            sock = await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialling.add_done_callback(_hang_up)
            raise
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=2 * MAX_LINE_BYTES))

    @property
    def is_usable(self) -> bool:
        """Whether it waits for nothing and the worker is still there."""
        return not self._is_asked and not self._reader.at_eof() and not self._writer.is_closing()

    async def ask(self, method: str, params: Mapping[str, object]) -> AsyncGenerator[Mapping[str, Any] | Ended]:
        """The events of a request as they come, then its result.

        Raises:
            InvalidRequest: It is too long, or cannot be written as JSON.
            WorkerLost: The worker went away: the request may have taken effect.
            ClaudeJobsError: What the method raised.
        """
        self._requests += 1
        line = _line({"id": self._requests, "method": method, "params": params})
        self._is_asked = True
        try:
            self._writer.write(line)
            await self._writer.drain()
            while True:
                message = cast("dict[str, Any]", json.loads(await self._reader.readuntil(b"\n")))
                if "event" in message:
                    yield message["event"]
                    continue
                self._is_asked = False
                if "error" in message:
                    raise from_fault(message["error"])
                yield Ended(message["result"])
                return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise WorkerLost(f"The worker went away before {method!r} was answered. {_NEXT}") from error

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it had gone already


def _line(request: Mapping[str, object]) -> bytes:
    try:
        line = json.dumps(request, allow_nan=False).encode("ascii") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.", field="params") from error
    if len(line) > MAX_LINE_BYTES:
        message = (
            f"The request {request['method']!r} has {len(line)} bytes, more than {MAX_LINE_BYTES}. Send less at once."
        )
        raise InvalidRequest(message, field="params")
    return line


def _hang_up(dialling: asyncio.Future[socket.socket]) -> None:
    """Whoever wanted the socket has left."""
    if not dialling.cancelled() and dialling.exception() is None:
        dialling.result().close()
