"""One FastMCP server behind many connections of bridges: newline-delimited JSON-RPC over asyncio streams.

A connection costs two tasks and no thread. Each one speaks the protocol era its client opens with, and is asked by its
own Caller. What cannot be read is answered here; the SDK would drop it, and its client would wait for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Protocol

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastmcp import FastMCP
from fastmcp.server.context import reset_transport, set_transport
from mcp.shared.message import SessionMessage
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from claude_jobs.mcp_server.app import calling
from claude_jobs.services.caller import Caller

log = structlog.get_logger()

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_CALLS = 256
"""Unanswered calls of one connection; more are refused, so that a client that never reads cannot pile them up."""
_CHUNK_BYTES = 256 * 1024
_SEARCHED_BYTES = 4 * 1024
"""How far into either end of an oversized line its id is looked for."""

_ID = re.compile(rb'"id"\s*:\s*("(?:[^"\\]|\\.){0,200}"|-?\d{1,18})')
_ESCAPE = re.compile(
    rb"\\(?:(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Reader(Protocol):
    """The reading half of a connection, as asyncio.StreamReader has it."""

    async def read(self, n: int = -1, /) -> bytes:
        """Up to n bytes; b"" at the end."""
        ...


class Writer(Protocol):
    """The writing half of a connection, as asyncio.StreamWriter has it. Closing it is the caller's."""

    def write(self, data: bytes, /) -> None:
        """Queue bytes."""
        ...

    async def drain(self) -> None:
        """Wait until there is room again."""
        ...


class Resident:
    """Serves any number of connections while it is entered."""

    def __init__(self, server: FastMCP) -> None:
        self._server = server
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Resident:
        await self._stack.enter_async_context(_lifespan(self._server))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def serve(self, reader: Reader, writer: Writer, caller: Caller) -> None:
        """Serve one client until it hangs up. Calls under way are then cancelled; jobs are not."""
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
        client = _Client(reader, writer)
        with calling(caller):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.read, to_server)
                tasks.start_soon(client.write, from_server)
                async with from_client, to_client:
                    await _run(self._server, from_client, to_client)
                tasks.cancel_scope.cancel()


class _Client:
    """The wire of one connection."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._open: set[str | int] = set()

    async def read(self, to_server: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        async with to_server:
            try:
                async for line in _lines(self._reader):
                    message = line if isinstance(line, _Refused) else self._admitted(_parsed(line))
                    if isinstance(message, _Refused):
                        await self._send(message.answer())
                    else:
                        await to_server.send(message)
            except (ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                log.debug("mcp.hung_up")

    async def write(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_server:
            try:
                async for message in from_server:
                    if isinstance(message.message, JSONRPCResponse | JSONRPCError) and message.message.id is not None:
                        self._open.discard(message.message.id)
                    await self._send(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode())
            except ConnectionError:
                log.debug("mcp.hung_up")

    def _admitted(self, item: SessionMessage | _Refused) -> SessionMessage | _Refused:
        """Keep count of the calls that are open: a request opens one, its answer or its cancel closes it."""
        match item:
            case SessionMessage(message=JSONRPCRequest(id=request_id)):
                if len(self._open) >= MAX_CALLS:
                    return _Refused(
                        INVALID_REQUEST, f"{MAX_CALLS} calls are open on this connection. Wait for answers.", request_id
                    )
                self._open.add(request_id)
            case SessionMessage(
                message=JSONRPCNotification(
                    method="notifications/cancelled", params={"requestId": str() | int() as request_id}
                )
            ):
                self._open.discard(request_id)
            case _:
                pass
        return item

    async def _send(self, line: bytes) -> None:
        self._writer.write(line + b"\n")
        await self._writer.drain()


class _Refused:
    """A line that is not passed on, and how it is answered."""

    def __init__(self, code: int, why: str, request_id: str | int | None) -> None:
        self._error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": why}}

    def answer(self) -> bytes:
        return json.dumps(self._error).encode()


async def _lines(reader: Reader) -> AsyncIterator[bytes | _Refused]:
    """Lines without their end. An oversized one is skipped to its end and told as refused."""
    buffer = bytearray()
    head: bytes | None = None
    while chunk := await reader.read(_CHUNK_BYTES):
        *ends, chunk = chunk.split(b"\n")
        for end in ends:
            buffer += end
            if head is not None or len(buffer) > MAX_LINE_BYTES:
                yield _oversized(head or bytes(buffer[:_SEARCHED_BYTES]), bytes(buffer[-_SEARCHED_BYTES:]))
            elif buffer.strip():
                yield bytes(buffer)
            buffer.clear()
            head = None
        buffer += chunk
        if len(buffer) > MAX_LINE_BYTES:
            head = head or bytes(buffer[:_SEARCHED_BYTES])
            del buffer[:-_SEARCHED_BYTES]


def _oversized(head: bytes, tail: bytes) -> _Refused:
    """The id stands before the params or after them, depending on the client."""
    before, _, _ = head.partition(b'"params"')
    found = _ID.search(before) or next(reversed(list(_ID.finditer(tail))), None)
    why = f"The message is longer than {MAX_LINE_BYTES} bytes. Put the material into a file and name its path."
    return _Refused(INVALID_REQUEST, why, json.loads(found[1]) if found else None)


def _parsed(line: bytes) -> SessionMessage | _Refused:
    text = line.decode("utf-8", "replace").encode() if not line.isascii() else line
    text = _ESCAPE.sub(_paired, text) if b"\\u" in text else text
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
    except ValidationError:
        return _unreadable(text)


def _paired(escape: re.Match[bytes]) -> bytes:
    r"""A \ud800 without its other half becomes U+FFFD: it stands for no character, and no decoder takes it."""
    return rb"\ufffd" if escape[2] else escape[0]


def _unreadable(text: bytes) -> _Refused:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return _Refused(PARSE_ERROR, "Parse error: this line is not JSON.", None)
    found = data.get("id") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] (JSON)
    request_id = found if isinstance(found, (str, int)) and not isinstance(found, bool) else None
    return _Refused(INVALID_REQUEST, "Invalid request: this is JSON, but no JSON-RPC 2.0 message.", request_id)


# The private names of FastMCP that serving own streams needs; its own stdio transport makes the same calls.


@asynccontextmanager
async def _lifespan(server: FastMCP) -> AsyncGenerator[None]:
    async with server._lifespan_manager():  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        yield


async def _run(
    server: FastMCP,
    from_client: MemoryObjectReceiveStream[SessionMessage | Exception],
    to_client: MemoryObjectSendStream[SessionMessage],
) -> None:
    low = server._mcp_server  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    transport = set_transport("stdio")
    try:
        await low.run(from_client, to_client, low.create_initialization_options())
    finally:
        reset_transport(transport)
