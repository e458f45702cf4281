"""Server-sent events as the providers use them: every event's whole meaning is in its data. Pure."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024


class Events:
    """Bytes in, the data of whole events out. Lines end in LF or CRLF; names, ids and comments are left out."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []

    def push(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes.

        Raises:
            ValueError: An event is larger than any answer can be.
        """
        self._pending.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_EVENT_BYTES:
            raise ValueError("event too large")
        if b"\n" not in chunk:
            return []
        *lines, rest = b"".join(self._pending).split(b"\n")
        self._pending = [rest]
        self._size = len(rest) + sum(map(len, self._data))
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif self._data and line in (b"", b"\r"):
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events
