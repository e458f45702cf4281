"""Real git, orders that want a worktree, and proof that none is left."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.support import order

from claude_jobs.runner.order import Order
from claude_jobs.runner.worktree import Worktrees

IDENTITY = {
    name: "rehearsal" for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
}


def git(cwd: Path, *words: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), **IDENTITY}
    done = subprocess.run(["git", *words], cwd=cwd, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def wanted(repository: Path, *, job_id: str = "quiet-otter", **more: Any) -> Order:
    made = order(repository.parent, cwd=more.pop("cwd", repository), worktree=True, **more)
    return replace(made, job_id=job_id)


def nothing_is_left(repository: Path, place: Worktrees, job_id: str = "quiet-otter") -> bool:
    directory = place.path(job_id).parent
    return (
        list(directory.iterdir() if directory.exists() else ()) == []
        and git(repository, "worktree", "list").count("\n") == 0
        and git(repository, "branch", "--list", "claude-jobs/*") == ""
    )
