"""Git worktrees with real git: made, used again, removed when clean, kept with their difference."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from runner.worktree_support import git, nothing_is_left, wanted

from claude_jobs.runner import worktree
from claude_jobs.runner.order import Order
from claude_jobs.runner.worktree import MAX_DIFF_BYTES, Left, NoWorktree, Worktree, Worktrees, worktrees


async def close(tree: Worktree, the_order: Order, place: Worktrees, *, is_over: bool = True) -> Left:
    return await place.close(tree, the_order, is_over=is_over)


def unfinished(tree: Worktree) -> None:
    """As if its worker had died while git wrote the files."""
    (Path(tree.path) / "a.txt").unlink()
    plan = replace(tree, admin="", is_ready=False)
    Path(tree.path).with_name(f"{tree.job_id}.json").write_text(json.dumps(asdict(plan)))


async def test_a_job_works_in_the_last_commit_and_a_clean_one_leaves_nothing(
    repository: Path, place: Worktrees
) -> None:
    (repository / "a.txt").write_text("not committed\n")
    the_order = wanted(repository)
    tree = await place.open(the_order)

    path = Path(tree.path)
    assert (path / "a.txt").read_text() == "one\n"
    assert tree.cwd == tree.path
    assert git(path, "branch", "--show-current") == "claude-jobs/quiet-otter"
    assert [found.job_id for found in worktrees(path.parent)] == ["quiet-otter"]
    assert path.parent.stat().st_mode & 0o077 == 0

    (path / "build.log").write_text("ignored")
    assert await close(tree, the_order, place) == Left()
    assert nothing_is_left(repository, place)
    assert (repository / "a.txt").read_text() == "not committed\n"


async def test_what_was_changed_committed_added_and_removed_is_in_the_difference(
    repository: Path, place: Worktrees
) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    path = Path(tree.path)
    (path / "a.txt").write_text("changed\n")
    git(path, "commit", "-qam", "mine")
    (path / "sub" / "b.txt").unlink()
    (path / "neü.txt").write_text("new\n")
    (path / "x.log").write_text("ignored\n")
    left = await close(tree, the_order, place)

    assert left.path == tree.path
    for line in ("-one", "+changed", "deleted file mode", "-two", "+new", "+++ b/neü.txt"):
        assert line in left.diff.splitlines() or any(line in one for one in left.diff.splitlines())
    assert "x.log" not in left.diff
    assert git(path, "status", "--porcelain").splitlines() == ["D sub/b.txt", '?? "ne\\303\\274.txt"']
    assert [found.path for found in worktrees(path.parent)] == [tree.path]
    patch = repository.parent / "patch"
    patch.write_text(left.diff)
    git(repository, "apply", "--check", str(patch))


@pytest.mark.parametrize("change", ["commit", "untracked", "staged", "branch"])
async def test_whatever_would_be_lost_keeps_it(repository: Path, place: Worktrees, change: str) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    path = Path(tree.path)
    if change == "untracked":
        (path / "new").mkdir()
        (path / "new" / "c.txt").write_text("new")
    else:
        (path / "a.txt").write_text("changed\n")
        git(path, "add", ".")
    if change in ("commit", "branch"):
        git(path, "commit", "-qm", "mine")
    if change == "branch":
        git(path, "checkout", "-q", "--detach", tree.base)
    left = await close(tree, the_order, place)

    assert left.path == tree.path
    assert (left.diff == "") is (change == "branch")


async def test_a_directory_in_the_repository_is_the_same_one_in_the_worktree(
    repository: Path, place: Worktrees
) -> None:
    tree = await place.open(wanted(repository, cwd=repository / "sub"))

    assert Path(tree.cwd) == Path(tree.path) / "sub"
    assert (Path(tree.cwd) / "b.txt").is_file()


async def test_an_attempt_that_may_go_on_keeps_it_and_the_next_one_finds_it(repository: Path, place: Worktrees) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    (Path(tree.path) / "half.log").write_text("ignored, but half of the work")
    git(repository, "commit", "-q", "--allow-empty", "-m", "meanwhile")

    assert await close(tree, the_order, place, is_over=False) == Left()
    assert await place.open(the_order) == tree
    assert (Path(tree.path) / "half.log").is_file()
    assert await close(tree, the_order, place) == Left()
    assert nothing_is_left(repository, place)


async def test_one_that_was_never_finished_is_made_anew(repository: Path, place: Worktrees) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    unfinished(tree)
    again = await place.open(the_order)

    assert again == tree
    assert (Path(again.path) / "a.txt").is_file()


async def test_one_that_the_user_removed_is_made_anew_with_its_commits(repository: Path, place: Worktrees) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    (Path(tree.path) / "a.txt").write_text("changed\n")
    git(Path(tree.path), "commit", "-qam", "mine")
    shutil.rmtree(tree.path)
    again = await place.open(the_order)

    assert (Path(again.path) / "a.txt").read_text() == "changed\n"
    assert again.base == tree.base
    assert "+changed" in (await close(again, the_order, place)).diff


async def test_many_at_once_in_one_repository(repository: Path, place: Worktrees) -> None:
    orders = [wanted(repository, job_id=f"job-{number}") for number in range(8)]
    trees = await asyncio.gather(*(place.open(the_order) for the_order in orders))

    assert len({tree.path for tree in trees}) == 8
    assert all((Path(tree.path) / "a.txt").is_file() for tree in trees)
    left = await asyncio.gather(*(close(tree, one, place) for tree, one in zip(trees, orders, strict=True)))
    assert left == [Left()] * 8
    assert nothing_is_left(repository, place, "job-0")


async def test_a_held_lock_is_waited_for(repository: Path, place: Worktrees) -> None:
    lock = repository / ".git" / "refs" / "heads" / "claude-jobs" / "quiet-otter.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    asyncio.get_running_loop().call_later(0.3, lock.unlink)
    tree = await place.open(wanted(repository))

    assert (Path(tree.path) / "a.txt").is_file()


async def test_a_bare_repository_and_a_worktree_have_worktrees(
    repository: Path, place: Worktrees, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    one = wanted(repository, cwd=bare, job_id="one")
    first = await place.open(one)
    two = wanted(repository, cwd=Path(first.path) / "sub", job_id="two")
    second = await place.open(two)

    assert (Path(second.cwd) / "b.txt").is_file()
    assert second.repository == first.repository == str(bare)
    (Path(second.path) / "c.txt").write_text("new\n")
    assert await close(first, one, place) == Left()
    left = await close(second, two, place)
    assert (left.path, "+new" in left.diff) == (second.path, True)


async def test_submodules_stay_empty_and_keep_nothing(repository: Path, place: Worktrees, tmp_path: Path) -> None:
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "module")
    git(repository, "commit", "-qm", "with a module")
    the_order = wanted(repository)
    tree = await place.open(the_order)

    assert list((Path(tree.path) / "module").iterdir()) == []
    assert await close(tree, the_order, place) == Left()
    assert nothing_is_left(repository, place)


@pytest.mark.parametrize(
    ("cwd", "says"),
    [
        ("plain", "Submit without worktree"),
        ("empty", "no commit yet"),
        ("repository/untracked", "not part of the last commit"),
        ("broken", "Submit without worktree"),
    ],
)
async def test_where_there_is_nothing_to_make_one_from_the_next_step_is_told(
    repository: Path, place: Worktrees, tmp_path: Path, cwd: str, says: str
) -> None:
    (tmp_path / cwd).mkdir()
    if cwd == "empty":
        git(tmp_path / cwd, "init", "-q")
    elif cwd == "broken":
        (tmp_path / cwd / ".git").write_text("gitdir: /nowhere")
    with pytest.raises(NoWorktree) as refused:
        await place.open(wanted(repository, cwd=tmp_path / cwd))

    assert says in refused.value.message
    assert nothing_is_left(repository, place)


async def test_without_git_the_next_step_is_told(repository: Path, place: Worktrees) -> None:
    the_order = wanted(repository)
    env = tuple((name, "/nowhere" if name == "PATH" else value) for name, value in the_order.spec.env)
    with pytest.raises(NoWorktree, match="git is not on the job's PATH"):
        await place.open(replace(the_order, spec=replace(the_order.spec, env=env)))


async def test_a_directory_that_is_not_ours_is_not_touched(repository: Path, place: Worktrees) -> None:
    path = place.path("quiet-otter")
    path.mkdir(parents=True)
    (path / "mine.txt").write_text("mine")
    with pytest.raises(NoWorktree, match="Move it away"):
        await place.open(wanted(repository))

    assert (path / "mine.txt").is_file()


@pytest.mark.parametrize("job_id", ["../x", "", ".git", "a/b"])
async def test_a_name_that_leads_elsewhere_is_refused(repository: Path, place: Worktrees, job_id: str) -> None:
    with pytest.raises(NoWorktree):
        await place.open(wanted(repository, job_id=job_id))


async def test_nothing_of_the_repository_runs(repository: Path, place: Worktrees, tmp_path: Path) -> None:
    """Hooks, and whatever else its own settings would start; and a job's own `.git` is not asked."""
    hook = repository / ".git" / "hooks" / "post-checkout"
    for path in (hook, tmp_path / "spy"):
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        path.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(tmp_path / "spy"))
    git(repository, "config", "diff.external", str(tmp_path / "spy"))
    the_order = wanted(repository)
    tree = await place.open(the_order)
    path = Path(tree.path)
    evil = path / "evil"
    git(path, "init", "-q", str(evil))
    git(evil, "commit", "-q", "--allow-empty", "-m", "x")
    git(evil, "config", "core.fsmonitor", str(tmp_path / "spy"))
    (path / "a.txt").write_text("changed\n")
    (path / ".git").write_text(f"gitdir: {evil}/.git\n")
    (tmp_path / "ran").unlink(missing_ok=True)
    left = await close(tree, the_order, place)

    assert "+changed" in left.diff
    assert left.path == tree.path
    assert not (tmp_path / "ran").exists()


