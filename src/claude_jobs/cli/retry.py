"""`retry`: jobs that ended badly, run again under their ids."""

from __future__ import annotations

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.batches import named
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.jobs import job_ids, rows
from claude_jobs.cli.waiting import counted

_ENDED_BADLY = ("failed", "cancelled", "expired")


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=job_ids)
@click.option("--tree", is_flag=True, help="Also what failed of their descendants, and of the jobs that wait for them.")
@output.json_option
def retry(ids: tuple[str, ...], tree: bool, as_json: bool) -> int:
    """Run jobs again that failed, were cancelled or expired.

    They keep their ids and start with a new session. ID may be a batch (`b-…`): then what failed of it runs again.
    With --tree an ID may have succeeded: then only what failed below it runs again.
    """
    with Connection() as worker:
        wanted = named(worker, ids, _ENDED_BADLY)
        if not wanted:
            output.note("Nothing to run again: none of its jobs failed, was cancelled or expired.")
            return exits.OK
        answer = worker.call("retry", {"job_ids": wanted, "tree": tree}, again=False)
    jobs, room = answer["jobs"], answer.get("note", "")
    if as_json:
        output.emit({"jobs": jobs, "note": room})
    else:
        output.table(rows(jobs), {"job_id": "JOB", "state": "STATE", "label": "LABEL", "note": "NOTE"}, empty="")
        output.note(f"{counted(jobs)}. {room}".rstrip())
    return exits.OK
