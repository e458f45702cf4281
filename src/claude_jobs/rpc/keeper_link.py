"""The worker's end of its line to the keeper: credentials come back after a crash, and the keeper learns our intentions."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

from claude_jobs.domain.token import Credential
from claude_jobs.rpc.packing import packed, unpacked

_FIRST_LINE_S = 10.0
_LINE_BYTES = 8 << 20


class KeeperLink:
    """Newline-JSON over the inherited socketpair; see runner/keeper.py for the words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: dict[str, Any]) -> None:
        self._reader = reader
        self._writer = writer
        self.held = unpacked(first.get("credentials", []))
        self.generation = int(first.get("generation", 1))

    @classmethod
    async def open(cls, fd: int) -> KeeperLink:
        """Take over the inherited descriptor and read what the keeper held for us."""
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd), limit=_LINE_BYTES)
        async with asyncio.timeout(_FIRST_LINE_S):
            return cls(reader, writer, json.loads(await reader.readline()))

    def up(self) -> None:
        """We serve: a later end of ours is an accident, and worth more restarts."""
        self._send({"op": "up"})

    def hold(self, credentials: Sequence[Credential]) -> None:
        """Have these kept in memory, in place of those before."""
        self._send({"op": "hold", "credentials": packed(credentials)})

    def release(self) -> None:
        """Give up the election: a successor may start now."""
        self._send({"op": "release"})

    async def done(self) -> None:
        """We exit on purpose; do not restart us."""
        self._send({"op": "done"})
        try:
            await self._writer.drain()
        except ConnectionError:
            return
        finally:
            self._writer.close()

    async def gone(self) -> None:
        """Returns when the keeper has died."""
        while await self._reader.read(4096):
            pass

    def _send(self, message: dict[str, object]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")
