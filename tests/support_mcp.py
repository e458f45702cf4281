"""An MCP server over the real parts, with a stand-in claude, and raw JSON-RPC connections to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastmcp import FastMCP
from support_app import caller, environment, running_app, stand_in
from support_processes import PATIENCE_S

from claude_jobs.factory import App, now_ms
from claude_jobs.mcp_server.app import McpApp, ModelInfo
from claude_jobs.mcp_server.resident import Resident
from claude_jobs.mcp_server.server import build_server
from claude_jobs.services.caller import Caller
from claude_jobs.services.planner import provider_of


async def models() -> list[ModelInfo]:
    return [ModelInfo(name="sonnet", id="claude-sonnet", description="The all-rounder", is_default=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """A running worker with its MCP server; `caller` is who asks where no connection says so."""

    app: App
    server: FastMCP
    caller: Caller


def asking(app: App) -> dict[str, Any]:
    """What McpApp needs for generation."""
    return {
        "generation": app.generation,
        "oversight": app.oversight,
        "provider_of": partial(provider_of, use_local=False),
    }


@asynccontextmanager
async def surface(
    root: Path, *, seconds: float = 0.0, text: str = "done", body: str = ":", tokens: int = 3, **settings: str
) -> AsyncGenerator[Surface]:
    """The surface over a stand-in that answers `text` after `seconds`."""
    claude = stand_in(root, seconds=seconds, text=text, body=body)
    env = environment(root, CLAUDE_JOBS_CLI=str(claude), CLAUDE_JOBS_SLOTS="8", **settings)
    who = caller(root, env, tokens=tokens)
    async with running_app(env) as app:
        mcp_app = McpApp(
            jobs=app.jobs,
            **asking(app),
            models=models,
            clock=now_ms,
            default_caller=who,
        )
        yield Surface(app=app, server=build_server(mcp_app), caller=who)


class Wire:
    """A client that speaks raw lines, over a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send_line(self, line: bytes) -> None:
        self.writer.write(line + b"\n")
        await self.writer.drain()

    async def send(self, method: str, params: dict[str, Any] | None = None, *, id: int | str | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        message |= {"params": params} if params is not None else {}
        await self.send_line(json.dumps(message | ({"id": id} if id is not None else {})).encode())

    async def receive(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            return json.loads(await self.reader.readline())

    async def answer(self, id: int | str | None) -> dict[str, Any]:
        while True:
            message = await self.receive()
            if "method" not in message and message.get("id") == id:
                return message

    async def initialize(self) -> dict[str, Any]:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        await self.send("initialize", params, id=0)
        answer = await self.answer(0)
        await self.send("notifications/initialized")
        return answer

    async def call(self, id: int, name: str, arguments: dict[str, Any], *, token: str = "") -> None:
        meta = {"_meta": {"progressToken": token}} if token else {}
        await self.send("tools/call", {"name": name, "arguments": arguments, **meta}, id=id)

    async def hang_up(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def connection(resident: Resident, who: Caller) -> AsyncGenerator[Wire]:
    """One client of `resident` over a socket pair; the server side has ended when the block has."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=64 * 1024 * 1024)
    server_reader, server_writer = await asyncio.open_connection(sock=theirs)

    async def serve() -> None:
        try:
            await resident.serve(server_reader, server_writer, who)
        finally:
            server_writer.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        wire = Wire(reader, writer)
        try:
            yield wire
        finally:
            await wire.hang_up()
