"""Reading and stopping jobs: `ps`, `status`, `result`, `cancel`."""

from __future__ import annotations

from typing import Any

import click

from claude_jobs.cli import batches, exits, output, trees
from claude_jobs.cli.batches import listed, named
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.following import follow_batch
from claude_jobs.cli.waiting import counted, fetched, show_result, wait_for
from claude_jobs.errors import JobNotFound

STATES = ("queued", "running", "blocked", "succeeded", "failed", "cancelled", "expired")
UNFINISHED = ("queued", "running", "blocked")

_COLUMNS = {
    "job_id": "JOB",
    "state": "STATE",
    "elapsed": "TIME",
    "model": "MODEL",
    "cost": "COST",
    "label": "LABEL",
    "note": "NOTE",
}


def rows(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs as rows of a table."""
    return [
        {
            **job,
            "elapsed": output.duration(job["elapsed_s"]),
            "cost": output.dollars(job["cost_usd"]),
            "note": job["note"] + (" (unread)" if job["unread"] else ""),
        }
        for job in jobs
    ]


def job_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: ids of recent jobs, if a worker runs."""
    from claude_jobs.errors import ClaudeJobsError

    try:
        with Connection(start=False) as worker:
            jobs = worker.call("jobs", {"limit": 100}, timeout_s=2.0, again=False)["jobs"]
    except ClaudeJobsError:
        return []
    return [job["job_id"] for job in jobs if job["job_id"].startswith(incomplete)]


@click.command()
@output.json_option
def ps(as_json: bool) -> int:
    """List the jobs that are queued or running, children below the jobs that spawned them."""
    with Connection() as worker:
        jobs = listed(worker, {"states": list(UNFINISHED)})
    if as_json:
        output.emit({"jobs": jobs})
    else:
        output.table(
            rows(trees.indented(jobs)),
            _COLUMNS,
            empty="Nothing is queued or running. `claude-jobs status` lists what has ended.",
        )
    return exits.OK


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=job_ids)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only in this state. May be repeated."
)
@click.option("--batch", "batch_id", default="", help="Only of this batch, with its figures.")
@click.option("--label", default="", help="Only with this label.")
@click.option("--tree", "tree_id", default="", metavar="ID", help="Draw this job and everything it spawned.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option("--cursor", default="", help="Go on where the last page ended.")
@output.json_option
def status(
    ids: tuple[str, ...],
    states: tuple[str, ...],
    batch_id: str,
    label: str,
    tree_id: str,
    limit: int,
    cursor: str,
    as_json: bool,
) -> int:
    """Show the jobs named, or the latest.

    Results that nobody has read yet come first.
    """
    query = {"ids": list(ids), "states": list(states), "batch_id": batch_id, "label": label, "cursor": cursor}
    with Connection() as worker:
        if tree_id:
            return _tree(worker, tree_id, as_json=as_json)
        page = worker.call("jobs", {**query, "limit": max(limit, len(ids))})
        if batch_id and page["jobs"]:
            page["report"] = worker.call("report", {"batch_id": batch_id})
        _check_known(worker, set(ids) - {job["job_id"] for job in page["jobs"]})
    if as_json:
        output.emit(page)
        return exits.OK
    output.table(rows(page["jobs"]), _COLUMNS, empty=_NONE_FIT if any(query.values()) else _NONE)
    if "report" in page:
        output.note(output.safe(page["report"]["line"]))
        output.note(batches.figures(page["report"]))
    if page["cursor"]:
        output.note(f"{page['total']} in all. More: claude-jobs status --cursor {page['cursor']}")
    return exits.OK


_NONE = "No jobs. `claude-jobs spawn 'a task'` makes one."
_NONE_FIT = "No job fits all of that. `claude-jobs status` lists the latest."


def _check_known(worker: Connection, missing: set[str]) -> None:
    """A job that is there may have been left out by the other filters."""
    there = {job["job_id"] for job in batches.by_ids(worker, sorted(missing))}
    for unknown in sorted(missing - there):
        raise JobNotFound(unknown)


def _tree(worker: Connection, job_id: str, *, as_json: bool) -> int:
    jobs = listed(worker, {"tree": job_id})
    if as_json:
        output.emit({"jobs": jobs[::-1]})
    else:
        output.text("\n".join(trees.drawn(jobs, job_id)))
        output.note(f"{counted(jobs)}.")
    return exits.OK


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=job_ids)
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@output.json_option
def result(job_id: str, wait: bool, as_json: bool) -> int:
    """Print what a job came to. The exit code says how it ended; 6 means not yet.

    ID may be a batch (`b-…`): its answers so far, and its figures.
    """
    with Connection() as worker:
        if job_id.startswith("b-"):
            return _batch_result(worker, job_id, wait=wait, as_json=as_json)
        job = wait_for(worker, job_id) if wait else fetched(worker, job_id)
    return show_result(job, as_json=as_json)


def _batch_result(worker: Connection, batch_id: str, *, wait: bool, as_json: bool) -> int:
    query: dict[str, object] = {"batch_id": batch_id}
    try:
        report = follow_batch(worker, query) if wait else worker.call("report", query)
    except KeyboardInterrupt:
        output.note(f"The jobs go on. Get back to them with: claude-jobs result {batch_id} --wait")
        raise
    jobs = batches.jobs_of(worker, batch_id)
    return batches.show(worker, jobs, report, batch_id=batch_id, as_json=as_json)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=job_ids)
@click.option("--all", "everything", is_flag=True, help="Every job that has not ended.")
@click.option("--why", default="", help="Kept with the job.")
@output.json_option
def cancel(ids: tuple[str, ...], everything: bool, why: str, as_json: bool) -> int:
    """Stop jobs and everything they started or spawned; says what was ended.

    ID may be a batch (`b-…`): all of it that has not ended.
    """
    if bool(ids) == everything:
        raise click.UsageError("Name the jobs to cancel, or say --all.")
    with Connection() as worker:
        unfinished: dict[str, object] = {"states": list(UNFINISHED)}
        wanted = named(worker, ids, UNFINISHED) if ids else [job["job_id"] for job in listed(worker, unfinished)]
        cancelled: list[dict[str, Any]] = []
        if wanted:
            cancelled = worker.call("cancel", {"job_ids": wanted, "why": why})["jobs"]
    if as_json:
        output.emit({"jobs": cancelled})
    else:
        output.table(rows(cancelled), {"job_id": "JOB", "state": "STATE", "note": "NOTE"}, empty="Nothing to cancel.")
        if len(cancelled) > 1:
            output.note(counted(cancelled))
    return exits.FAILED if any(job["survivors"] for job in cancelled) else exits.OK
