"""A keeper and its worker as children of this command: for containers, service managers and people who like to watch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.errors import ClaudeJobsError, NoTokenAvailable, WorkerUnavailable
from claude_jobs.rpc.launch import is_inside_job, keeper_argv, scrubbed, worker_argv
from claude_jobs.runner.paths import Home

START_S = 30.0
_POLL_S = 0.1
_NEVER_IDLE = {"CLAUDE_JOBS_IDLE_SECONDS": str(10 * 365 * 86_400)}
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    *, extra: Sequence[str] = (), environ: dict[str, str] | None = None, on_up: Callable[[Connection], None]
) -> int:
    """Run until the worker ends or a signal comes; a second signal hurries it.

    Args:
        extra: Further arguments of the worker process.
        environ: Settings on top of the environment.
        on_up: Called once the worker answers.

    Raises:
        WorkerUnavailable: We are inside a job, or the worker does not come up.
    """
    if is_inside_job(os.environ):
        raise WorkerUnavailable("A worker is not started from inside a job. Start it from your own shell.")
    home = Home.resolve(os.environ)
    home.prepare()
    argv = [*keeper_argv(home, [*worker_argv(home), *extra]), "--foreground"]
    env = {**_NEVER_IDLE, **scrubbed(home, os.environ), **(environ or {})}
    # A group of its own: Ctrl-C on a terminal reaches us alone, and we pass it on once.
    child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, process_group=0)
    before = {number: signal.signal(number, _forward(child)) for number in _STOPS}
    try:
        if _is_up(child):
            _greet(on_up)
        return _code(child.wait())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()
            child.wait()


def _forward(child: subprocess.Popen[bytes]) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, frame: FrameType | None) -> None:
        child.terminate()

    return forward


def _is_up(child: subprocess.Popen[bytes]) -> bool:
    """Whether the worker answers; False once the keeper has ended."""
    end = time.monotonic() + START_S
    while child.poll() is None:
        if is_running():
            return True
        if time.monotonic() > end:
            child.terminate()
            child.wait()
            raise WorkerUnavailable(f"The worker did not answer within {START_S:.0f} s; its log is above.")
        time.sleep(_POLL_S)
    return False


def is_running() -> bool:
    """Whether a worker of this home answers."""
    try:
        with Connection(start=False) as worker:
            worker.call("models", again=False)
    except WorkerUnavailable:
        return False
    return True


def _greet(on_up: Callable[[Connection], None]) -> None:
    """Hand over the credentials of this environment, then say what there is to say."""
    try:
        with Connection(start=False) as worker:
            try:
                payer = worker.call("billing")["payer"]
                output.note(f"Jobs submitted from here are paid by {payer}.")
            except NoTokenAvailable as error:
                output.note(f"No credential yet: {error.message}")
            on_up(worker)
    except ClaudeJobsError as error:  # the worker goes on; what failed is said, and Ctrl-C ends it
        output.note(f"claude-jobs: {error.message}")


def _code(status: int) -> int:
    if status in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        return exits.OK
    output.note(f"claude-jobs: the worker ended with {status}. `claude-jobs doctor` looks for the cause.")
    return exits.UNAVAILABLE
