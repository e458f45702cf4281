"""Answers that come in pieces: sent as they come, kept alive while nothing comes, and ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import structlog
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.web.replies import encoded

log = structlog.get_logger()

T = TypeVar("T")
KEEP_ALIVE_S = 10.0
"""Longest silence on an open stream: proxies and clients give up after 30 to 60 s."""
SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
COMMENT = b": keep-alive\n\n"

Whole = Callable[[ClaudeJobsError | None], Response]
"""The answer for an error (None: a fault of ours) of which the client can still be told with a status."""
Late = Callable[[ClaudeJobsError | None], bytes]
"""The last piece, for an error after the first one."""


def sse(event: str, view: object) -> bytes:
    """One server-sent event."""
    return b"event: " + event.encode("ascii") + b"\ndata: " + encoded(view) + b"\n\n"


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientDisconnect: It left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PieceResponse(Response):
    """Pieces of bytes as `pieces` gives them. An error before the first one is a whole answer with its status.

    Args:
        keep_alive: Sent in a silence of KEEP_ALIVE_S; b"" for formats that have no word for it.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes], *, media_type: str, whole: Whole, late: Late, keep_alive: bytes = b""
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.background: BackgroundTask | None = None
        self._pieces = pieces
        self._whole = whole
        self._late = late
        self._keep_alive = keep_alive
        self._is_begun = False
        self._is_over = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        writing = asyncio.ensure_future(self._write(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        beating = asyncio.ensure_future(self._beat(send))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving, beating):
                task.cancel()
            await asyncio.wait((writing, leaving, beating))
        if not writing.cancelled():
            writing.result()

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One task asks for all pieces: a generator's time limits belong to the task that they were set in."""
        last = b""
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await self._send(send, piece)
        except ClaudeJobsError as error:
            if not self._is_begun:
                await self._answer(self._whole(error), scope, receive, send)
                return
            last = self._late(error)
        except Exception:
            # The boundary of a request: the client hears of it whatever happens, and it is logged.
            log.exception("http.stream_failed", path=scope["path"])
            if not self._is_begun:
                await self._answer(self._whole(None), scope, receive, send)
                return
            last = self._late(None)
        await self._begin(send)
        self._is_over = True
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _answer(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self._is_over = True
        await answer(scope, receive, send)

    async def _beat(self, send: Send) -> None:
        if not self._keep_alive:
            return
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while not self._is_over:
            await asyncio.sleep(max(0.01, self._sent_at + KEEP_ALIVE_S - loop.time()))
            if not self._is_over and loop.time() - self._sent_at >= KEEP_ALIVE_S:
                await self._send(send, self._keep_alive)

    async def _send(self, send: Send, piece: bytes) -> None:
        await self._begin(send)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        self._sent_at = asyncio.get_running_loop().time()

    async def _begin(self, send: Send) -> None:
        if not self._is_begun:
            self._is_begun = True
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(start)
