"""The answers of a batch and its figures: whole, or as far as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.waiting import answer_of, counted, fetched, is_over

PAGE = 500

Job = dict[str, Any]
Report = dict[str, Any]


def listed(worker: Connection, query: dict[str, object]) -> list[Job]:
    """All jobs that a query finds, newest first, page by page."""
    found: list[Job] = []
    cursor = ""
    while True:
        page = worker.call("jobs", {**query, "unread_first": False, "limit": PAGE, "cursor": cursor})
        found += page["jobs"]
        cursor = page["cursor"]
        if not cursor:
            return found


def jobs_of(worker: Connection, batch_id: str) -> list[Job]:
    """The jobs of a batch in the order they were handed in."""
    return listed(worker, {"batch_id": batch_id})[::-1]


def by_ids(worker: Connection, ids: Sequence[str]) -> list[Job]:
    """These jobs, in this order."""
    found = {job["job_id"]: job for at in range(0, len(ids), PAGE) for job in _some(worker, ids[at : at + PAGE])}
    return [found[job_id] for job_id in ids if job_id in found]


def _some(worker: Connection, ids: Sequence[str]) -> list[Job]:
    jobs: list[Job] = worker.call("jobs", {"ids": list(ids), "limit": len(ids)})["jobs"]
    return jobs


def named(worker: Connection, names: Sequence[str], states: Sequence[str]) -> list[str]:
    """Ids of jobs: a batch (`b-…`) stands for those of its jobs that are in one of the states."""
    found: list[str] = []
    for name in names:
        if name.startswith("b-"):
            found += [job["job_id"] for job in jobs_of(worker, name) if job["state"] in states]
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def show(worker: Connection, jobs: Sequence[Job], report: Report, *, batch_id: str, as_json: bool) -> int:
    """Print the answers of those that have ended, and the figures; the exit code is that of the worst of them."""
    results = [fetched(worker, job["job_id"]) if is_over(job) else job for job in jobs]
    if as_json:
        output.emit({"batch_id": batch_id, "jobs": results, "report": report})
    else:
        for job in results:
            _print(job)
    output.note(f"Batch {batch_id}: {counted(results)}." if batch_id else f"{counted(results)}.")
    output.note(figures(report))
    return exits.of_states(job["state"] for job in results)


def _print(job: Job) -> None:
    label = f" {job['label']}" if job["label"] else ""
    if not is_over(job):
        output.text(output.safe(f"== {job['job_id']}{label}: {job['state']}, {job['note']}"))
        return
    output.text(output.safe(f"== {job['job_id']}{label}: {job['state']} in {output.duration(job['elapsed_s'])}"))
    output.text(answer_of(job) or f"({output.safe(job['note'])})")


def figures(report: Report) -> str:
    """What a batch came to, in one line."""
    parts = [f"{output.duration(report['sum_s'])} of work in {output.duration(report['wall_s'])}"]
    if report["parallel"] > 1:
        busy = f"{report['efficiency']:.0%} busy"
        parts.append(f"{report['speedup']:.1f}x with at most {report['parallel']} at once ({busy})")
    if report["output_tokens"]:
        parts.append(f"{report['input_tokens']}+{report['output_tokens']} tokens")
    if report["cost_usd"]:
        parts.append(output.dollars(report["cost_usd"]))
    if len(report["tokens"]) > 1:
        parts.append("jobs by token: " + ", ".join(f"{name} {count}" for name, count in report["tokens"].items()))
    if report["failures"]:
        parts.append("failures: " + ", ".join(f"{cause} {count}" for cause, count in report["failures"].items()))
    return output.safe(" · ".join(parts))
