"""Waiting for a job with progress on the way. Ending a wait, by time or by the client, never touches the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from fastmcp import Context

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.mcp_server.adapt import clean
from claude_jobs.mcp_server.app import McpApp, current_caller
from claude_jobs.services.bell import Bell, rung
from claude_jobs.services.jobs import Situation
from claude_jobs.services.views import job_view, one_line

MAX_WAIT_S = 110.0
"""Clients move a call to the background after 120 s."""
QUIET_S = 10.0
"""Longest silence towards the client while it waits."""
BETWEEN_S = 0.5
"""Shortest time between two reports."""


async def ended(app: McpApp, context: Context, job_id: str, wait_s: float) -> Situation:
    """The job when it ended, or as it is after `wait_s`. A caller inside a job gives its place back meanwhile.

    Raises:
        JobNotFound: There is none.
        NotPermitted: The caller is a job that this one can only end after.
    """
    watch = _Watch(app, context)
    refused: ClaudeJobsError | None = None
    async with asyncio.TaskGroup() as tasks:
        reporter = tasks.create_task(watch.report(), name=f"progress {job_id}") if wait_s > 0 else None
        try:
            waiting = app.jobs.wait(job_id, min(wait_s, MAX_WAIT_S), current_caller(app))
            changes = cast("AsyncGenerator[Situation]", waiting)
            async with aclosing(changes):
                async for situation in changes:
                    watch.saw(situation)
        except ClaudeJobsError as error:  # out of the group as itself, not as a group of one
            refused = error
        finally:
            if reporter is not None:
                reporter.cancel()
    if refused is not None:
        raise refused
    assert watch.situation is not None, "JobManager.wait yields at least once"
    return watch.situation


class _Watch:
    """The last situation seen, told to the client at every change and every QUIET_S, but not more often than BETWEEN_S."""

    def __init__(self, app: McpApp, context: Context) -> None:
        self._app = app
        self._context = context
        self._bell = Bell()
        self._since_s = asyncio.get_running_loop().time()
        self.situation: Situation | None = None

    def saw(self, situation: Situation) -> None:
        self.situation = situation
        self._bell.ring()

    async def report(self) -> None:
        told: Situation | None = None
        while True:
            ticket = self._bell.ticket()
            if self.situation is told:
                await rung(ticket, QUIET_S)
            if self.situation is None:
                continue
            if self.situation.job.is_terminal:
                return
            told = self.situation
            waited_s = asyncio.get_running_loop().time() - self._since_s
            await self._context.report_progress(round(waited_s, 3), None, self._message(told))
            await asyncio.sleep(BETWEEN_S)

    def _message(self, situation: Situation) -> str:
        view = job_view(situation, self._app.clock())
        return one_line(clean(f"{view.job_id} {view.state} {view.elapsed_s:.0f} s: {view.note}"), 200)
