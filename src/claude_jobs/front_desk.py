"""The MCP and HTTP sides of a serving process, opened beside its running jobs."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import structlog

from claude_jobs.factory import App, now_ms
from claude_jobs.rpc import hello as hellos
from claude_jobs.rpc.table import caller_of
from claude_jobs.runner.sockets import is_held_below
from claude_jobs.services.bell import rung
from claude_jobs.services.caller import Caller
from claude_jobs.services.models import CLI_MODELS

if TYPE_CHECKING:
    from fastmcp import FastMCP

    from claude_jobs.mcp_server.resident import Resident
    from claude_jobs.web.serve import RunningHttp

log = structlog.get_logger()

FRONT_AFTER_S = 1.0
"""Without a session waiting for it, the MCP side is imported this much later: jobs taken over from a dead worker go first."""


class FrontDesk:
    """The MCP and HTTP sides, opened beside the running worker: importing them takes longer than starting jobs may wait."""

    def __init__(self) -> None:
        self._ready: asyncio.Future[Resident] = asyncio.get_running_loop().create_future()
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._mcp: FastMCP[Any] | None = None
        self._http: RunningHttp | None = None
        self._http_lock = asyncio.Lock()

    @property
    def http_url(self) -> str:
        """Where HTTP is served, "" if it is not."""
        return self._http.url if self._http is not None else ""

    async def open(self, app: App) -> None:
        """Import FastMCP, enter the server's lifespan, and stay until `close`. Connected bridges wait for it."""
        await rung(self._wanted, FRONT_AFTER_S)
        if self._closing.is_set():
            return
        await asyncio.to_thread(_import, _FRONT)
        from claude_jobs.mcp_server.resident import Resident

        self._mcp = mcp_of(app, caller_of(hellos.parse(hellos.build(os.environ, "mcp")), app.submitter))
        async with Resident(self._mcp) as resident:
            self._ready.set_result(resident)
            log.info("front_desk.open")
            await asyncio.to_thread(_import, _LATER)
            await self._closing.wait()
            if self._http is not None:
                await self._http.close()

    async def resident(self) -> Resident:
        """The resident MCP server, when it is ready."""
        self._wanted.set()
        return await asyncio.shield(self._ready)

    async def open_http(self, app: App, port: int, auth: str, token: str) -> str:
        """Serve HTTP if it is not served yet. Its address."""
        await self.resident()
        async with self._http_lock:
            if self._http is None:
                from claude_jobs.web.app import HttpApp
                from claude_jobs.web.serve import serve_http

                assert self._mcp is not None, "the resident is there, so the server is"
                caller = caller_of(hellos.parse(hellos.build(os.environ, "mcp")), app.submitter)
                web = HttpApp(
                    generation=app.generation,
                    book=app.batches,
                    caller=lambda: caller,
                    mcp=self._mcp,
                    jobs=app.jobs,
                    token=token,
                    auth=auth,
                    is_of_a_job=partial(_is_of_a_job, app),
                )
                self._http = await serve_http(web, port)
        return self.http_url

    def close(self) -> None:
        """Have `open` end."""
        self._closing.set()
        self._wanted.set()


IMPORT_SWITCH_S = 0.0005
"""While a thread imports, the event loop gets its turn ten times as often as usual."""
_FRONT = ("claude_jobs.mcp_server.server", "claude_jobs.mcp_server.resident")
_LATER = ("fastmcp.server.event_store", "claude_jobs.web.serve")
"""What the first tools/list and HTTP need, half a second of imports: made when the first connection can be answered."""


def _import(names: Sequence[str]) -> None:
    """Everything a front may need, now: a package that is upgraded under our feet must not be imported half-new later.

    Without collections in between: there is no garbage in half a million new module objects (0.75x the time).
    """
    for name, value in _FASTMCP_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gc.disable()  # `entry` did so before our own modules
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(IMPORT_SWITCH_S)
    try:
        for name in names:
            import_module(name)
    finally:
        sys.setswitchinterval(before_s)
        gc.freeze()
        gc.enable()


_FASTMCP_ENVIRONMENT = {
    "FASTMCP_LOG_ENABLED": "false",
    "FASTMCP_CHECK_FOR_UPDATES": "off",
    "PY_KEY_VALUE_DISABLE_BEARTYPE": "true",
}
"""What FastMCP and its key-value store read when they are imported: our log is the log, and nothing of it is wanted."""


def mcp_of(app: App, caller: Caller) -> FastMCP[Any]:
    """The MCP server over the parts. `caller` asks where a connection does not say who does (stdio, HTTP)."""
    _import(_FRONT)
    from claude_jobs.mcp_server.app import McpApp, ModelInfo
    from claude_jobs.mcp_server.server import build_server
    from claude_jobs.services.planner import provider_of

    default = app.settings.model

    async def models() -> list[ModelInfo]:
        return [
            ModelInfo(name=m.name, id=m.id, description=m.description, is_default=m.name == default) for m in CLI_MODELS
        ]

    parts = McpApp(
        jobs=app.jobs,
        generation=app.generation,
        oversight=app.oversight,
        provider_of=partial(provider_of, use_local=app.settings.use_local_llm),
        models=models,
        clock=now_ms,
        default_caller=caller,
    )
    return build_server(parts)


async def _is_of_a_job(app: App, client: tuple[str, int], port: int) -> bool | None:
    """Whether a process below us, or below our keeper, talks to our port: all of them belong to jobs. None: none runs."""
    if not app.worker.running:
        return None
    root = app.keeper_pid or os.getpid()
    return await asyncio.to_thread(is_held_below, root, client, port)
