"""Just enough HTTP/1.1 to answer a client on loopback and to misbehave on purpose: keep-alive, chunks, broken connections."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Sequence
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
_MAX_BODY_BYTES = 64 * 1024 * 1024
_PARTS_A_WRITE = 8


class BadHttp(Exception):
    """The peer does not speak HTTP as we understand it; the connection is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request; header names are in lower case, the path is without its query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    query: str = ""


class Connection:
    """One client connection, request after request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> HttpRequest | None:
        """The next request, None when the client has closed.

        Raises:
            BadHttp: What came is no request.
        """
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise BadHttp("closed in the middle of a request") from error
            return None
        except asyncio.LimitOverrunError as error:
            raise BadHttp("request head too long") from error
        line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        try:
            method, target, _ = line.split(" ", 2)
        except ValueError as error:
            raise BadHttp("no request line") from error
        pairs = (one.partition(":") for one in rest)
        headers = {key.strip().lower(): value.strip() for key, _, value in pairs}
        path, _, query = target.partition("?")
        return HttpRequest(method=method, path=path, headers=headers, body=await self._body(headers), query=query)

    async def reply(self, status: int, headers: dict[str, str], body: bytes, *, head_only: bool = False) -> None:
        """Sends a whole answer."""
        head = _head(status, {**headers, "content-length": str(len(body))})
        self._writer.write(head if head_only else head + body)
        await self._writer.drain()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Begins an answer of unknown length; `chunk` goes on, `end` ends it."""
        self._writer.write(_head(status, {**headers, "transfer-encoding": "chunked"}))
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def chunks(self, parts: Sequence[bytes]) -> None:
        """Many chunks that belong to no moment of their own, in few writes: a benchmark waits for its peer, not for us."""
        for at in range(0, len(parts), _PARTS_A_WRITE):
            self._writer.write(
                b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts[at : at + _PARTS_A_WRITE]])
            )
            await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def hung_up(self) -> None:
        """Returns when the client closes its side; anything it still says is ignored."""
        while await self._reader.read(4096):
            pass

    def abort(self) -> None:
        """Breaks the connection at once; bytes that were not yet sent are lost."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Sends what is left and closes."""
        self._writer.close()
        await self._writer.wait_closed()

    async def _body(self, headers: dict[str, str]) -> bytes:
        try:
            if "chunked" in headers.get("transfer-encoding", ""):
                return await self._chunks()
            length = int(headers.get("content-length", "0"))
            if length > _MAX_BODY_BYTES:
                raise BadHttp("request body too long")
            return await self._reader.readexactly(length)
        except (ValueError, asyncio.IncompleteReadError) as error:
            raise BadHttp("broken request body") from error

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
            if sum(map(len, parts)) > _MAX_BODY_BYTES:
                raise BadHttp("request body too long")
        while (await self._reader.readline()).strip():
            pass
        return b"".join(parts)


def _head(status: int, headers: dict[str, str]) -> bytes:
    try:
        reason = http.HTTPStatus(status).phrase
    except ValueError:
        reason = "Overloaded"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{key}: {value}" for key, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
