"""Requests on one connection of kind "rpc": lines in, lines out, many at once. Knows no method by name.

-> {"id": 1, "method": "status", "params": {...}}
<- {"id": 1, "event": {...}}                        any number, from a method that emits
<- {"id": 1, "result": ...}   or   {"id": 1, "error": {"code", "message", "retryable", ...}}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import structlog

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc.fault import Fault, to_fault
from claude_jobs.rpc.hello import Hello

MAX_IN_FLIGHT = 256
"""Requests of one connection that may run at once."""

Emit = Callable[[Mapping[str, object]], Awaitable[None]]
"""Sends one event of the running request; waits while the client does not read."""
Method = Callable[[Mapping[str, object], Hello, Emit], Awaitable[object]]
"""Answers one request with something JSON can say. Cancelled when the client hangs up."""
Methods = Mapping[str, Method]

log = structlog.get_logger()


async def serve_methods(
    methods: Methods, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello
) -> None:
    """Answer requests until the client hangs up; then cancel those that still run."""
    connection = _Connection(methods, writer, hello)
    async with asyncio.TaskGroup() as group:
        running: set[asyncio.Task[None]] = set()
        while (line := await connection.read(reader)) is not None:
            if len(running) >= MAX_IN_FLIGHT:
                await connection.refuse(line)
                continue
            task = group.create_task(connection.answer(line))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


class _Connection:
    def __init__(self, methods: Methods, writer: asyncio.StreamWriter, hello: Hello) -> None:
        self._methods = methods
        self._writer = writer
        self._hello = hello

    async def read(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next line, None at the end of the stream or behind a line that is too long."""
        try:
            return await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await self._send({"id": None, "error": _fault("too_large", f"A line has {error.consumed} bytes or more.")})
        except asyncio.IncompleteReadError:
            pass
        return None

    async def refuse(self, line: bytes) -> None:
        """Answer a request with an error and without running it."""
        request_id, _, _ = _request(line)
        fault = _fault("busy", f"{MAX_IN_FLIGHT} requests of this connection run; wait for some.")
        await self._send({"id": request_id, "error": {**fault, "retryable": True}})

    async def answer(self, line: bytes) -> None:
        """Run one request and send what it gives."""
        request_id, name, params = _request(line)

        async def emit(event: Mapping[str, object]) -> None:
            await self._send({"id": request_id, "event": event})

        try:
            self._writer.write(await self._outcome(request_id, name, params, emit))
            await self._writer.drain()
        except ConnectionError:
            log.debug("rpc.hung_up", method=name)

    async def _outcome(self, request_id: object, name: str, params: Mapping[str, object] | None, emit: Emit) -> bytes:
        """The line that ends a request."""
        method = self._methods.get(name)
        if params is None:
            fault = _fault("invalid_request", 'A request is {"id", "method", "params": {...}}.')
        elif method is None:
            fault = _fault("unknown_method", f"No method {name!r}. The worker may have another version.")
        else:
            try:
                return _line({"id": request_id, "result": await method(params, self._hello, emit)})
            except ClaudeJobsError as error:
                fault = to_fault(error)
            except ConnectionError:
                raise
            except Exception:
                # The boundary of a request: it is answered whatever happens, and logged.
                log.exception("rpc.method_failed", method=name)
                fault = _fault("internal", f"{name} failed inside the worker; its log says why.")
        return _line({"id": request_id, "error": fault})

    async def _send(self, message: Mapping[str, object]) -> None:
        self._writer.write(_line(message))
        await self._writer.drain()


def _request(line: bytes) -> tuple[object, str, Mapping[str, object] | None]:
    """(id, method, params); params is None when the line is not a request."""
    try:
        parsed: object = json.loads(line)
    except ValueError:
        return None, "", None
    if not isinstance(parsed, dict):
        return None, "", None
    message = cast("dict[str, object]", parsed)
    method, params = message.get("method"), message.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        return message.get("id"), "", None
    return message.get("id"), method, cast("dict[str, object]", params)


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


def _fault(code: str, message: str) -> Fault:
    return {"code": code, "message": message, "retryable": False}
