"""The server over this process's own stdin and stdout, for when no worker is wanted (inline). Same wire rules as a bridge's.

While it serves, fd 0 is the null device and fd 1 is stderr: neither a child nor a stray print can touch the protocol.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager

from fastmcp import FastMCP

from claude_jobs.mcp_server.resident import Resident
from claude_jobs.services.caller import Caller


async def serve_stdio(server: FastMCP, caller: Caller) -> None:
    """Serve the one client on stdin and stdout until it hangs up."""
    with _own_stdio() as (reading, writing):
        async with Resident(server) as resident:
            await resident.serve(_FdReader(reading), _FdWriter(writing), caller)


@contextmanager
def _own_stdio() -> Generator[tuple[int, int]]:
    """The wire on descriptors that nobody inherits."""
    reading, writing, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    try:
        yield reading, writing
    finally:
        os.dup2(reading, 0)
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)


class _FdReader:
    """Reads in a thread: stdin may be a pipe, a socket, a terminal or a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def read(self, n: int = -1, /) -> bytes:
        return await asyncio.to_thread(os.read, self._fd, n)


class _FdWriter:
    """Writes in a thread, one message after another."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending = bytearray()
        self._turn = asyncio.Lock()

    def write(self, data: bytes, /) -> None:
        self._pending += data

    async def drain(self) -> None:
        async with self._turn:
            data, self._pending = bytes(self._pending), bytearray()
            await asyncio.to_thread(_write_all, self._fd, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
