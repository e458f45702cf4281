"""One child process on the event loop: pipes without threads or unbounded buffers, and its exit by pidfd.

What it started besides, and how all of it is ended, is in family.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import platform
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from claude_jobs.domain.job import ProcessRef
from claude_jobs.errors import SpawnFailed
from claude_jobs.runner import proctree
from claude_jobs.runner.command import Command

STDERR_TAIL_BYTES = 8 * 1024
_CHUNK = 64 * 1024
_MOMENT_S = 0.01
_DRAIN_CHUNKS = 512
"""Bytes that may still be in a pipe after the exit, in chunks; a grandchild that goes on writing cannot hold us up."""


def death_wish(path: str) -> tuple[str, ...]:
    """A command prefix that makes the child die with us (Linux), or nothing.

    Not a `preexec_fn`: that makes every start a fork of this whole process, measured 7 ms of a stopped event
    loop at 200 MB against 0.2 ms, and runs Python between fork and exec beside other threads.
    """
    if platform.system() != "Linux":
        return ()
    setpriv = shutil.which("setpriv", path=path)
    if setpriv is None or Path(setpriv).resolve().name == "busybox":
        return ()
    return (setpriv, "--pdeathsig", "KILL", "--")


class Child:
    """A started process. Its pid names nothing else until `exited` is done.

    Attributes:
        exited: The exit code, negative for a signal.
        stdout_closed: Whether its standard output has ended.
    """

    def __init__(
        self,
        command: Command,
        *,
        prefix: Sequence[str] = (),
        on_output: Callable[[bytes], None],
        on_zombie: Callable[[], None],
    ) -> None:
        """Start it now, in a session and process group of its own.

        Args:
            on_output: Gets each chunk of its standard output; b"" at the end.
            on_zombie: Called when it has ended and its pid is still taken.

        Raises:
            SpawnFailed: The operating system refused.
        """
        self._loop = asyncio.get_running_loop()
        self._popen = _start([*prefix, *command.argv], command)
        self._on_output = on_output
        self._on_zombie = on_zombie
        self._stderr = bytearray()
        self._unsent = memoryview(b"")
        self._closing_stdin = False
        self.stdout_closed = False
        self.exited: asyncio.Future[int] = self._loop.create_future()
        proc = proctree.look(self._popen.pid)
        assert proc is not None, "a child that nobody has waited for has a pid"
        self.proc = proc
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr
        self._stdin = self._popen.stdin
        self._pipes = (self._popen.stdout, self._popen.stderr)
        for pipe in (self._stdin, *self._pipes):
            os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(self._popen.stdout, self._read_stdout)
        self._loop.add_reader(self._popen.stderr, self._read_stderr)
        self._exit_fd = self._watch_exit()

    @property
    def ref(self) -> ProcessRef:
        """Names it for the record."""
        return ProcessRef(
            pid=self.proc.pid,
            pgid=self.proc.pid,
            started_ticks=self.proc.started_ticks,
            boot_id=proctree.boot_id(),
        )

    @property
    def stderr_tail(self) -> str:
        """The last bytes it wrote to standard error."""
        return bytes(self._stderr).decode("utf-8", "replace")

    def forget_stderr(self) -> None:
        """Let `stderr_tail` begin anew."""
        self._stderr.clear()

    def write(self, data: bytes) -> None:
        """Queue bytes for its standard input; what it does not read is dropped when it ends."""
        if self._stdin.closed or self._closing_stdin:
            return
        self._unsent = memoryview(bytes(self._unsent) + data)
        self._send()

    def close_stdin(self) -> None:
        """End its standard input once everything queued is written."""
        self._closing_stdin = True
        self._send()

    def _send(self) -> None:
        if self._stdin.closed:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent[:_CHUNK]) :]
        except BlockingIOError:
            self._loop.add_writer(self._stdin, self._send)
            return
        except OSError:
            self._drop_stdin()
            return
        self._loop.remove_writer(self._stdin)
        if self._closing_stdin:
            self._drop_stdin()

    def _drop_stdin(self) -> None:
        self._unsent = memoryview(b"")
        if not self._stdin.closed:
            self._loop.remove_writer(self._stdin)
            self._stdin.close()

    def _read_stdout(self) -> bool:
        data = _read(self._pipes[0].fileno())
        if data == b"":
            self._loop.remove_reader(self._pipes[0])
            self.stdout_closed = True
        if data is not None:
            self._on_output(data)
        return bool(data)

    def _read_stderr(self) -> bool:
        data = _read(self._pipes[1].fileno())
        if data == b"":
            self._loop.remove_reader(self._pipes[1])
        if data:
            self._stderr += data
            del self._stderr[:-STDERR_TAIL_BYTES]
        return bool(data)

    def _watch_exit(self) -> int | None:
        try:
            handle = os.pidfd_open(self._popen.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._await_exit, daemon=True, name=f"exit of {self._popen.pid}").start()
            return None
        self._loop.add_reader(handle, self._reap)
        return handle

    def _await_exit(self) -> None:
        _await_zombie(self._popen.pid)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        if self.exited.done():
            return
        self._drain()
        self._on_zombie()
        code = self._popen.poll()
        if code is None:
            return
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
            os.close(self._exit_fd)
        self._close_pipes()
        self.exited.set_result(code)

    def _drain(self) -> None:
        """Read what it left in the pipes, without waiting for whoever else holds them open."""
        for _ in range(_DRAIN_CHUNKS):
            if self.stdout_closed or not self._read_stdout():
                break
        for _ in range(_DRAIN_CHUNKS):
            if not self._read_stderr():
                break

    def _close_pipes(self) -> None:
        self._drop_stdin()
        for pipe in self._pipes:
            self._loop.remove_reader(pipe)
            pipe.close()
        if not self.stdout_closed:
            self.stdout_closed = True
            self._on_output(b"")


def _await_zombie(pid: int) -> None:
    """Block until our child has ended, and leave it unreaped: its pid and group must stay taken until they were looked at."""
    if sys.platform != "darwin":
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    # os.waitid is not there before Python 3.13.
    ended = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT)
    with contextlib.closing(select.kqueue()) as queue, contextlib.suppress(ProcessLookupError):  # it is one already
        queue.control([ended], 1)
    # The kernel tells of an exit a moment before the process can be collected.
    while (proc := proctree.look(pid)) is not None and not proc.is_dead:
        time.sleep(_MOMENT_S)


_FINAL = frozenset({errno.E2BIG, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM})
"""What refuses a start for good. The rest passes: an executable that is being replaced, memory or process ids used up."""
JOB_UMASK = 0o022
"""What a job writes is the user's work, readable as usual; the keeper's own umask is for secrets."""


def _start(argv: Sequence[str], command: Command) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.cwd,
            env=command.env,
            start_new_session=True,
            umask=JOB_UMASK,
        )
    except (OSError, ValueError) as error:
        message = f"Could not start {command.argv[0]!r} in {command.cwd!r}: {error}. See `claude-jobs doctor`."
        may_pass = isinstance(error, OSError) and error.errno not in _FINAL
        raise SpawnFailed(message, path=command.argv[0], retryable=may_pass) from error


def _read(fd: int) -> bytes | None:
    """A chunk; b"" at the end; None if there is nothing yet."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
