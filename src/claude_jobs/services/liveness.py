"""Who is alive on this machine, asked of the kernel: each worker holds a file lock that dies with it and no sooner.

No clock is involved, so sleep, SIGSTOP and a busy loop never make a living worker look dead.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path


class Liveness:
    """Holds this worker's own lock and looks at those of others.

    Args:
        directory: Where the lock files are, one a worker, named by its id.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self._owner = owner
        self._fd = -1

    def acquire(self) -> None:
        """Take this worker's lock for the life of the process, and clear away the files of dead ones."""
        path = self._path(self._owner)
        while self._fd < 0:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)  # whoever looks whether we are dead has it for an instant
            if _is_at(path, fd):
                self._fd = fd
            else:
                os.close(fd)
        for left in self._directory.glob("*.lock"):
            if left != path:
                _clear(left)

    def release(self) -> None:
        """Give the lock up and take the file away. Idempotent."""
        if self._fd >= 0:
            self._path(self._owner).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def dead(self, owners: Iterable[str]) -> frozenset[str]:
        """Those of `owners` whose lock can be had. An owner id is never used twice, so dead is for ever."""
        return frozenset(owner for owner in owners if owner != self._owner and self._is_dead(owner))

    def forget(self, owners: Iterable[str]) -> None:
        """Take away the lock files of dead owners."""
        for owner in owners:
            self._path(owner).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._directory / f"{owner}.lock"

    def _is_dead(self, owner: str) -> bool:
        fd = _taken(self._path(owner))
        if fd >= 0:
            os.close(fd)
        return fd != _HELD


_GONE, _HELD = -1, -2


def _taken(path: Path) -> int:
    """A descriptor that holds the lock; _GONE if there is no such file, _HELD if somebody else holds it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _GONE
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return _HELD
    return fd


def _clear(path: Path) -> None:
    """Take the file away if nobody holds it; while we do, nobody can take a lock on a file that is no longer there."""
    fd = _taken(path)
    if fd >= 0:
        path.unlink(missing_ok=True)
        os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
