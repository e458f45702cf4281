"""Serving HTTP inside a running event loop: a loopback socket, uvicorn without its signal handlers, a bounded close."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from claude_jobs.errors import WorkerUnavailable
from claude_jobs.web.app import HttpApp, build_http
from claude_jobs.web.guard import CONNECTION, Connection

log = structlog.get_logger()

HOST = "127.0.0.1"
PORTS_TRIED = 50
MAX_REQUESTS = 256
"""Connections at once; more are answered with 503."""
DRAIN_S = 2
"""Time open answers get on close."""


class RunningHttp:
    """HTTP that is being served. Owns the task that does it."""

    def __init__(self, server: _Server, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}/"
        # A context of its own: requests are nobody's from the connection that asked for HTTP to be opened.
        self._task = asyncio.get_running_loop().create_task(
            server.serve(sockets=[listener]), name="http", context=contextvars.Context()
        )

    async def ready(self) -> None:
        """Wait until requests are answered. Raises WorkerUnavailable if the application does not start."""
        started = asyncio.ensure_future(self._server.is_up.wait())
        try:
            await asyncio.wait((started, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if self._task.done():
            self._listener.close()
            await self._task

    async def close(self) -> None:
        """Stop listening, give open answers DRAIN_S, and end. Idempotent."""
        self._server.should_exit = True
        await asyncio.wait((self._task,))
        self._listener.close()


async def serve_http(app: HttpApp, port: int) -> RunningHttp:
    """Serve `app` on loopback at `port`, or the next free one (0: any).

    Raises:
        WorkerUnavailable: No port was free, or the application did not start.
    """
    listener = _listen(port)
    web = build_http(replace(app, port=listener.getsockname()[1]))
    config = uvicorn.Config(
        web,
        http=_Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        limit_concurrency=MAX_REQUESTS,
        timeout_graceful_shutdown=DRAIN_S,
    )
    running = RunningHttp(_Server(config), listener)
    await running.ready()
    log.info("http.serving", port=running.port)
    return running


def _listen(port: int) -> socket.socket:
    candidates = range(port, min(port + PORTS_TRIED, 65_536)) if port else (0,)
    for candidate in candidates:
        # With the protocol by name asyncio sets TCP_NODELAY; without, each answer waits 40 ms for an acknowledgement.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
        else:
            listener.setblocking(False)
            return listener
    raise WorkerUnavailable(f"No port is free from {port} on. Set MCP_PORT to another one.")


class _Protocol(H11Protocol):
    """HTTP on one connection, whose requests know that they came by the same one."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, CONNECTION: Connection()}


class _Server(uvicorn.Server):
    """A uvicorn that leaves the process's signals alone and tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """The worker's own handlers stay."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, and told. It exits the process where it cannot start; this process has other things to do."""
        try:
            await super().startup(sockets)
        except SystemExit as error:
            raise WorkerUnavailable("HTTP could not be opened. See the worker's log.") from error
        self.is_up.set()
