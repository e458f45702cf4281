"""The lock file that serialises writers, checkpoints and migrations over all processes. Waits are bounded."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from claude_jobs.errors import StoreUnavailable

SHORTEST_PAUSE_S = 0.0002
LONGEST_PAUSE_S = 0.005
NEXT_PAUSE_S = 0.001
"""Longest pause of the one whose turn is next: it is alone in asking for the lock."""
TURN_WAIT_S = 0.1
"""Who is next may have been stopped; then the others ask without having the turn."""


class FileLock:
    """`flock` on one file; the kernel frees it when its process dies.

    A second file holds the place of whoever is next. Without it the one who has just freed the lock takes it again
    before a sleeping waiter looks, and on a machine with too much to do a waiter may starve for its whole patience.
    """

    def __init__(self, path: Path, *, wait_s: float) -> None:
        self._path = path
        self._wait_s = wait_s
        self._files: tuple[int, int] | None = None

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold the lock.

        Raises:
            StoreUnavailable: It was not had within the wait.
        """
        lock, turn = self._files = self._files or (_open(self._path), _open(self._path.with_suffix(".turn")))
        self._take(lock, turn)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _take(self, lock: int, turn: int) -> None:
        give_up_at = time.monotonic() + self._wait_s
        _poll(turn, min(give_up_at, time.monotonic() + TURN_WAIT_S), LONGEST_PAUSE_S)
        try:
            if not _poll(lock, give_up_at, NEXT_PAUSE_S):
                raise self._not_had()
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)

    def _not_had(self) -> StoreUnavailable:
        message = (
            f"Another process has held {str(self._path)!r} for {self._wait_s:g} s. "
            "Try again; if it stays so, `claude-jobs doctor` names the process."
        )
        return StoreUnavailable(message, path=str(self._path))

    def close(self) -> None:
        """Close the files. Idempotent."""
        files, self._files = self._files, None
        for file in files or ():
            os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _poll(file: int, give_up_at: float, longest_pause_s: float) -> bool:
    """Whether the file's lock was had in time."""
    pause_s = SHORTEST_PAUSE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                return False
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, longest_pause_s)
