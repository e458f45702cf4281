"""Worktrees that jobs left behind: listed with what is in them, and removed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support_command import directive, run

from claude_jobs.cli.rehearse import Stage

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def git(repository: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *args], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch", "main")
    (place / "old.txt").write_text("one\ntwo\n")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", "first")
    return place


def test_changes_are_kept_listed_and_removed_on_request(stage: Stage, repository: Path) -> None:
    write = {"name": "Write", "input": {"file_path": "{cwd}/new.txt", "content": "a\nb\n"}}
    options = ["--worktree", "--label", "tree", "--wait", "--json"]
    ran = run(
        "spawn", directive("Write.", tool=write, reply="Written."), *options, environ=stage.environ, cwd=repository
    )
    job = ran.json()
    kept = Path(job["worktree"])
    listed = run("worktrees", environ=stage.environ)
    rows = run("worktrees", "--json", environ=stage.environ).json()["worktrees"]
    unknown = run("worktrees", "--remove", "j-nope", environ=stage.environ)
    removed = run("worktrees", "--remove", job["job_id"], environ=stage.environ)
    after = run("worktrees", environ=stage.environ)

    assert ran.code == 0, ran.err
    assert (rows[0]["job_id"], rows[0]["files"], rows[0]["added"], rows[0]["removed"]) == (job["job_id"], 1, 2, 0)
    assert "+a" in job["diff"] and "new.txt" in job["diff"]
    assert "1 file, +2 -0" in listed.out and str(kept) in listed.out
    assert not (repository / "new.txt").exists()
    assert (unknown.code, removed.code) == (2, 0)
    assert not kept.exists()
    assert "No job has a worktree" in after.err
    assert str(kept) not in git(repository, "worktree", "list")


def test_a_clean_worktree_is_gone_when_its_job_ends(stage: Stage, repository: Path) -> None:
    ran = run(
        "spawn",
        directive("Look.", reply="Seen."),
        "--worktree",
        "--wait",
        "--json",
        environ=stage.environ,
        cwd=repository,
    )

    assert ran.code == 0, ran.err
    assert (ran.json()["worktree"], ran.json()["diff"]) == ("", "")
    assert run("worktrees", "--json", environ=stage.environ).json() == {"worktrees": []}


def test_a_worktree_in_use_is_not_removed(stage: Stage, repository: Path) -> None:
    job_id = run(
        "spawn", directive("Hold.", hold=True), "--worktree", environ=stage.environ, cwd=repository
    ).out.strip()
    try:
        rows = []
        while not rows:
            rows = run("worktrees", "--json", environ=stage.environ).json()["worktrees"]
        refused = run("worktrees", "--remove", job_id, environ=stage.environ)
    finally:
        run("cancel", job_id, environ=stage.environ)

    assert (rows[0]["job_id"], rows[0]["problem"]) == (job_id, "in use")
    assert refused.code == 2
    assert "Wait for its end, or cancel it first" in refused.err


def test_a_worktree_needs_a_repository(stage: Stage, tmp_path: Path) -> None:
    ran = run("spawn", directive("x", reply="x"), "--worktree", "--wait", environ=stage.environ, cwd=tmp_path)

    assert ran.code == 1
    assert "no repository" in ran.err