async def test_a_large_difference_is_cut_and_says_so(repository: Path, place: Worktrees) -> None:
    the_order = wanted(repository)
    tree = await place.open(the_order)
    (Path(tree.path) / "big.txt").write_text("a line of text\n" * 100_000)
    left = await close(tree, the_order, place)

    assert len(left.diff) < MAX_DIFF_BYTES + 500
    assert left.diff.splitlines()[-1].startswith("[cut off at 200,000 bytes")
    assert tree.path in left.diff.splitlines()[-1]
    assert left.diff.splitlines()[-2] == "+a line of text"


async def test_tidying_takes_what_is_over_and_clean(repository: Path, place: Worktrees) -> None:
    for job_id in ("clean", "dirty", "half", "waiting", "removed"):
        tree = await place.open(wanted(repository, job_id=job_id))
        if job_id == "dirty":
            (Path(tree.path) / "a.txt").write_text("changed\n")
        elif job_id == "half":
            unfinished(tree)
        elif job_id == "removed":
            git(repository, "worktree", "remove", tree.path)
    directory = place.path("clean").parent

    async def is_over(job_id: str) -> bool:
        return job_id != "waiting"

    gone = await place.tidy(is_over)

    assert gone == ["clean", "half", "removed"]
    assert await place.tidy(is_over) == []
    assert [tree.job_id for tree in worktrees(directory)] == ["dirty", "waiting"]
    assert git(repository, "branch", "--list", "claude-jobs/*").split() == [
        "+",
        "claude-jobs/dirty",
        "+",
        "claude-jobs/waiting",
    ]


def test_a_record_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text('{"job_id": "y"}')

    assert worktrees(tmp_path) == ()
    assert worktree.worktrees(tmp_path / "missing") == ()
