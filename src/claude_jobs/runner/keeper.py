"""The worker's parent: restarts it at once, kills what it left behind, and keeps the credentials in memory meanwhile.

Run by file path (`python -I -S keeper.py --home H --worker '<json argv>'`), standard library only, so that it stays near
10 MB and nothing that breaks the worker can break it.

Talk over the socketpair, one JSON object a line:
    keeper -> worker  {"op": "held", "credentials": [...], "generation": n, "orphans_killed": k}   first line of a start
    worker -> keeper  {"op": "up"}                             I serve: from now on a quick death is an accident
                      {"op": "hold", "credentials": [...]}     replaces what is held
                      {"op": "release"}                        give up the election now; do not restart me
                      {"op": "done"}                           I am about to exit on purpose; exit with me

Exit status: the worker's when it ended on purpose; ELECTED when another keeper holds the election; GAVE_UP after too
many quick deaths. A worker that exits with EX_CONFIG says that a restart would not help.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import cast

ELECTED = 3
GAVE_UP = 4
QUICK_S = 5.0
BACKOFF_S = (0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Delay before the restart after the n-th quick death in a row; one more and the keeper gives up."""
UNSERVED_DEATHS = 2
"""Restarts of a worker that has never served: somebody waits to be told why it cannot."""
KILL_S = 5.0
TICK_S = 60.0
LINE_BYTES = 4 << 20
LOG_BYTES = 8 << 20
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    """Parse, detach, get elected, keep."""
    options = _options(argv)
    if "detach" in options:
        _detach()
    os.umask(0o077)
    os.chdir("/")
    status = _Status(int(options.get("status-fd", "-1")))
    election = _Election(os.path.join(options["home"], "elect.lock"))  # noqa: PTH118  # pathlib would double our size
    if not election.won():
        return status.exits(ELECTED)
    status.says("elected")
    _guard()
    log = "" if "foreground" in options else os.path.join(options["home"], "logs", "worker.log")  # noqa: PTH118
    worker = cast("list[str]", json.loads(options["worker"]))
    return status.exits(_Keeper(worker, election, log).run())


def _options(argv: list[str]) -> dict[str, str]:
    words = iter(argv)
    return {word[2:]: "" if word in ("--foreground", "--detach") else next(words) for word in words}


def _detach() -> None:
    """Become a process that is nobody's child, so that whoever kills the starter's tree does not meet us."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def _guard() -> None:
    """We hold secrets: no core file, no ptrace. And the processes that a dead worker leaves become our children."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _log(event: str, **fields: object) -> None:
    line = {"event": event, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "keeper": os.getpid()}
    with suppress(OSError):  # a full disk or a closed pipe costs a line, not the worker
        os.write(2, json.dumps({**line, **fields}).encode() + b"\n")


class _Status:
    """Tells the starter, if it still listens, that we were elected, and how we ended."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        if fd >= 0:
            os.set_inheritable(fd, False)

    def says(self, word: str) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # the starter may have gone
                os.write(self._fd, f"{word}\n".encode())

    def exits(self, code: int) -> int:
        self.says(f"exit {code}")
        return code


class _Election:
    """The lock that makes one keeper the one. It is dropped with the process, or before by `release`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def won(self) -> bool:
        """Try for a tenth of a second: a front that only looks whether the lock is held has it for an instant."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(10):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            with suppress(OSError):  # our pid is there for people; a full disk must not stop us
                os.ftruncate(self._fd, 0)
                os.write(self._fd, f"{os.getpid()}\n".encode())
            return True
        return False

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Link:
    """Our end of the socketpair of one worker process: lines in, lines out, never blocking."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._in = bytearray()
        self._out = bytearray()

    def fileno(self) -> int:
        return self._ours.fileno()

    @property
    def wants(self) -> int:
        return 0 if self.fileno() < 0 else select.POLLIN | (select.POLLOUT if self._out else 0)

    def send(self, message: dict[str, object]) -> None:
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._ours.send(self._out)]
        except BlockingIOError:
            return
        except OSError:  # the worker is gone or going; its end is noticed by SIGCHLD
            self._out.clear()

    def lines(self) -> list[bytes]:
        """Whole lines that have arrived. A line beyond the limit, like the end of the stream, closes our end."""
        try:
            chunk = self._ours.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            chunk = b""
        self._in += chunk
        if not chunk or len(self._in) > LINE_BYTES:
            self.close()
            return []
        *whole, rest = self._in.split(b"\n")
        self._in = bytearray(rest)
        return [bytes(line) for line in whole if line.strip()]

    def close(self) -> None:
        self._ours.close()


