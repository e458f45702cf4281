"""The life of a serving process: what is started in which order, when it leaves, and what it leaves behind.

`WorkerProcess` is the resident worker below its keeper; the server without a worker is in inline.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from claude_jobs import __version__
from claude_jobs import log as logs
from claude_jobs.domain.job import PublicState
from claude_jobs.errors import ClaudeJobsError, NoTokenAvailable
from claude_jobs.factory import App, now_ms, open_app
from claude_jobs.front_desk import FrontDesk
from claude_jobs.rpc import hello as hellos
from claude_jobs.rpc.generation import generation_methods
from claude_jobs.rpc.hand_over import hand_over
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.keeper_link import KeeperLink
from claude_jobs.rpc.oversight import oversight_methods
from claude_jobs.rpc.server import Server
from claude_jobs.rpc.table import Control, build_methods, caller_of
from claude_jobs.runner.paths import Home
from claude_jobs.services.bell import rung
from claude_jobs.services.health import health
from claude_jobs.services.worker import Worker
from claude_jobs.settings import Settings, load
from claude_jobs.web.token import http_token

if TYPE_CHECKING:
    pass

log = structlog.get_logger()

IDLE_LOOK_S = 1.0
_UNFINISHED = (PublicState.QUEUED, PublicState.RUNNING, PublicState.BLOCKED)


class WorkerProcess:
    """One resident worker, from the keeper's start to its leave."""

    def __init__(self, settings: Settings, home: Home, *, keeper_fd: int | None, with_http: bool) -> None:
        self._settings = settings
        self._home = home
        self._keeper_fd = keeper_fd
        self._with_http = with_http
        self._link: KeeperLink | None = None
        self._worker: Worker | None = None
        self._leave = asyncio.Event()
        self._grace_s = 0.0
        self._is_stepping_aside = False
        self._is_idle = False
        self._started_ms = now_ms()
        self._busy_at = time.monotonic()
        self._front_desk = FrontDesk()

    async def run(self) -> int:
        """Serve and work until told to leave. The exit status."""
        self._link = await KeeperLink.open(self._keeper_fd) if self._keeper_fd is not None else None
        link = self._link
        opening = open_app(
            self._settings,
            self._home,
            keeper_pid=os.getppid() if link else 0,
            is_reachable=True,
            on_credentials=link.hold if link else None,
        )
        async with opening as app:
            self._worker = app.worker
            await app.desk.tokens.restore(link.held if link else ())
            async with asyncio.TaskGroup() as tasks:
                server = self._server(app, lambda hello: tasks.create_task(take_credentials(app, hello)))
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, self._told_to_leave, self._settings.drain_s)
                serving = tasks.create_task(server.serve(), name="socket")
                working = tasks.create_task(app.worker.run(), name="worker")
                fronting = tasks.create_task(self._front_desk.open(app), name="front desk")
                chores = [
                    tasks.create_task(self._watch_idle(app, server), name="idle"),
                    tasks.create_task(self._watch_keeper(server), name="keeper"),
                ]
                if self._with_http:
                    chores.append(tasks.create_task(self._open_http(app), name="http"))
                await self._leave.wait()
                log.info("process.leaving", grace_s=self._grace_s, stepping_aside=self._is_stepping_aside)
                server.close()
                await app.worker.leave(self._grace_s)
                await working
                if link is not None and not await self._is_called_back(app, server, serving):
                    await link.done()
                for chore in chores:
                    chore.cancel()
                server.abort()
                self._front_desk.close()
                await asyncio.wait([serving, fronting])
        return 0

    def _server(self, app: App, greeted: Callable[[Hello], object]) -> Server:
        control = Control(
            health=lambda: health(app.desk, app.worker, server.connections, self._facts(), os.environ.get("PATH", "")),
            step_aside=self._step_aside_of(app, lambda: server.close()),
            stop=self._stop,
            http=lambda port: self._http(app, port),
            lend=app.generation.keys.lend,
            default_model=self._settings.model,
        )

        async def mcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
            resident = await self._front_desk.resident()
            await resident.serve(reader, writer, caller_of(hello, app.submitter))

        server = Server(
            home=self._home,
            version=__version__,
            worker=app.worker.owner,
            methods={
                **build_methods(jobs=app.jobs, desk=app.desk, control=control, submitter=app.submitter),
                **oversight_methods(app.oversight),
                **generation_methods(generation=app.generation, book=app.batches, submitter=app.submitter),
            },
            mcp=mcp,
            identify=lambda hello: identified(app, hello),
            greeted=greeted,
        )
        return server

    def _facts(self) -> dict[str, object]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "keeper_pid": os.getppid() if self._link else 0,
            "started_ms": self._started_ms,
            "home": str(self._home.root),
            "home_id": self._home.home_id,
            "notice": self._home.notice,
            "http": self._front_desk.http_url,
            "cli": self._settings.cli,
            "slots": self._settings.slots,
        }

    def _told_to_leave(self, grace_s: float, *, is_idle: bool = False) -> None:
        """Whoever says it twice means: now."""
        self._is_idle = is_idle and not self._leave.is_set()
        self._grace_s = 0.0 if self._leave.is_set() else grace_s
        if self._leave.is_set() and self._worker is not None:
            self._worker.hurry()
        self._leave.set()

    async def _stop(self, grace_s: float) -> None:
        self._told_to_leave(grace_s)

    def _step_aside_of(self, app: App, close: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def step_aside() -> None:
            """Let a successor be elected at once; leave when the jobs that run here have ended."""
            log.info("process.stepping_aside", jobs=app.worker.running)
            self._is_stepping_aside = True
            app.worker.pause()
            close()
            if self._link is not None:
                self._link.release()

        return step_aside

    async def _watch_idle(self, app: App, server: Server) -> None:
        while not self._is_stepping_aside:
            await asyncio.sleep(IDLE_LOOK_S)
            if server.connections or app.worker.running or await _has_work(app):
                self._busy_at = time.monotonic()
            elif time.monotonic() - self._busy_at >= self._settings.idle_s and not self._front_desk.http_url:
                log.info("process.idle", idle_s=self._settings.idle_s)
                self._told_to_leave(0.0, is_idle=True)
                return
        await hand_over(self._home, app.desk.tokens.offered())
        while app.worker.running:
            await rung(app.desk.work.ticket(), IDLE_LOOK_S)
        self._told_to_leave(0.0)

    async def _is_called_back(self, app: App, server: Server, serving: asyncio.Task[None]) -> bool:
        """Whether a front brought work while we left for want of it: then the keeper starts the next worker at once."""
        if not self._is_idle:
            return False
        server.abort()
        await asyncio.wait([serving])  # what is accepted now was accepted before we look
        return await _has_work(app)

    async def _watch_keeper(self, server: Server) -> None:
        if self._link is not None:
            await server.listening()
            self._link.up()
            await self._link.gone()
            log.error("process.keeper_gone")
            self._told_to_leave(0.0)

    async def _http(self, app: App, port: int | None) -> dict[str, object]:
        wanted = self._settings.mcp_port if port is None else port
        url = await self._front_desk.open_http(
            app, wanted, self._settings.http_auth, http_token(self._home.http_token_file)
        )
        return {"url": url, "token_file": str(self._home.http_token_file)}

    async def _open_http(self, app: App) -> None:
        answer = await self._http(app, None)
        log.info("http.open", **answer)


async def identified(app: App, hello: Hello) -> str:
    """The job that a front runs in, "" for none. Raises NotPermitted for one that lies about it."""
    lineage = hello.lineage
    return await app.recursion.identify(
        job_id=lineage.job if lineage else "",
        epoch=lineage.epoch if lineage else 0,
        secret=lineage.secret if lineage else "",
        pid=hello.peer_pid,
    )


async def take_credentials(app: App, hello: Hello) -> None:
    """What a front brings may be what waiting jobs need: after a reboot nobody else has their tokens."""
    held = app.desk.tokens.held()
    if hello.inside_job:
        return  # what a job's environment holds was given to it by us
    try:
        if not hello.credentials and not await _has_work(app):
            return
        await app.desk.tokens.offer(caller_of(hello, app.submitter))
    except NoTokenAvailable:
        return
    except ClaudeJobsError as error:  # one front's trouble must not end the worker; its submit will hear of it
        log.warning("tokens.not_taken", code=error.code, error=error.message)
        return
    if app.desk.tokens.held() != held:
        app.desk.work.ring()


async def _has_work(app: App) -> bool:
    counts = await app.jobs.counts()
    return any(counts.by_state.get(state, 0) for state in _UNFINISHED)


async def own_hello(app: App) -> Hello:
    """What this process would say to a worker. Raises NotPermitted if it lies about the job it runs in."""
    hello = replace(hellos.parse(hellos.build(os.environ, "mcp")), peer_pid=os.getpid())
    return replace(hello, inside_job=await identified(app, hello))


def run_worker(argv: Sequence[str]) -> int:
    """Main of the worker process: `--home DIR [--keeper-fd N] [--http]`. The keeper starts it."""
    home, settings = configured({**os.environ, "CLAUDE_JOBS_HOME": _option(argv, "--home")})
    if settings is None:
        return os.EX_CONFIG
    keeper_fd = _option(argv, "--keeper-fd")
    fd = int(keeper_fd) if keeper_fd else None

    async def serve() -> int:
        return await WorkerProcess(settings, home, keeper_fd=fd, with_http="--http" in argv).run()

    return run_to_end(serve)


def configured(environ: Mapping[str, str]) -> tuple[Home, Settings | None]:
    """The home and its settings, with the log opened; None for settings that are wrong, and why has been told."""
    logs.bear_loss()
    home = Home.resolve(environ)
    try:
        settings = load(environ, home.env_file)
    except ClaudeJobsError as error:
        sys.stderr.write(f"claude-jobs: {error.message}\n")
        return home, None
    logs.configure(settings.log_level)
    return home, settings


def run_to_end(main: Callable[[], Coroutine[object, object, int]]) -> int:
    """The exit status of a server's main; what keeps it from serving is told in one line."""
    try:
        return asyncio.run(main())
    except* ClaudeJobsError as group:  # alone, or from a task
        error = _first(group)
    sys.stderr.write(f"claude-jobs: {error.message}\n")
    return os.EX_CONFIG if not error.retryable else os.EX_TEMPFAIL


def _first(group: BaseExceptionGroup[ClaudeJobsError]) -> ClaudeJobsError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _option(argv: Sequence[str], name: str) -> str:
    return argv[argv.index(name) + 1] if name in argv else ""
