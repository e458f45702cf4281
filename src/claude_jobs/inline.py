"""The server without a worker: FastMCP over the process's own stdio, its jobs beside it. For sandboxes and tests."""

from __future__ import annotations

import asyncio
import os
import signal

import structlog

from claude_jobs.factory import App, open_app
from claude_jobs.front_desk import mcp_of
from claude_jobs.lifecycle import configured, own_hello, run_to_end, take_credentials
from claude_jobs.rpc.table import caller_of
from claude_jobs.runner.paths import Home
from claude_jobs.runner.sweep import sweep
from claude_jobs.settings import Settings

log = structlog.get_logger()

INLINE_STOP_S = 0.2
"""Claude Code sends SIGKILL about half a second after SIGINT; the rest is for ending what does not stop."""


class InlineServer:
    """FastMCP over this process's stdin and stdout, with the worker beside it.

    Jobs that run when the session ends are set aside, and resumed by whoever opens the state next.
    """

    def __init__(self, settings: Settings, home: Home, *, executor: bool) -> None:
        self._settings = settings
        self._home = home
        self._executor = executor

    async def run(self) -> int:
        """Serve until stdin ends or a signal comes. The exit status."""
        async with open_app(self._settings, self._home) as app:
            await app.desk.tokens.restore(())
            hello = await own_hello(app)
            caller = caller_of(hello, app.submitter)
            server = mcp_of(app, caller)
            from claude_jobs.mcp_server.stdio import serve_stdio

            loop = asyncio.get_running_loop()
            async with asyncio.TaskGroup() as tasks:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    loop.add_signal_handler(number, lambda n=number: tasks.create_task(self._killed(app, n)))
                if self._executor:
                    tasks.create_task(app.worker.run(), name="worker")
                    tasks.create_task(take_credentials(app, hello), name="credentials")
                await serve_stdio(server, caller)
                await app.worker.leave(0.0)
        return 0

    async def _killed(self, app: App, number: int) -> None:
        """SIGKILL is near: set the jobs aside, end what does not stop, and go without waiting for the reader in stdin."""
        try:
            async with asyncio.timeout(INLINE_STOP_S):
                await app.worker.leave(0.0)
        except TimeoutError:
            killed = sweep(f"{self._home.home_id}:{app.worker.owner}:")
            log.warning("inline.stopped_early", killed=killed)
        finally:
            os._exit(128 + number)


def run_inline(*, executor: bool = True) -> int:
    """Main of `claude-jobs mcp` without a worker: FastMCP over this process's own stdio.

    Args:
        executor: Whether jobs run here; else they queue until a worker comes.
    """
    home, settings = configured(os.environ)
    if settings is None:
        return os.EX_CONFIG
    return run_to_end(InlineServer(settings, home, executor=executor).run)
