"""`worktrees`: git worktrees that jobs left behind because they hold changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.batches import by_ids
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.waiting import is_over
from claude_jobs.errors import InvalidRequest, RunnerError
from claude_jobs.runner.git import Git
from claude_jobs.runner.paths import Home
from claude_jobs.runner.worktree import Worktree, Worktrees
from claude_jobs.runner.worktree import worktrees as found_in

_COLUMNS = {"job_id": "JOB", "state": "STATE", "changes": "CHANGES", "label": "LABEL", "path": "PATH"}


@click.command()
@click.option("--remove", "doomed", multiple=True, metavar="ID", help="Remove that of this job. May be repeated.")
@output.json_option
def worktrees(doomed: tuple[str, ...], as_json: bool) -> int:
    """List the git worktrees of jobs: what is in them, and where they are.

    One that holds no changes is removed when its job ends; the others stay until you merge their branch
    (claude-jobs/ID) and --remove them. What was committed in one stays on its branch.
    """
    directory = Home.resolve(os.environ).worktrees_dir
    trees = {tree.job_id: tree for tree in found_in(directory)}
    jobs = _jobs(list(trees))
    if doomed:
        return _remove([_doomed(job_id, trees, jobs) for job_id in dict.fromkeys(doomed)], directory)
    rows = asyncio.run(_rows(list(trees.values()), jobs, directory))
    if as_json:
        output.emit({"worktrees": rows})
    else:
        output.table([{**row, "changes": _said(row)} for row in rows], _COLUMNS, empty="No job has a worktree.")
    return exits.OK


def _jobs(ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The jobs that are still known."""
    if not ids:
        return {}
    with Connection() as worker:
        return {job["job_id"]: job for job in by_ids(worker, ids)}


def _doomed(job_id: str, trees: dict[str, Worktree], jobs: dict[str, dict[str, Any]]) -> Worktree:
    if job_id not in trees:
        raise InvalidRequest(f"Job {job_id!r} has no worktree. `claude-jobs worktrees` lists them.", field="remove")
    job = jobs.get(job_id)
    if job is not None and not is_over(job):
        message = f"Job {job_id!r} is {job['state']} and works in its worktree. Wait for its end, or cancel it first."
        raise InvalidRequest(message, field="remove")
    return trees[job_id]


def _remove(trees: Sequence[Worktree], directory: Path) -> int:
    keeper, git = Worktrees(directory), Git(os.environ)
    for tree in trees:
        asyncio.run(keeper.drop(tree, git))
        output.note(f"Removed {tree.path}. Commits that were made in it stay on branch {tree.branch}.")
    return exits.OK


async def _rows(trees: Sequence[Worktree], jobs: dict[str, dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    keeper, git = Worktrees(directory), Git(os.environ)
    rows: list[dict[str, Any]] = []
    for tree in trees:
        job = jobs.get(tree.job_id, {})
        known = {"job_id": tree.job_id, "state": job.get("state", ""), "label": job.get("label", "")}
        place = {"path": tree.path, "branch": tree.branch, "source": tree.source}
        if job and not is_over(job):  # its attempt looks at it itself when it ends, with the same files
            rows.append({**known, **place, "files": None, "problem": "in use"})
            continue
        try:
            rows.append({**known, **place, **_size(await keeper.difference(tree, git))})
        except (RunnerError, OSError) as error:
            rows.append({**known, **place, "files": None, "problem": str(error)})
    return rows


def _size(patch: str) -> dict[str, Any]:
    """Files that a patch changes, lines that it adds and takes away."""
    lines = patch.splitlines()
    return {
        "files": sum(line.startswith("diff --git ") for line in lines),
        "added": sum(line.startswith("+") and not line.startswith("+++ ") for line in lines),
        "removed": sum(line.startswith("-") and not line.startswith("--- ") for line in lines),
        "is_cut": bool(lines) and lines[-1].startswith("[cut off"),
    }


def _said(row: dict[str, Any]) -> str:
    if row["files"] is None:
        return output.safe(row["problem"])
    more = "more than " if row["is_cut"] else ""
    files = f"{row['files']} file{'' if row['files'] == 1 else 's'}"
    return f"{more}{files}, +{row['added']} -{row['removed']}" if row["files"] else "none"
