"""Finds the worker, or starts one through its keeper. Standard library only: the bridge uses it.

Fifty fronts that start at once start one keeper: whoever has `start.lock` acts, the others look at the socket. The
keeper's own election decides in the end, so that no mistake here can make two workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from claude_jobs import __version__
from claude_jobs.errors import InvalidRequest, StoreUnavailable, WorkerUnavailable
from claude_jobs.rpc import offer
from claude_jobs.rpc.link import ask, connect
from claude_jobs.rpc.offer import JOB_SECRET, MARK, Welcome
from claude_jobs.runner import paths
from claude_jobs.runner.paths import Home

START_TIMEOUT_S = 20.0
_KEEPER = Path(paths.__file__).with_name("keeper.py")
_ELECTED_ELSEWHERE = "exit 3"
_MODES = ("detached", "inline", "none")
_POLL_S = (0.01, 0.1)
_AGAIN_S = 0.25
_TAIL_BYTES = 1_000
_ROOM_BYTES = 64 << 10
"""A disk with less room than this is full: a worker's first log lines and its database's -shm file need as much."""
_PASSED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "MCP_PORT", "REDIS_URL"}
)
_PASSED_SETTINGS = frozenset(
    {
        "CLAUDE_MODEL",
        "CLAUDE_QUEUE_SIZE",
        "CLAUDE_TIMEOUT_SECONDS",
        "CLI_QUOTA_USD",
        "COST_QUOTA_USD",
        "LOG_LEVEL",
        "OLLAMA_ENDPOINT",
        "QUOTA_RESET_INTERVAL",
        "REQUESTS_PER_MINUTE",
        "REQUEST_TIMEOUT",
        "TOKENS_PER_MINUTE",
        "TOKEN_QUOTA",
        "USE_LOCAL_LLM",
        "OPENAI_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "GOOGLE_BASE_URL",
        "XAI_BASE_URL",
        "DASHSCOPE_BASE_URL",
    }
)
_PASSED_PREFIXES = ("LC_", "XDG_", "CLAUDE_JOBS_", "CLAUDE_RETRY_", "CLAUDE_MAX_", "CACHE_", "CIRCUIT_", "MAX_")
_NEVER_PASSED = frozenset({MARK, JOB_SECRET, "CLAUDE_JOBS_JOB_ID"})


def ensure_worker(
    home: Home,
    environ: Mapping[str, str],
    hello: bytes,
    *,
    worker: Sequence[str] | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> tuple[socket.socket, Welcome]:
    """A socket on which a worker of our version or a newer one has accepted `hello`. An older one is asked to step aside.

    One is started if CLAUDE_JOBS_WORKER does not say otherwise. From inside a job none ever is.

    Args:
        worker: Command line of the worker, for a test; default: this installation's.

    Raises:
        InvalidRequest: CLAUDE_JOBS_WORKER is none of its values.
        WorkerUnavailable: There is none, and none could be started.
        StoreUnavailable: The state directory is not usable.
        ClaudeJobsError: The worker refused us.
    """
    may_start = _mode(environ) == "detached" and not offer.is_inside_job(environ)
    search = _Search(home, environ, hello, may_start=may_start)
    if (found := search.look()) is not None:
        return found
    if is_inside_job(environ):
        raise WorkerUnavailable(_NOT_INSIDE)
    if not may_start:
        raise WorkerUnavailable(_NOT_HERE)
    home.prepare()
    give_up_at = time.monotonic() + timeout_s
    pause_s, longest_s = _POLL_S
    with _Starter(home, scrubbed(home, environ), worker or worker_argv(home)) as starter:
        while time.monotonic() < give_up_at:
            starter.act()
            time.sleep(pause_s)
            pause_s = min(longest_s, pause_s * 1.3)
            if (found := search.look()) is not None:
                return found
        raise starter.failure(f"No worker answered within {timeout_s:.0f} s.")


def _mode(environ: Mapping[str, str]) -> str:
    mode = environ.get("CLAUDE_JOBS_WORKER", "") or "detached"
    if mode not in _MODES:
        message = f"CLAUDE_JOBS_WORKER={mode!r}: use one of {', '.join(_MODES)}."
        raise InvalidRequest(message, field="CLAUDE_JOBS_WORKER")
    return mode


def is_inside_job(environ: Mapping[str, str]) -> bool:
    """Whether this process runs in a job, of whatever home: by `environ`, or by an ancestor if that was scrubbed."""
    if offer.is_inside_job(environ):
        return True
    from claude_jobs.runner import ancestry  # asked only where a server would be started, which takes far longer

    line = ancestry.trace(os.getpid())
    return line is not None and line.is_of_a_job


def worker_argv(home: Home) -> list[str]:
    """How this installation's worker is started. `-P` keeps the working directory out of its import path."""
    return [sys.executable, "-P", "-m", "claude_jobs.entry", "_worker", "--home", str(home.configured)]


def keeper_argv(home: Home, worker: Sequence[str]) -> list[str]:
    """How a keeper is started: isolated, without site-packages."""
    return [sys.executable, "-I", "-S", str(_KEEPER), "--home", str(home.root), "--worker", json.dumps(list(worker))]


