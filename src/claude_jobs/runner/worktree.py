"""Git worktrees of jobs: the last commit of a repository in a directory of its own, on a branch that the user can merge.

What was not committed is not in it, nor are ignored files and submodules. It goes when the job has ended and left nothing
in it but ignored files; else it stays, with its branch, and the outcome has the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from claude_jobs.errors import RunnerError, SpawnFailed
from claude_jobs.runner import errand
from claude_jobs.runner.git import Git, GitFailed
from claude_jobs.runner.order import Order

BRANCHES = "claude-jobs/"
MAX_DIFF_BYTES = 200_000
_GIT_NEEDS = ("PATH", "HOME", "XDG_CONFIG_HOME")
LOCK_TRIES = 10
"""Other git processes hold a repository's locks for milliseconds."""
_LOCK_WAIT_S = 0.1
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,199}")
_LOCKED = re.compile(r"\block\b|\.lock|unable to (create|append)|cannot lock|File exists", re.IGNORECASE)
_DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=dirty"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
_STATUS = ("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=dirty")


class NoWorktree(RunnerError):
    """None could be made; the message says what to do."""

    code = "no_worktree"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worktree:
    """One that was made.

    Attributes:
        path: Its directory, named after its job.
        cwd: The job's directory in it.
        repository: The git directory that it belongs to.
        admin: Its own git directory in that.
        branch: Made for it.
        base: The commit that it began with.
        source: Where the job was to run.
        env: What git needs of the job's environment when the job is gone.
    """

    job_id: str
    path: str
    cwd: str
    repository: str
    admin: str
    branch: str
    base: str
    source: str
    env: Mapping[str, str]
    is_ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of one: its directory if it was kept, and the difference as a patch."""

    path: str = ""
    diff: str = ""


def worktrees(directory: Path) -> tuple[Worktree, ...]:
    """Those that are there now, by job. Reads their records; asks no git."""
    return tuple(tree for tree in _all(directory) if _is_directory(tree.path))


class Worktrees:
    """Makes and removes them, below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._kept: set[str] = set()

    def path(self, job_id: str) -> Path:
        """Where the worktree of that job is, or would be."""
        if not _NAME.fullmatch(job_id):
            raise NoWorktree(f"A worktree cannot be named after job {job_id!r}.")
        return self._directory / job_id

    async def open(self, order: Order) -> Worktree:
        """The worktree of this job: made now, or as an earlier attempt left it.

        Raises:
            NoWorktree: There is nothing to make one from, or git refused.
        """
        git = Git(errand.environment(order))
        try:
            return self._reopened(order) or await self._make(order, git)
        except (GitFailed, SpawnFailed, OSError) as error:
            raise NoWorktree(f"No worktree could be made from {order.spec.cwd!r}: {error}.") from error

    async def close(self, tree: Worktree, order: Order, *, is_over: bool) -> Left:
        """After an attempt: what it changed, and the end of the worktree if it holds nothing and no other attempt comes.

        Never raises: what git cannot tell is kept.
        """
        git = Git(errand.environment(order))
        try:
            diff = await self.difference(tree, git)
        except (GitFailed, SpawnFailed, OSError):
            diff = ""
        if is_over:
            return Left(path=tree.path if await self.settle(tree, git) else "", diff=diff)
        try:
            is_kept = diff != "" or not await _is_untouched(tree, git)
        except (GitFailed, SpawnFailed, OSError):
            is_kept = True  # nobody can tell
        return Left(path=tree.path if is_kept else "", diff=diff)

    async def tidy(self, is_over: Callable[[str], Awaitable[bool]]) -> list[str]:
        """Remove what jobs left behind that ended without an attempt: cancelled while they waited for the next one, say.

        Each is looked at once: one that holds changes stays until its user takes it away.

        Args:
            is_over: Whether no attempt of that job will come any more, and nobody else is at work there.

        Returns:
            Ids of the jobs whose worktree is gone.
        """
        gone: list[str] = []
        for tree in _all(self._directory):
            if tree.job_id in self._kept or not await is_over(tree.job_id):
                continue
            if await self.settle(tree, Git(tree.env)):
                self._kept.add(tree.job_id)
            else:
                gone.append(tree.job_id)
        return gone

    async def settle(self, tree: Worktree, git: Git) -> bool:
        """Remove it if it holds nothing; whether it is still there."""
        try:
            if tree.is_ready and _is_directory(tree.path) and not await _is_untouched(tree, git):
                return True
            await self._remove(tree, git)
        except (GitFailed, SpawnFailed, OSError):
            return _is_directory(tree.path)
        return False

    async def drop(self, tree: Worktree, git: Git) -> None:
        """Remove it, whatever it holds. What was committed stays on its branch.

        Raises:
            GitFailed, SpawnFailed, OSError: git cannot, or may not.
        """
        await self._remove(tree, git)

    def _reopened(self, order: Order) -> Worktree | None:
        tree = _recorded(self._record(order.job_id))
        path = self.path(order.job_id)
        if tree is not None and tree.is_ready and path.is_dir() and Path(tree.admin).is_dir():
            return tree
        if path.exists() and (tree is None or tree.is_ready):
            raise NoWorktree(f"{str(path)!r} is there, but is no worktree any more. Move it away, then retry the job.")
        return None

    async def _make(self, order: Order, git: Git) -> Worktree:
        tree = await self._planned(order, git)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            await self._remove(tree, git)  # what an attempt left that died while it made it
            self._write(tree)
            tree = await self._add(tree, git)
            if not _is_directory(tree.cwd):
                message = (
                    f"{order.spec.cwd!r} is not part of the last commit, and a worktree holds nothing else. "
                    "Commit it, or submit the job for another directory of the repository."
                )
                raise NoWorktree(message)
            self._write(tree)
        except BaseException:
            with contextlib.suppress(GitFailed, SpawnFailed, OSError):
                await self._remove(tree, git)
            raise
        return tree

    async def _planned(self, order: Order, git: Git) -> Worktree:
        cwd, path = Path(order.spec.cwd), self.path(order.job_id)
        try:
            found = await git.ask("rev-parse", "--git-common-dir", "--show-prefix", cwd=cwd)
        except GitFailed as error:
            message = f"git finds no repository in {str(cwd)!r}: {error.message}. Submit without worktree, or `git init` and commit there."
            raise NoWorktree(message) from None
        try:
            base = await git.ask("rev-parse", "--verify", "HEAD^{commit}", cwd=cwd)
        except GitFailed:
            message = (
                f"The repository of {str(cwd)!r} has no commit yet. Commit something there, or submit without worktree."
            )
            raise NoWorktree(message) from None
        common, _, prefix = found.partition("\n")
        earlier = _recorded(self._record(order.job_id))
        return Worktree(
            job_id=order.job_id,
            path=str(path),
            cwd=str(path / prefix.strip("/")),
            repository=str((cwd / common).resolve()),
            admin="",
            branch=BRANCHES + order.job_id,
            base=earlier.base if earlier is not None else base,
            source=str(cwd),
            env={name: value for name, value in order.spec.env if name in _GIT_NEEDS},
        )

    async def _add(self, tree: Worktree, git: Git) -> Worktree:
        repository, path = Path(tree.repository), Path(tree.path)
        has_branch = await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{tree.branch}", cwd=repository)
        what = [tree.path, tree.branch] if has_branch.is_well else ["-b", tree.branch, tree.path, tree.base]
        await self._insist(git, "worktree", "add", "--quiet", *what, git_dir=repository, cwd=path.parent)
        admin = await git.ask("rev-parse", "--absolute-git-dir", cwd=path)
        return replace(tree, admin=admin, is_ready=True)

    async def _remove(self, tree: Worktree, git: Git) -> None:
        """The directory, what the repository knows of it, and its branch if that holds no commit of its own."""
        repository, path = Path(tree.repository), Path(tree.path)
        if _is_directory(repository):
            listed = await git.ask("worktree", "list", "--porcelain", git_dir=repository, cwd=self._directory)
            if f"worktree {path}" in listed.splitlines():
                words = ("worktree", "remove", "--force", str(path))
                await self._insist(git, *words, git_dir=repository, cwd=self._directory)
            reference = f"refs/heads/{tree.branch}"
            await git.run("update-ref", "-d", reference, tree.base, git_dir=repository, cwd=self._directory)
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        self._record(tree.job_id).unlink(missing_ok=True)

    async def _insist(self, git: Git, *words: str, git_dir: Path, cwd: Path) -> None:
        for _ in range(LOCK_TRIES):
            try:
                await git.ask(*words, git_dir=git_dir, cwd=cwd)
            except GitFailed as error:
                if not _LOCKED.search(error.message):
                    raise
                await asyncio.sleep(_LOCK_WAIT_S * (1 + random.random()))  # noqa: S311  # nosec B311 - a wait
            else:
                return
        await git.ask(*words, git_dir=git_dir, cwd=cwd)

    async def difference(self, tree: Worktree, git: Git) -> str:
        """Everything against the base as a patch: what was committed, what was changed, what is new and not ignored.

        Raises:
            GitFailed, SpawnFailed, OSError: git cannot tell.
        """
        admin, path, index = Path(tree.admin), Path(tree.path), self._index(tree.job_id)
        shutil.copyfile(admin / "index", index)
        try:
            # In an index of our own new files become known to `diff`, and no content is stored anywhere.
            adding = ("add", "--intent-to-add", "--ignore-errors", "--", ".")
            await git.run(*adding, cwd=path, git_dir=admin, work_tree=path, index=index)
            done = await git.run(
                *(*_DIFF, tree.base, "--"),
                cwd=path,
                git_dir=admin,
                work_tree=path,
                index=index,
                max_bytes=MAX_DIFF_BYTES,
            )
        finally:
            for file in (index, index.with_suffix(".index.lock")):
                file.unlink(missing_ok=True)
        if not done.is_cut:
            return done.output
        whole = done.output[: done.output.rfind("\n") + 1]
        return f"{whole}[cut off at {MAX_DIFF_BYTES:,} bytes; `git diff {tree.base[:12]}` in {tree.path} shows all of it]\n"

    def _record(self, job_id: str) -> Path:
        return self.path(job_id).with_name(f"{job_id}.json")

    def _index(self, job_id: str) -> Path:
        return self.path(job_id).with_name(f"{job_id}.index")

    def _write(self, tree: Worktree) -> None:
        file = self._record(tree.job_id)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(tree)), encoding="utf-8")
        fresh.replace(file)


async def _is_untouched(tree: Worktree, git: Git) -> bool:
    """Whether it holds nothing that would be lost: no change, no new file, no commit on it or on its branch."""
    admin, path = Path(tree.admin), Path(tree.path)
    if not _is_directory(admin):
        return False
    status = await git.run(*_STATUS, cwd=path, git_dir=admin, work_tree=path, max_bytes=1)
    if not status.is_well or status.output:
        return False
    head = await git.ask("rev-parse", "HEAD", cwd=path, git_dir=admin)
    branch = await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{tree.branch}", cwd=path, git_dir=admin)
    return head == tree.base and branch.output.strip() in ("", tree.base)


def _is_directory(path: str | Path) -> bool:
    return Path(path).is_dir()


def _all(directory: Path) -> list[Worktree]:
    found = (_recorded(file) for file in sorted(directory.glob("*.json")))
    return [tree for tree in found if tree is not None]


def _recorded(file: Path) -> Worktree | None:
    try:
        return Worktree(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
