"""The worker's side of the private socket: greets fronts and hands them to the MCP server or to the table of methods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from claude_jobs.errors import ClaudeJobsError, InvalidRequest, NotPermitted, StoreUnavailable
from claude_jobs.rpc import hello as hellos
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Methods, serve_methods
from claude_jobs.rpc.offer import MAX_HELLO_BYTES
from claude_jobs.rpc.peer import peer_pid, peer_uid
from claude_jobs.runner.paths import Home, private_dir

MAX_LINE_BYTES = 32 << 20
HELLO_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 1_000
_LOOK_S = 5.0
_FLUSH_S = 2.0
_BACKLOG = 512

Mcp = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Hello], Awaitable[None]]
"""Serves MCP lines on a greeted connection until the peer hangs up. The streams belong to the server, which closes them."""

Identify = Callable[[Hello], Awaitable[str]]

log = structlog.get_logger()


class Server:
    """Listens on the home's socket.

    Args:
        worker: This worker's id, told in the welcome.
        identify: Finds out which job a front runs in, "" for none; refuses one that lies about it.
        greeted: Told of every front that was welcomed; must return at once.
        uid: The only user that may connect.
    """

    def __init__(
        self,
        *,
        home: Home,
        version: str,
        worker: str,
        methods: Methods,
        mcp: Mcp,
        identify: Identify,
        greeted: Callable[[Hello], object] = lambda _: None,
        uid: int | None = None,
    ) -> None:
        self._home = home
        self._welcome = hellos.welcome_line(version, worker, os.getpid())
        self._methods = methods
        self._mcp = mcp
        self._identify = identify
        self._greeted = greeted
        self._uid = os.getuid() if uid is None else uid
        self._open: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._listening = asyncio.Event()
        self._inode = 0
        self._server: asyncio.Server  # set by `serve`

    @property
    def connections(self) -> int:
        """How many fronts are connected."""
        return len(self._open)

    async def listening(self) -> None:
        """Wait until fronts can connect."""
        await self._listening.wait()

    def close(self) -> None:
        """Stop listening; connected fronts are served until they hang up. For a hand-over."""
        self._closing.set()

    def abort(self) -> None:
        """Stop listening and hang up on everyone."""
        self.close()
        for task in self._open:
            task.cancel()

    async def serve(self) -> None:
        """Listen until `close`, then return when the last connection has ended.

        Raises:
            StoreUnavailable: There is no place for the socket.
        """
        async with asyncio.TaskGroup() as group:
            self._server = await self._listen(group)
            try:
                while not await self._closed_within(_LOOK_S):
                    await self._look(group)
            finally:
                self._server.close()
                if _inode(self._home.socket) == self._inode:
                    self._home.socket.unlink(missing_ok=True)

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """See whether fronts still find us under the socket's name."""
        found = _inode(self._home.socket)
        if not found:
            # A cleaner of /tmp or the last logout took the file away.
            await self._listen_again(group)
        elif found != self._inode:
            log.warning("rpc.superseded", socket=str(self._home.socket))
            self.close()

    async def _closed_within(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._closing.wait()
        return self._closing.is_set()

    async def _listen_again(self, group: asyncio.TaskGroup) -> None:
        try:
            now = await self._listen(group)
        except StoreUnavailable as error:
            log.warning("rpc.cannot_listen", reason=error.message)
            return
        self._server.close()
        self._server = now

    async def _listen(self, group: asyncio.TaskGroup) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = group.create_task(self._connection(reader, writer))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

        sock = _bind(self._home)
        self._inode = _inode(self._home.socket)
        server = await asyncio.start_unix_server(connected, sock=sock, limit=MAX_LINE_BYTES, backlog=_BACKLOG)
        self._listening.set()
        return server

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await self._greet(reader, writer)
            if hello is not None:
                self._greeted(hello)
                serve = self._mcp if hello.kind == "mcp" else self._serve_methods
                await serve(reader, writer, hello)
        except ConnectionError:
            log.debug("rpc.hung_up")
        except Exception:  # the boundary of a connection: one front's trouble must not end the others
            log.exception("rpc.connection_failed")
        finally:
            await _close(writer)

    async def _serve_methods(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
        await serve_methods(self._methods, reader, writer, hello)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Hello | None:
        """The hello of a welcome peer. Anyone else is told why not, and None is returned."""
        try:
            hello = await self._read_hello(reader, writer)
        except ClaudeJobsError as error:
            log.warning("rpc.refused", code=error.code, reason=error.message)
            writer.write(hellos.refusal_line(error.code, error.message))
            return None
        writer.write(self._welcome)
        await writer.drain()
        return hello

    async def _read_hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Hello:
        sock: socket.socket = writer.get_extra_info("socket")
        if peer_uid(sock) != self._uid:
            raise NotPermitted(f"This worker serves user {self._uid} only.", field="uid")
        if self.connections > MAX_CONNECTIONS:
            raise NotPermitted(f"{MAX_CONNECTIONS} fronts are connected already; close some.", field="connections")
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                line = await _hello_line(reader)
        except TimeoutError as error:
            raise InvalidRequest(f"No hello within {HELLO_TIMEOUT_S:.0f} s.", field="hello") from error
        hello = replace(hellos.parse(line), peer_pid=peer_pid(sock))
        return replace(hello, inside_job=await self._identify(hello))


async def _hello_line(reader: asyncio.StreamReader) -> bytes:
    """The first line, never holding more than a hello may have. What follows it stays in the reader."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise InvalidRequest("The first line has no end.", field="hello") from error
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError from error  # somebody who only looked whether we listen
    if len(line) > MAX_HELLO_BYTES:
        message = f"The hello has {len(line)} bytes, more than {MAX_HELLO_BYTES}."
        raise InvalidRequest(message, field="hello")
    return line


async def _close(writer: asyncio.StreamWriter) -> None:
    """Hang up, giving the peer a moment to read what was said; none when we are being cancelled."""
    try:
        writer.close()
        async with asyncio.timeout(_FLUSH_S):
            await writer.wait_closed()
    except (ConnectionError, TimeoutError):
        log.debug("rpc.unread", front="gone or not reading")
    finally:
        writer.transport.abort()


def _bind(home: Home) -> socket.socket:
    """The listening socket at its place, 0600, and the place written down for fronts with another environment."""
    private_dir(home.runtime_dir, "Remove it, or set TMPDIR to a directory of your own.")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound under a name of our own and renamed: there is no instant at which the name leads nowhere or to a wrong mode.
    temporary = home.runtime_dir / f".{os.getpid()}"
    temporary.unlink(missing_ok=True)
    try:
        sock.bind(str(temporary))
        temporary.chmod(0o600)
        sock.listen(_BACKLOG)
        temporary.rename(home.socket)
        _write_down(home.socket_note, str(home.socket))
    except OSError as error:
        sock.close()
        temporary.unlink(missing_ok=True)
        message = f"Cannot listen at {str(home.socket)!r}: {error.strerror}. Set TMPDIR to a directory of your own."
        raise StoreUnavailable(message, path=str(home.socket)) from error
    return sock


def _write_down(note: Path, text: str) -> None:
    temporary = note.with_name(f".{note.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8", "surrogateescape")
    temporary.rename(note)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
