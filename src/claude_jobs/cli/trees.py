"""Jobs under the jobs that spawned them: as lines with branches, and as rows of a table. Values in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from claude_jobs.cli import output

Job = dict[str, Any]


def drawn(jobs: Sequence[Job], root_id: str) -> list[str]:
    """The tree below `root_id`, a line a job, oldest first.

    Args:
        jobs: All jobs of its tree, in any order.
    """
    below = _below(jobs)
    root = next(job for job in jobs if job["job_id"] == root_id)
    return [_line(root), *_branches(below, root_id, "")]


def _branches(below: dict[str, list[Job]], parent_id: str, stem: str) -> Iterator[str]:
    children = below.get(parent_id, [])
    for at, child in enumerate(children, start=1):
        is_last = at == len(children)
        yield f"{stem}{'└─ ' if is_last else '├─ '}{_line(child)}"
        yield from _branches(below, child["job_id"], stem + ("   " if is_last else "│  "))


def _line(job: Job) -> str:
    label = f" [{job['label']}]" if job["label"] else ""
    parts = [f"{job['job_id']}{label} {job['state']}", output.duration(job["elapsed_s"])]
    if job["cost_usd"]:
        parts.append(output.dollars(job["cost_usd"]))
    if job["note"] not in ("", job["state"], "done"):
        parts.append(job["note"])
    return output.safe("  ".join(parts))


def indented(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with children below their parents, their ids moved to the right; others stay where they are."""
    below = _below(jobs)
    known = {job["job_id"] for job in jobs}
    found: list[Job] = []
    for job in jobs:
        if job["parent_id"] not in known:
            found += _nested(below, job, 0)
    return found


def _nested(below: dict[str, list[Job]], job: Job, level: int) -> Iterator[Job]:
    yield {**job, "job_id": "  " * level + job["job_id"]}
    for child in below.get(job["job_id"], []):
        yield from _nested(below, child, level + 1)


def _below(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Children by their parent's id, oldest first; lists are newest first."""
    below: dict[str, list[Job]] = {}
    for job in reversed(jobs):
        if job["parent_id"]:
            below.setdefault(job["parent_id"], []).append(job)
    return below