class _Keeper:
    """Keeps one worker running. All state changes happen in `run`, one signal or line at a time."""

    def __init__(self, argv: list[str], election: _Election, log_path: str) -> None:
        self._argv = argv
        self._election = election
        self._log_path = log_path
        self._credentials: list[object] = []
        self._link = _Link()
        self._pid = 0
        self._started_at = 0.0
        self._restart_at: float | None = 0.0
        self._generation = 0
        self._quick_deaths = 0
        self._patience = UNSERVED_DEATHS
        self._orphans_killed = 0
        self._is_leaving = False
        self._stops = 0
        self._exit: int | None = None
        self._wake, wake_w = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _noted)

    def run(self) -> int:
        """Until the worker ends on purpose, we are told to stop, or it cannot be kept alive."""
        while self._exit is None:
            if self._restart_at is not None and time.monotonic() >= self._restart_at:
                self._start()
            self._wait(self._pause())
            self._reap()
            self._shrink_log()
        return self._exit

    def _pause(self) -> float:
        if self._exit is not None:
            return 0.0
        return TICK_S if self._restart_at is None else max(0.0, self._restart_at - time.monotonic())

    def _start(self) -> None:
        self._restart_at = None
        self._generation += 1
        self._started_at = time.monotonic()
        self._link = _Link()
        try:
            self._pid = self._spawn(self._link.theirs)
        except OSError as error:
            _log("worker.cannot_start", path=self._argv[0], reason=error.strerror)
            self._link.close()
            self._ended(127)
            return
        finally:
            self._link.theirs.close()
        _log("worker.started", pid=self._pid, generation=self._generation)
        held: dict[str, object] = {"op": "held", "credentials": self._credentials}
        self._link.send({**held, "generation": self._generation, "orphans_killed": self._orphans_killed})

    def _spawn(self, theirs: socket.socket) -> int:
        theirs.set_inheritable(True)
        argv = [*self._argv, "--keeper-fd", str(theirs.fileno())]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = [(os.POSIX_SPAWN_OPEN, 2, self._log_path, flags, 0o600)] if self._log_path else []
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *log, (os.POSIX_SPAWN_DUP2, 2, 1)]
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setpgroup=0, setsigmask=[])

    def _wait(self, timeout_s: float) -> None:
        """Sleep until a signal, a line, or the time; act on signals and lines."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._link.wants:
            poll.register(self._link.fileno(), self._link.wants)
        ready = {fd for fd, _ in poll.poll(timeout_s * 1000)}
        if self._wake in ready:
            for number in os.read(self._wake, 4096):
                self._signalled(number)
        if self._link.fileno() in ready:
            self._link.flush()
            for line in self._link.lines():
                self._told(line)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        self._stops += 1
        _log("keeper.stopping", signal=number, times=self._stops, worker=self._pid)
        if not self._pid:
            self._exit = 0
            return
        os.kill(self._pid, signal.SIGTERM if self._stops == 1 else signal.SIGKILL)

    def _told(self, line: bytes) -> None:
        try:
            message = cast("dict[str, object]", json.loads(line))
            op = message["op"]
        except (ValueError, KeyError, TypeError):
            _log("worker.unreadable_line", size=len(line))
            return
        if op == "hold":
            self._credentials = cast("list[object]", message.get("credentials", []))
        elif op == "up":
            self._patience = len(BACKOFF_S)
        elif op == "release":
            self._is_leaving = True
            self._election.release()
            _log("election.released", worker=self._pid)
        elif op == "done":
            self._is_leaving = True

    def _reap(self) -> None:
        for pid, status in _reaped():
            if pid == self._pid:
                self._drain()
                self._pid = 0
                self._ended(os.waitstatus_to_exitcode(status))

    def _drain(self) -> None:
        """Read what the dead worker still told: its last word may be `done`."""
        while lines := self._link.lines():
            for line in lines:
                self._told(line)
        self._link.close()

    def _ended(self, code: int) -> None:
        alive_s = time.monotonic() - self._started_at
        self._orphans_killed = _kill_children()
        is_quick = alive_s < QUICK_S or self._patience < len(BACKOFF_S)  # one that never served died of its start
        self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
        facts = {"code": code, "alive_s": round(alive_s, 3), "orphans_killed": self._orphans_killed}
        if self._is_leaving or self._stops or code == os.EX_CONFIG:
            _log("worker.ended", **facts)
            self._exit = code if code >= 0 else 128 - code
        elif self._quick_deaths > self._patience:
            advice = "Look into worker.log beside this file, then run `claude-jobs doctor`."
            _log("keeper.gave_up", quick_deaths=self._quick_deaths, advice=advice, **facts)
            self._exit = GAVE_UP
        else:
            delay_s = BACKOFF_S[self._quick_deaths - 1] if self._quick_deaths else 0.0
            _log("worker.died", restart_in_s=delay_s, **facts)
            self._restart_at = time.monotonic() + delay_s

    def _shrink_log(self) -> None:
        """Keep worker.log bounded. It is open for appending, so copying it away and emptying it loses no more than a line."""
        try:
            if not self._log_path or os.stat(self._log_path).st_size <= LOG_BYTES:  # noqa: PTH116
                return
            with open(self._log_path, "r+b") as now, open(f"{self._log_path}.1", "wb") as before:  # noqa: PTH123
                while chunk := now.read(1 << 16):
                    before.write(chunk)
                now.truncate(0)
        except OSError as error:
            _log("log.not_set_aside", reason=error.strerror)


def _reaped() -> list[tuple[int, int]]:
    """Every child that has ended, adopted ones included."""
    ended: list[tuple[int, int]] = []
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(child)
    return ended


def _kill_children() -> int:
    """Kill every process below us, level by level, and tell how many there were.

    A child's pid cannot be reused before we reap it, and each level's children become ours when it dies: so what is
    killed is exactly ours, whatever session or group it moved to.
    """
    killed: set[int] = set()
    give_up_at = time.monotonic() + KILL_S
    pause_s = 0.001
    while True:
        _reaped()
        if not (children := _children()) or time.monotonic() > give_up_at:
            break
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        pause_s = pause_s if children - killed else min(0.05, pause_s * 2)
        killed |= children
        time.sleep(pause_s)
    if children:
        _log("orphans.unkillable", pids=sorted(children))
    return len(killed)


def _children() -> set[int]:
    """Our living or unreaped children. Where there is no /proc nothing is adopted: the next worker sweeps by its records."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children") as listing:  # noqa: PTH123
            return {int(pid) for pid in listing.read().split()}
    except OSError:
        pids = os.listdir("/proc") if os.path.isdir("/proc") else []  # noqa: PTH112, PTH208
        return {int(pid) for pid in pids if pid.isdigit() and _parent(pid) == own}


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _noted(_number: int, _frame: object) -> None:
    """The wakeup descriptor carries the news."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
