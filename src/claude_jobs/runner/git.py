"""Running git for us: without a repository's hooks, and without trusting what a job may have written into its worktree.

Filters of the repository's configuration (LFS, say) do run at a checkout: a worktree without them would hold other files
than the repository means. Who can write that configuration can have a command run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from claude_jobs.errors import RunnerError
from claude_jobs.runner import errand
from claude_jobs.runner.errand import Done
from claude_jobs.runner.stream import phrase

GIT_S = 300.0
"""A checkout of a very large repository takes minutes."""
_MAX_BYTES = 4 * 1024 * 1024
"""A repository can have thousands of worktrees to list."""
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "core.pager": "cat",
    "color.ui": "false",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_NO_INHERITANCE = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"),
    *(
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_EXTERNAL_DIFF",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_COUNT",
        "GIT_TRACE",
    ),
)
_FIXED = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat", "LC_ALL": "C"}


class GitFailed(RunnerError):
    """git is not there, or it said no. `message` is its own word, or ours."""

    code = "git_failed"


class Git:
    """git in one environment.

    Args:
        env: The job's, or the worker's; what would lead git elsewhere is taken out.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        inherited = {name: value for name, value in env.items() if name not in _NO_INHERITANCE}
        self._env = {**inherited, **_FIXED}
        self._program = shutil.which("git", path=env.get("PATH"))

    async def run(
        self,
        *arguments: str,
        cwd: Path,
        git_dir: Path | None = None,
        work_tree: Path | None = None,
        index: Path | None = None,
        max_bytes: int = _MAX_BYTES,
    ) -> Done:
        """What it says.

        Args:
            git_dir: The repository as it was found once. Without it git looks for one from `cwd` upwards, and a job can
                put one in its way, with settings that run programs.
            max_bytes: It is ended when it has written more.

        Raises:
            GitFailed: There is no git, or it took longer than GIT_S.
            SpawnFailed: The operating system refused.
        """
        if self._program is None:
            raise GitFailed("git is not on the job's PATH")
        places = [f"--git-dir={git_dir}"] if git_dir else []
        places += [f"--work-tree={work_tree}"] if work_tree else []
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        done = await errand.run(
            (self._program, *settings, *places, *arguments),
            cwd=str(cwd),
            env={**self._env, "GIT_INDEX_FILE": str(index)} if index else self._env,
            timeout_s=GIT_S,
            max_bytes=max_bytes,
        )
        if done.exit_code is None and not done.is_cut:
            raise GitFailed(f"git {arguments[0]} took longer than {GIT_S:g} s")
        return done

    async def ask(self, *arguments: str, cwd: Path, git_dir: Path | None = None, work_tree: Path | None = None) -> str:
        """What it says, without the last newline.

        Raises:
            GitFailed: It said no, or see `run`.
            SpawnFailed: The operating system refused.
        """
        done = await self.run(*arguments, cwd=cwd, git_dir=git_dir, work_tree=work_tree)
        if not done.is_well:
            raise GitFailed(_complaint(done))
        return done.output.removesuffix("\n")


def _complaint(done: Done) -> str:
    """The line that says why; others are hints and progress."""
    lines = [line for line in done.errors.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    said = (fatal or lines or [f"it ended with {done.exit_code}"])[0]
    return phrase(said.removeprefix("fatal: ").removeprefix("error: "))
