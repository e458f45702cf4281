"""What a dead owner left behind: found by its records and its marker, killed exactly. Nothing else is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from claude_jobs.domain.job import ProcessRef
from claude_jobs.runner import mcp_config, proctree


def sweep(mark_prefix: str, recorded: Sequence[ProcessRef] = (), private: Path | None = None) -> list[int]:
    """Kill the recorded processes that still are themselves, everything below them, and all that carry the marker.

    Args:
        mark_prefix: "<home id>:<owner>:" of the dead owner; a bare home id would also name the living.
        private: The directory of files that its attempts were given (mcp_config), to be removed.

    Returns:
        The pids that were killed.
    """
    left = {proc.pid: proc for proc in proctree.marked(mark_prefix)}
    for ref in recorded:
        proc = found(ref)
        if proc is not None:
            left[proc.pid] = proc
    gone = [ref.pid for ref in recorded if ref.boot_id == proctree.boot_id() and ref.pid not in left]
    places = {pid: proctree.variable_of(pid, "TMPDIR") for pid in (*left, *gone)}
    signalled, _ = proctree.kill_tree(left.values())
    _remove_sockets(places)
    if private is not None:
        mcp_config.sweep(private)
    return signalled


def _remove_sockets(places: Mapping[int, str]) -> None:
    """A killed CLI leaves its messaging socket, named after its pid, where it has its temporary files."""
    for pid, place in places.items():
        now = proctree.look(pid)
        if now is None or now.is_dead:
            with contextlib.suppress(OSError):
                Path(place or "/tmp", "cc-socks", f"{pid}.sock").unlink()  # noqa: S108 - the CLI's own choice


def found(ref: ProcessRef) -> proctree.Proc | None:
    """The recorded process if it still is the same one: same boot, same start time."""
    if ref.boot_id != proctree.boot_id() or not ref.started_ticks:
        return None
    proc = proctree.look(ref.pid)
    return proc if proc is not None and proc.started_ticks == ref.started_ticks else None
