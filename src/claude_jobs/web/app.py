"""The HTTP surface: generation, tools over REST, remote MCP, health. Everything goes through the same guard."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from fastmcp import FastMCP
from mcp_types import Tool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from claude_jobs import __version__
from claude_jobs.errors import StoreError
from claude_jobs.mcp_server.adapt import Refusal, Reply
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Generation
from claude_jobs.services.generation_batch import BatchBook
from claude_jobs.services.jobs import JobManager
from claude_jobs.web.generate import POSTED, GenerateEndpoints
from claude_jobs.web.guard import Guard
from claude_jobs.web.openai import OpenAiEndpoints
from claude_jobs.web.openapi import document
from claude_jobs.web.replies import STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpApp:
    """The parts behind the HTTP surface.

    Attributes:
        caller: Who asks over HTTP, now: whose keys are used, and whose tokens pay for jobs.
        token: The bearer token every request must carry.
        auth: "none" opens generate, list_models and health; anything else opens nothing.
        port: Where it is served; part of the Host and Origin that are accepted.
        is_of_a_job: Whether a process of a job is at (address, port), talking to our port; None if no job runs.
    """

    mcp: FastMCP[Any]
    jobs: JobManager
    token: str = field(repr=False)
    generation: Generation
    book: BatchBook
    caller: Callable[[], Caller]
    auth: str = "token"
    port: int = 0
    is_of_a_job: Callable[[tuple[str, int], int], Awaitable[bool | None]]


def build_http(app: HttpApp) -> Starlette:
    """The ASGI application. Its lifespan runs the remote MCP sessions."""
    remote = app.mcp.http_app(path="/mcp", host_origin_protection=False)  # the guard does it, for every path
    surface = _Surface(app)
    generate = GenerateEndpoints(app.generation, app.book, app.caller, partial(surface.run, "generate"))

    def lifespan(_: Starlette) -> AbstractAsyncContextManager[Any]:
        return remote.router.lifespan_context(remote)

    return Starlette(
        routes=[
            Route("/", surface.index, methods=["GET"]),
            Route("/health", surface.health, methods=["GET"]),
            Route("/tools", surface.tools, methods=["GET"]),
            *generate.routes(),
            *OpenAiEndpoints(app.generation, app.caller).routes(),
            Route("/openapi.json", document, methods=["GET"]),
            Route("/tools/{name}", surface.look, methods=["GET"]),
            Route("/tools/{name}", surface.call, methods=["POST"]),
            Mount("/", app=remote),
        ],
        middleware=[
            Middleware(
                Guard,
                token=app.token,
                is_open=app.auth == "none",
                port=app.port,
                is_of_a_job=lambda client: app.is_of_a_job(client, app.port),
            )
        ],
        lifespan=lifespan,
    )


class _Surface:
    """The endpoints."""

    def __init__(self, app: HttpApp) -> None:
        self._mcp = app.mcp
        self._jobs = app.jobs

    async def index(self, request: Request) -> Response:
        """What is here."""
        tools = await self._tools()
        paths = {name: f"{'GET, ' if _is_read_only(tool) else ''}POST /tools/{name}" for name, tool in tools.items()}
        return JSONResponse(
            {
                "name": "claude-jobs",
                "version": __version__,
                "health": "/health",
                "mcp": "/mcp",
                "openapi": "/openapi.json",
                "openai": "/v1",
                "tools": paths,
                "generation": [f"POST /tools/{name}" for name in POSTED],
            }
        )

    async def health(self, request: Request) -> Response:
        """Whether the worker lives and reaches its store."""
        try:
            counts = await self._jobs.counts()
        except StoreError as error:
            return _error(error.code, error.message)
        by_state = {state.value: count for state, count in counts.by_state.items()}
        return JSONResponse({"status": "ok", "version": __version__, "jobs": by_state, "unread": counts.unread})

    async def tools(self, request: Request) -> Response:
        """The tools with their parameters."""
        tools = (await self._tools()).values()
        shown = [{"name": t.name, "description": t.description, "input_schema": t.input_schema} for t in tools]
        return JSONResponse({"tools": shown})

    async def look(self, request: Request) -> Response:
        """A tool that only looks, its arguments in the query."""
        name = request.path_params["name"]
        if name in POSTED:
            return _not_read_only(name)
        tool = (await self._tools()).get(name)
        if tool is None:
            return _error("unknown_tool", f"There is no tool {name!r}. GET /tools lists them.")
        if not _is_read_only(tool):
            return _not_read_only(name)
        return await self.run(name, _query_arguments(request, tool))

    async def call(self, request: Request) -> Response:
        """Any tool, its arguments as the JSON object in the body."""
        body = await request.body()
        try:
            arguments = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            return _error("invalid_json", "The body is not JSON. Send the tool's arguments as one JSON object.")
        if not isinstance(arguments, dict):
            return _error("invalid_json", "The body is not a JSON object. Send the tool's arguments as one.")
        return await self.run(request.path_params["name"], cast("dict[str, Any]", arguments))

    async def run(self, name: str, arguments: dict[str, Any]) -> Response:
        """One tool of the MCP server."""
        try:
            result = await self._mcp.call_tool(name, arguments)
        except Refusal as error:
            return _error(error.code, error.message, retryable=error.retryable, job_id=error.job_id)
        assert isinstance(result, Reply), "every tool of ours answers with a Reply"
        return JSONResponse(dict(result.view))

    async def _tools(self) -> dict[str, Tool]:
        return {tool.name: tool.to_mcp_tool() for tool in await self._mcp.list_tools()}


def _not_read_only(name: str) -> JSONResponse:
    message = f"{name!r} changes something: POST its arguments as a JSON object."
    return _error("not_read_only", message, status=405, headers={"Allow": "POST"})


def _is_read_only(tool: Tool) -> bool:
    return bool(tool.annotations and tool.annotations.read_only_hint)


def _query_arguments(request: Request, tool: Tool) -> dict[str, Any]:
    """Query values as the schema wants them: a list where it says array, the last one elsewhere."""
    properties = cast("Mapping[str, Mapping[str, object]]", tool.input_schema.get("properties", {}))
    query = request.query_params
    return {
        name: query.getlist(name) if properties.get(name, {}).get("type") == "array" else query[name] for name in query
    }


def _error(
    code: str,
    message: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    retryable: bool = False,
    job_id: str = "",
) -> JSONResponse:
    error: dict[str, object] = {"code": code, "message": message, "retryable": retryable}
    if job_id:
        error["job_id"] = job_id
    return JSONResponse({"error": error}, status_code=status or STATUS.get(code, 400), headers=headers)
