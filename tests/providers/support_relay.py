"""A TCP relay in front of the rehearsal API: it counts the connections of a client and sees each of them closed."""

from __future__ import annotations

import asyncio
from typing import Self
from urllib.parse import urlsplit

_KEPT_BYTES = 1_000_000


class Relay:
    """Passes bytes both ways.

    Attributes:
        url: What stands for the server's.
        opened: Connections so far.
        open: Connections now.
        said: What the client has sent, up to a bound.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.url = ""
        self.opened = 0
        self.open = 0
        self.said = bytearray()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def is_quiet(self, timeout_s: float = 30) -> None:
        """Waits until the client has closed all of its connections."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        assert self._target.hostname and self._target.port
        there, away = await asyncio.open_connection(self._target.hostname, self._target.port)
        back = asyncio.get_running_loop().create_task(_copy(there, writer))
        try:
            await _copy(reader, away, self.said)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            writer.transport.abort()
            away.transport.abort()
            async with self._changed:
                self.open -= 1
                self._changed.notify_all()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, said: bytearray | None = None) -> None:
    try:
        while chunk := await source.read(65_536):
            if said is not None and len(said) < _KEPT_BYTES:
                said += chunk
            target.write(chunk)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.transport.abort() if source.exception() else target.close()
