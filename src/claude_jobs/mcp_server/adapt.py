"""Between our values and MCP: errors become one line of advice, views become compact JSON and text. No tool lives here."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar, cast

import structlog
from fastmcp.exceptions import NotFoundError, ResourceError, ToolError, ValidationError
from fastmcp.resources import ResourceResult
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import ToolResult
from mcp.types import CallToolRequestParams, ReadResourceRequestParams, TextContent
from pydantic import PrivateAttr
from pydantic import ValidationError as PydanticValidationError

from claude_jobs.errors import ClaudeJobsError, JobNotFound
from claude_jobs.services.request import scrub
from claude_jobs.services.views import one_line

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


class Refusal(ToolError):
    """A tool's answer that is an error on purpose: "code: message"."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, job_id: str = "") -> None:
        super().__init__(f"{code}: {clean(message)}", log_level=logging.DEBUG)
        self.code = code
        self.message = clean(message)
        self.retryable = retryable
        self.job_id = job_id


class Reply(ToolResult):
    """A tool's answer: text for a reader, `view` for a program that called in by HTTP.

    A client that gets structured content shows its model that and drops the text, so it is one or the other.
    """

    _view: dict[str, object] = PrivateAttr(default_factory=dict[str, object])

    def __init__(self, text: str, view: Mapping[str, object], *, structured: bool) -> None:
        whole = compact(view)
        super().__init__(
            content=[TextContent(type="text", text=clean(text))], structured_content=whole if structured else None
        )
        self._view = whole

    @property
    def view(self) -> Mapping[str, object]:
        """The whole answer as JSON."""
        return self._view


def compact(view: Mapping[str, object]) -> dict[str, object]:
    """`view` without what says nothing (empty, zero, None, False), and encodable whatever a job wrote."""
    return {key: _plain(value) for key, value in view.items() if value or key in {"jobs", "models", "is_new"}}


def _plain(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return compact(cast("Mapping[str, object]", value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    return value


def clean(text: str) -> str:
    """`text` without lone surrogates: one of them would end the connection at the encoder."""
    return str(scrub(text))


def advised(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """`tool` with our errors turned into Refusals where they arise, so that nothing logs a stack trace for them."""

    @functools.wraps(tool)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except ClaudeJobsError as error:
            raise refusal(error) from error

    return wrapper


def refusal(error: ClaudeJobsError) -> Refusal:
    """`error` as a tool's answer."""
    return Refusal(error.code, error.message, retryable=error.retryable)


class Advice(Middleware):
    """Short advice in place of validation reports and internal errors."""

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        """Let the call through and translate how it failed."""
        name = context.message.name
        try:
            return await call_next(context)
        except Refusal:
            raise
        except NotFoundError as error:
            raise Refusal("unknown_tool", f"There is no tool {name!r}. Ask for tools/list.") from error
        except ValidationError as error:
            raise Refusal("invalid_arguments", _argument_advice(error.__cause__)) from error
        except ToolError as error:
            log.error("tool.failed", tool=name, exc_info=error.__cause__ or error)
            message = (
                "claude-jobs itself failed; what was accepted is safe. Look with `status`, or run `claude-jobs doctor`."
            )
            raise Refusal("internal_error", message) from error

    async def on_read_resource(
        self,
        context: MiddlewareContext[ReadResourceRequestParams],
        call_next: CallNext[ReadResourceRequestParams, ResourceResult],
    ) -> ResourceResult:
        """Let the reading through; a job that does not exist is a resource that does not exist."""
        try:
            return await call_next(context)
        except ResourceError as error:
            if isinstance(error.__cause__, JobNotFound):
                raise NotFoundError(error.__cause__.message) from error
            raise


def _argument_advice(cause: BaseException | None) -> str:
    if not isinstance(cause, PydanticValidationError):
        return "The arguments do not fit the tool's schema."
    errors = cause.errors(include_url=False, include_input=False, include_context=False)
    meant = [error for error in errors if error["type"] != "none_required"]
    advice = dict.fromkeys(_one_advice(error["loc"], error["type"], error["msg"]) for error in meant[:3])
    return "; ".join(advice) + "."


def _one_advice(location: tuple[int | str, ...], kind: str, message: str) -> str:
    where = ".".join(str(part) for part in location if isinstance(part, int) or _is_name(part))
    match kind:
        case "missing" | "missing_argument":
            return f"{where!r} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{where!r} is not a parameter"
        case _:
            return f"{where!r}: {one_line(re.sub(r'^Value error, ', '', message), 200)}"


def _is_name(part: str) -> bool:
    """Whether it names a parameter; pydantic's path also has the types of a union in it."""
    return re.fullmatch(r"[a-z_]+", part) is not None and part not in {"str", "int", "float", "bool", "none"}
