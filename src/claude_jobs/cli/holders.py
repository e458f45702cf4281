"""Who holds a lock file, and whether that process is suspended: for commands that must work while nothing answers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_holder(path: Path) -> int | None:
    """The pid of the process that holds a lock file, 0 if the system does not tell which; None if nobody does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else _told_by_kernel(path, os.fstat(fd).st_ino)
    finally:
        os.close(fd)
    return None


def _told_by_kernel(path: Path, inode: int) -> int:
    """Lines like "1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF"; the device may not be the one that stat tells."""
    try:
        rows = [row.split() for row in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return 0
    pids = [int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}")]
    return next((pid for pid in pids if pid > 0 and _has_open(pid, path)), 0)


def _has_open(pid: int, path: Path) -> bool:
    place = os.path.realpath(path)
    try:
        return any(os.path.realpath(file) == place for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def is_suspended(pid: int) -> bool:
    """Whether a signal has stopped the process; False where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] in (b"T", b"t")
