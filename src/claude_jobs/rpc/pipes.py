"""Bytes in and out of descriptors that others may have open too, so none is made non-blocking. Standard library only."""

from __future__ import annotations

import os
import select

READ_BYTES = 1 << 16


class LineReader:
    """Cuts a stream into lines. A line longer than `limit` is dropped whole and counted in `dropped`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._is_dropping = False
        self.dropped = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends and without empty ones."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        head, *rest = chunk.split(b"\n")
        self._keep(head)
        lines = [] if self._is_dropping else [bytes(self._buffer)]
        self._buffer.clear()
        self._is_dropping = False
        lines += rest[:-1]
        self._keep(rest[-1])
        return [line for line in lines if line.strip()]

    def clear(self) -> None:
        """Forget a line that will never be whole."""
        self._buffer.clear()
        self._is_dropping = False

    def _keep(self, part: bytes) -> None:
        if self._is_dropping:
            return
        self._buffer += part
        if len(self._buffer) > self._limit:
            self._buffer.clear()
            self._is_dropping = True
            self.dropped += 1


def write_ready(fd: int, data: bytearray) -> None:
    """Write some of `data` to a descriptor that poll calls writable, without blocking: PIPE_BUF bytes always fit."""
    del data[: os.write(fd, data[: select.PIPE_BUF])]
