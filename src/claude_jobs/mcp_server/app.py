"""What the MCP server works with, and who is asking: values handed in by the factory, the caller by its connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from fastmcp import Context
from fastmcp.dependencies import CurrentContext

from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Generation
from claude_jobs.services.jobs import JobManager
from claude_jobs.services.oversight import Oversight


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that jobs may name.

    Attributes:
        name: What to write into `model` ("sonnet").
        id: What it stands for today, "" if only the CLI knows.
    """

    name: str
    id: str = ""
    description: str = ""
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class McpApp:
    """The parts behind the tools.

    Attributes:
        provider_of: Which provider (provider, model) as asked for mean; raises InvalidRequest for one nobody knows.
        clock: Wall clock in milliseconds.
        default_caller: Who asks where no connection says so (HTTP, inline).
    """

    jobs: JobManager
    generation: Generation
    oversight: Oversight
    provider_of: Callable[[str, str], str]
    models: Callable[[], Awaitable[Sequence[ModelInfo]]]
    clock: Callable[[], int]
    default_caller: Caller


_CALLER: ContextVar[Caller | None] = ContextVar("claude_jobs_caller", default=None)


@contextmanager
def calling(caller: Caller) -> Generator[None]:
    """Everything started inside is asked by `caller`."""
    reset = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(reset)


def current_caller(app: McpApp) -> Caller:
    """Who asks: the connection this call came in by, else the app's default."""
    return _CALLER.get() or app.default_caller


def current_app(context: Context = CurrentContext()) -> McpApp:  # noqa: B008 (how FastMCP injects)
    """The app of the running server."""
    app = context.lifespan_context["app"]
    assert isinstance(app, McpApp)
    return app
