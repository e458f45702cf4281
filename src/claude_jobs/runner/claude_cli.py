"""The runner that starts the real claude CLI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from claude_jobs.domain.job import ProjectFiles
from claude_jobs.runner.ahead import Ahead
from claude_jobs.runner.attempt import Attempt
from claude_jobs.runner.command import Command, build
from claude_jobs.runner.executable import find_claude
from claude_jobs.runner.family import Waits
from claude_jobs.runner.instructions import read_instructions
from claude_jobs.runner.mcp_config import Access
from claude_jobs.runner.order import AttemptHandle, Hooks, Order
from claude_jobs.runner.prompt import check_prompt
from claude_jobs.runner.transcript import config_dir, standing_of
from claude_jobs.runner.warm import WarmPool
from claude_jobs.runner.worktree import Worktrees


class ClaudeCli:
    """Implements Runner: a process of its own for each attempt, or one out of `pool` for those that can share.

    Args:
        claude: Value of CLAUDE_JOBS_CLI; "" or None looks on the job's own PATH, then in claude-agent-sdk.
        pool: Keeps processes of jobs without tools for the next like them; None keeps none.
        access: How jobs reach this worker; None: not at all, and none can spawn.
        worktrees: Directory for the git worktrees of jobs.
        free_bytes: How much memory can be taken now; None: nothing is started ahead.
        max_live: Most processes alive at once: what waits for work gives way to jobs. None for no such limit.
    """

    def __init__(
        self,
        claude: str | Path | None = None,
        *,
        waits: Waits = Waits(),  # noqa: B008 - frozen
        pool: WarmPool | None = None,
        access: Access | None = None,
        worktrees: Path | None = None,
        free_bytes: Callable[[], int] | None = None,
        max_live: int | None = None,
    ) -> None:
        self._claude = str(claude) if claude else None
        self._waits = waits
        self._pool = pool
        self._access = access
        self._worktrees = Worktrees(worktrees) if worktrees is not None else None
        self._ahead = Ahead(build=self._command, pool=pool, waits=waits, free_bytes=free_bytes) if free_bytes else None
        self._max_live = max_live
        self._running = 0

    def start(self, order: Order, hooks: Hooks) -> AttemptHandle:
        """See Runner.

        Raises:
            InvalidRequest: The prompt could not be run by any attempt.
        """
        check_prompt(order.spec.prompt)
        attempt = Attempt(order, hooks, self._command, self._waits, self._pool, self._ahead, self._worktrees)
        self._running += 1
        attempt.on_end(self._on_end)
        # Not before the attempt had its chance to take one of those that wait.
        asyncio.get_running_loop().call_soon(self._share_out)
        return attempt

    def prepare(self, orders: Sequence[Order]) -> None:
        """See Runner."""
        self._share_out()
        if self._ahead is not None:
            self._ahead.want(orders)
            self._share_out()

    async def forget(self, job_ids: Collection[str]) -> None:
        """See Runner."""
        if self._ahead is not None:
            await self._ahead.forget(job_ids)

    def _on_end(self) -> None:
        self._running -= 1
        self._share_out()

    def _share_out(self) -> None:
        """What jobs leave of the processes that may live is for those that were started ahead, then for warm ones."""
        if self._max_live is None:
            return
        left = max(0, self._max_live - self._running)
        if self._ahead is not None:
            left -= self._ahead.keep_at_most(left)
        if self._pool is not None:
            self._pool.keep_at_most(left)

    async def tidy(self, is_over: Callable[[str], Awaitable[bool]]) -> None:
        """See Runner."""
        if self._worktrees is not None:
            await self._worktrees.tidy(is_over)

    async def close(self) -> None:
        """See Runner."""
        if self._ahead is not None:
            await self._ahead.close()
        if self._pool is not None:
            await self._pool.close()

    def _command(self, order: Order) -> Command:
        env = dict(order.spec.env)
        claude = find_claude(self._claude, env.get("PATH", ""))
        wants_text = order.spec.project is ProjectFiles.INSTRUCTIONS
        environment = {**env, **dict(order.credential.profile)}
        return build(
            order,
            claude,
            standing=standing_of(config_dir(environment), order),
            instructions=read_instructions(Path(order.spec.cwd)) if wants_text else "",
            access=self._access,
        )