def scrubbed(home: Home, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of keeper and worker: settings and the bare necessities, no credential."""
    passed = {
        name: value
        for name, value in environ.items()
        if (name in _PASSED | _PASSED_SETTINGS or name.startswith(_PASSED_PREFIXES)) and name not in _NEVER_PASSED
    }
    return {**passed, "CLAUDE_JOBS_HOME": str(home.configured)}


_NOT_INSIDE = (
    "The worker cannot be reached from inside this job, and a job never starts one. "
    "Do the work in this session, or end with what should be spawned next as the result."
)
_NOT_HERE = "No worker runs, and none may be started here. Start one with `claude-jobs worker`, or set CLAUDE_JOBS_WORKER=detached."


_FULL = (
    "The disk of {place!r} is full, so that nothing could be logged. Free some space there, "
    "or set CLAUDE_JOBS_HOME to a directory on another disk. Accepted jobs go on once there is room."
)


class _Search:
    """Looks for a worker, and asks one that is older than us to step aside: once, for the next may be no newer."""

    def __init__(self, home: Home, environ: Mapping[str, str], hello: bytes, *, may_start: bool) -> None:
        self._home = home
        self._environ = environ
        self._hello = hello
        self._takes_older = not may_start

    def look(self) -> tuple[socket.socket, Welcome] | None:
        found = connect(self._home, self._hello)
        if found is None or self._takes_older or not is_older(found[1].version, __version__):
            return found
        self._takes_older = True
        if not self._steps_aside():
            return found
        found[0].close()
        return None

    def _steps_aside(self) -> bool:
        asked = connect(self._home, offer.build(self._environ, "rpc"))
        if asked is None:
            return True
        with asked[0] as sock:
            return "result" in ask(sock, "step_aside", {})


def is_older(version: str, than: str) -> bool:
    """Whether a version precedes another, by its leading numbers."""
    return _numbers(version) < _numbers(than)


def _numbers(version: str) -> list[int]:
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return numbers


class _Starter:
    """Starts a keeper when it is our turn to, and hears how it fares."""

    def __init__(self, home: Home, environ: Mapping[str, str], worker: Sequence[str]) -> None:
        self._home = home
        self._environ = environ
        self._worker = worker
        self._lock = -1
        self._status = -1
        self._launch_at = 0.0
        self._log_sizes = {log: _size(log) for log in (home.logs_dir / "worker.log", home.logs_dir / "keeper.log")}

    def __enter__(self) -> _Starter:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._status, self._lock):
            if fd >= 0:
                os.close(fd)

    def act(self) -> None:
        """One step: get the turn, launch, or hear of the keeper's end.

        Raises:
            WorkerUnavailable: Our keeper ended, and not because another one is elected.
        """
        if not self._has_turn():
            return
        if self._status >= 0:
            self._hear()
        elif time.monotonic() >= self._launch_at:
            self._launch_at = time.monotonic() + _AGAIN_S
            if not _is_locked(self._home.elect_lock):
                self._launch()

    def failure(self, what: str) -> WorkerUnavailable:
        """The error that says what happened and what the logs have about it."""
        tails = [_tail(log, size) for log, size in self._log_sizes.items()]
        said = next((tail for tail in tails if tail), "")
        if not said and _is_full(self._home.logs_dir):
            return WorkerUnavailable(f"{what} {_FULL.format(place=str(self._home.root))}")
        return WorkerUnavailable(
            f"{what} Its log ({self._home.logs_dir}) says: {said or 'nothing'}\nRun `claude-jobs doctor`."
        )

    def _has_turn(self) -> bool:
        if self._lock < 0:
            self._lock = _lock(self._home.start_lock)
        return self._lock >= 0

    def _launch(self) -> None:
        self._status, theirs = os.pipe()
        os.set_blocking(self._status, False)
        os.set_inheritable(theirs, True)
        argv = [*keeper_argv(self._home, self._worker), "--detach", "--status-fd", str(theirs)]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self._home.logs_dir / "keeper.log"), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = os.posix_spawn(argv[0], argv, self._environ, file_actions=actions)
        except OSError as error:
            raise self.failure(f"Cannot start {argv[0]!r}: {error.strerror}.") from error
        finally:
            os.close(theirs)
        with contextlib.suppress(ChildProcessError):  # a program that ignores SIGCHLD has no children to wait for
            os.waitpid(pid, 0)

    def _hear(self) -> None:
        if not select.select([self._status], [], [], 0)[0]:
            return
        said = os.read(self._status, 4096).decode()
        if said and "exit" not in said:
            return
        os.close(self._status)
        self._status = -1
        if _ELECTED_ELSEWHERE not in said:
            raise self.failure("The worker could not be started.")


def _lock(path: Path) -> int:
    """A descriptor that holds the lock, -1 when someone else does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"Cannot use {str(path)!r}: {error.strerror}. Free some space there, or set CLAUDE_JOBS_HOME to another directory."
        raise StoreUnavailable(message, path=str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def _is_locked(path: Path) -> bool:
    fd = _lock(path)
    if fd >= 0:
        os.close(fd)
    return fd < 0


def _is_full(directory: Path) -> bool:
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    # Some file systems count no files: zero of zero is no lack.
    return found.f_bavail * found.f_frsize < _ROOM_BYTES or (found.f_files > 0 and found.f_favail == 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path: Path, since: int) -> str:
    """The last line that was written to a log since it had that size: the rest is for who reads the log itself."""
    size = _size(path)
    if size <= since:
        return ""
    with path.open("rb") as log:
        log.seek(max(since, size - _TAIL_BYTES))
        said = log.read().decode("utf-8", "replace").strip()
    return said.splitlines()[-1] if said else ""
