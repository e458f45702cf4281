"""How a job reaches the worker that runs it: the `--mcp-config` file with our bridge, and the proof of who it serves.

The file's content is secret, its path is not: the path stands in the command line. It lives as long as its process.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from claude_jobs.errors import SpawnFailed
from claude_jobs.runner.order import Order
from claude_jobs.runner.proctree import MARK

SERVER = "claude-jobs"
RULE = f"mcp__{SERVER}"
"""The permission rule that allows all tools of our server."""
HOME = "CLAUDE_JOBS_HOME"
JOB_SECRET = "CLAUDE_JOBS_JOB_SECRET"  # noqa: S105 - a variable's name


_BRIDGE = "import sys; sys.path.append({!r}); from claude_jobs.entry import main; sys.exit(main())"


def bridge_argv() -> tuple[str, ...]:
    """How a job's bridge is started: with nothing of the job's own Python settings, and without site-packages.

    It needs the standard library and this package only. That saves a seventh of its start (measured on a busy machine:
    57 ms of processor time against 66), which each nested job waits for.
    """
    package = Path(__file__).parents[2]
    return (sys.executable, "-I", "-S", "-c", _BRIDGE.format(str(package)), "mcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the jobs of one worker are told of it.

    Attributes:
        home: Value of CLAUDE_JOBS_HOME for all their processes.
        directory: Where the files of this worker's attempts are written; nobody else's are there.
        bridge: Command line of the bridge.
    """

    home: str
    directory: Path
    bridge: tuple[str, ...] = field(default_factory=bridge_argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFile:
    """A file that a process needs and nobody else may read."""

    path: Path
    text: str = field(repr=False)


def config_of(order: Order, access: Access | None) -> PrivateFile | None:
    """The servers of an attempt, None if its job may not spawn jobs. Pure.

    Its environment comes to the bridge through the CLI, but for the marker: that of a process which was started for
    nobody in particular names no job.
    """
    if access is None or not order.lineage_secret:
        return None
    command, *arguments = access.bridge
    env = {HOME: access.home, MARK: order.home_mark, JOB_SECRET: order.lineage_secret}
    server = {"type": "stdio", "command": command, "args": arguments, "env": env}
    return PrivateFile(
        path=access.directory / f"{order.job_id}.{order.epoch}.json",
        text=json.dumps({"mcpServers": {SERVER: server}}),
    )


def write(file: PrivateFile) -> None:
    """Put it in its place, readable for this user only.

    Raises:
        SpawnFailed: The disk refuses.
    """
    try:
        file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.path.unlink(missing_ok=True)
        fd = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            out.write(file.text)
    except OSError as error:
        message = f"Cannot write {str(file.path)!r}: {error.strerror}. Free some space there; see `claude-jobs doctor`."
        raise SpawnFailed(message, path=str(file.path)) from error


def remove(file: PrivateFile) -> None:
    """Take it away, and its directory with the last one. What cannot be removed is swept with its owner's death."""
    try:
        file.path.unlink(missing_ok=True)
        file.path.parent.rmdir()
    except OSError:  # others are there still
        return


def sweep(directory: Path) -> None:
    """Take away what a dead owner left in its directory."""
    shutil.rmtree(directory, ignore_errors=True)


def sweep_all(directory: Path, dead: Callable[[list[str]], Collection[str]]) -> None:
    """Take away what dead owners left in theirs, below `directory`, also of processes that were never any job's."""
    owners = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    for owner in dead(owners):
        sweep(directory / owner)
