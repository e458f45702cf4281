"""Pieces of an answer while it is made, for any number of readers: each reads from the beginning, at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from claude_jobs.domain.generation import Delta


class Flow:
    """Holds all pieces until the end: no more than the answer that is made of them. Use it on one event loop only."""

    def __init__(self) -> None:
        self._pieces: list[Delta] = []
        self._more = asyncio.Event()
        self._is_over = False

    def add(self, piece: Delta) -> None:
        """One more has come."""
        self._pieces.append(piece)
        self._more.set()

    def end(self) -> None:
        """No more will come."""
        self._is_over = True
        self._more.set()

    async def read(self, by: float) -> AsyncGenerator[Delta]:
        """All of them, as they come.

        Raises:
            TimeoutError: That time of the event loop came first.
        """
        at = 0
        while True:
            while at < len(self._pieces):
                yield self._pieces[at]
                at += 1
            if self._is_over:
                return
            self._more.clear()
            async with asyncio.timeout_at(None if by == float("inf") else by):
                await self._more.wait()
