"""Waiting for processes and files in tests, without tuned sleeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 90.0
"""What a test waits for comes in a moment; on a machine with far too much to do it may come late."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.1
"""To ask takes time from what is waited for, above all where it means to read /proc."""


def wait_until(found: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """The first true value of `found`."""
    give_up_at, pause_s = time.monotonic() + timeout_s, SHORTEST_PAUSE_S
    while time.monotonic() < give_up_at:
        value = found()
        if value:
            return value
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 1.2 * pause_s)
    raise AssertionError(f"nothing within {timeout_s} s")


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(pid: int) -> bool:
    """For wait_until: whether it has ended."""
    return not is_running(pid)


def end(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
