"""`logs`: what happened to a job, in order."""

from __future__ import annotations

from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.jobs import job_ids
from claude_jobs.errors import WorkerLost

_FRAME = frozenset({"seq", "job_id", "epoch", "at", "kind"})


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=job_ids)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@output.json_option
def logs(job_id: str, follow: bool, as_json: bool) -> int:
    """Print a job's events. With --json one JSON object a line."""
    reader = _Reader(job_id, as_json=as_json)
    with Connection() as worker:
        try:
            reader.run(worker, follow=follow)
        except KeyboardInterrupt:
            output.note(f"Job {job_id} goes on. Back to its log: claude-jobs logs {job_id} -f")
            raise
    return exits.OK


class _Reader:
    """Prints events once each, over any number of connections."""

    def __init__(self, job_id: str, *, as_json: bool) -> None:
        self._job_id = job_id
        self._as_json = as_json
        self._after = 0

    def run(self, worker: Connection, *, follow: bool) -> None:
        while True:
            try:
                self._events(worker, follow=False)  # says if there is no such job
                if follow:
                    self._events(worker, follow=True)
                return
            except WorkerLost:
                worker.close()
                if not follow:
                    raise

    def _events(self, worker: Connection, *, follow: bool) -> None:
        params = {"job_id": self._job_id, "after": self._after, "follow": follow}
        worker.call("events", params, on_event=self._show, again=False, timeout_s=None)

    def _show(self, event: dict[str, Any]) -> None:
        self._after = event["seq"]
        if self._as_json:
            output.emit_line(event)
        else:
            output.text(line(event))


def line(event: dict[str, Any]) -> str:
    """An event as a line: local time, kind, then what it says."""
    from datetime import datetime

    at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    said = {name: value for name, value in event.items() if name not in _FRAME and value not in (None, "")}
    words = " ".join(f"{name}={_word(name, value)}" for name, value in said.items())
    return output.safe(f"{at}  {event['kind']:<16} {words}").rstrip()


def _word(name: str, value: object) -> str:
    if name.endswith("_nusd") and isinstance(value, int):
        return f"{value / 1e9:.4f}$"
    text = str(value)
    return repr(text) if " " in text else text
