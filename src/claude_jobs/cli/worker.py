"""`worker`: run it in the foreground, end the one that runs, or have systemd run it."""

from __future__ import annotations

import os

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.errors import WorkerUnavailable


@click.command()
@click.option(
    "--stop",
    "action",
    flag_value="stop",
    help="Drain the running worker and end it. Unfinished jobs go on with the next.",
)
@click.option("--install", "action", flag_value="install", help="Write a systemd user unit that keeps one running.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="With --stop: time for running jobs to end.",
)
def worker(action: str | None, grace: float) -> int:
    """Run the worker in the foreground until Ctrl-C.

    Nobody needs this: the first job starts a worker in the background. It is for containers, service managers and
    machines on which queued jobs should go on after a reboot.
    """
    if action == "stop":
        return _stop(grace)
    if action == "install":
        from claude_jobs.cli.systemd import install

        return install(os.environ)
    from claude_jobs.cli import foreground

    if foreground.is_running():
        raise WorkerUnavailable(
            "A worker runs already. `claude-jobs worker --stop` ends it; its jobs go on with the next."
        )
    return foreground.run(on_up=_say_up)


def _say_up(running: Connection) -> None:
    output.note("The worker is up. Ctrl-C ends it; unfinished jobs go on with the next.")


def _stop(grace_s: float) -> int:
    from claude_jobs.cli.stopping import stop_worker

    left = stop_worker(os.environ, grace_s)
    if left is None:
        output.note("No worker runs.")
        return exits.OK
    if left:
        output.note(f"claude-jobs: still alive: {left}. Look at `claude-jobs doctor`; `kill -9` ends them.")
        return exits.UNAVAILABLE
    output.note("The worker has ended. Unfinished jobs go on with the next one.")
    return exits.OK
