"""A small repository, and a place for its worktrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from runner.worktree_support import git

from claude_jobs.runner.worktree import Worktrees


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("one\n")
    (made / "sub" / "b.txt").write_text("two\n")
    (made / ".gitignore").write_text("*.log\n")
    git(made, "init", "-q", "-b", "main")
    git(made, "add", ".")
    git(made, "commit", "-qm", "first")
    return made


@pytest.fixture
def place(tmp_path: Path) -> Worktrees:
    return Worktrees(tmp_path / "state" / "worktrees")
