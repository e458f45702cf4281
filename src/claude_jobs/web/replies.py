"""JSON over HTTP: bodies in, answers and errors out, and the status of each error."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TypeVar, cast

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from claude_jobs.errors import (
    ClaudeJobsError,
    InvalidRequest,
    NoRoute,
    NotPermitted,
    ProviderError,
    QuotaExceeded,
    RateExceeded,
    RateLimited,
)
from claude_jobs.services.generation_view import error_view
from claude_jobs.web.guard import AUTHORIZED

log = structlog.get_logger()

T = TypeVar("T")
View = Mapping[str, object]
Endpoint = Callable[[Request], Awaitable[Response]]

STATUS = {
    "unknown_tool": 404,
    "job_not_found": 404,
    "not_permitted": 403,
    "recursion_refused": 403,
    "key_conflict": 409,
    "no_credential": 409,
    "job_failed": 422,
    "queue_full": 429,
    "login_unknown": 503,
    "store_unavailable": 503,
    "store_corrupt": 503,
    "store_too_new": 503,
    "internal_error": 500,
    "quota_exceeded": 429,
    "rate_exceeded": 429,
    "rate_limited": 429,
    "overloaded": 503,
    "worker_unavailable": 503,
    "model_not_found": 404,
    "context_too_long": 413,
    "content_refused": 422,
    "request_refused": 400,
    "provider_timeout": 504,
    "provider_unavailable": 502,
    "bad_response": 502,
    "provider_error": 502,
    "authentication_failed": 502,  # a provider's 401 is not ours: it does not mean the token of this server
    "claude_not_found": 503,
    "spawn_failed": 503,
}
"""HTTP status by error code; everything else is the request's fault: 400."""

LARGE_BYTES = 128 * 1024
"""Bodies from here on, and those with a schema, are read in a thread: images and schemas take long to check."""


def status_of(error: ClaudeJobsError) -> int:
    """The HTTP status for `error`."""
    if isinstance(error, NoRoute):
        return 503 if error.retryable else 400
    fallback = 502 if isinstance(error, ProviderError) else 400
    return STATUS.get(error.code, fallback)


def headers_of(error: ClaudeJobsError) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, and whether to try again at all, in the word that SDKs know."""
    headers = {"X-Should-Retry": "true" if error.retryable else "false"}
    after_s = getattr(error, "retry_after_s", None)
    if isinstance(after_s, int | float) and error.retryable:
        headers["Retry-After"] = str(max(0, math.ceil(after_s)))
    elif isinstance(error, QuotaExceeded | RateExceeded | RateLimited) and error.retryable:
        headers["Retry-After"] = "1"
    return headers


def encoded(view: object) -> bytes:
    """`view` as JSON. What a model wrote may hold half a character: it becomes "?"."""
    return json.dumps(view, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def reply(view: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer as JSON."""
    return Response(encoded(view), status_code=status, headers=headers, media_type="application/json")


def refusal(error: ClaudeJobsError) -> Response:
    """An error as JSON."""
    return reply({"error": error_view(error)}, status_of(error), headers_of(error))


def internal_view() -> dict[str, object]:
    """What a caller is told of a fault of ours."""
    message = "claude-jobs itself failed; its log says why. Run `claude-jobs doctor`."
    return {"code": "internal_error", "message": message, "retryable": False}


def guarded(endpoint: Callable[[T, Request], Awaitable[Response]]) -> Callable[[T, Request], Awaitable[Response]]:
    """`endpoint`, whose errors are answers: ours with their status, a fault of the program as 500 and in the log."""

    @wraps(endpoint)
    async def wrapper(self: T, request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except ClaudeJobsError as error:
            return refusal(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:
            # The boundary of a request: it is answered whatever happens, and logged.
            log.exception("http.failed", path=request.url.path)
            return reply({"error": internal_view()}, 500)

    return wrapper


async def body_of(request: Request) -> dict[str, object]:
    """The JSON object in the body.

    Raises:
        InvalidRequest: There is none.
    """
    body = await request.body()
    data = await asyncio.to_thread(_object, body) if len(body) > LARGE_BYTES else _object(body)
    if data is None:
        raise InvalidRequest("The body is not JSON. Send one JSON object.", field="body")
    return data


async def checked(data: Mapping[str, object], make: Callable[[], T], request: Request) -> T:
    """`make()`, in a thread if it may take long. Raises NotPermitted for an organization that is named without the token."""
    if data.get("org") and not request.scope.get(AUTHORIZED, True):
        message = "Whose quota pays (`org`) is for those who bring the token to say. Leave it out, or send the token."
        raise NotPermitted(message, field="org")
    length = request.headers.get("content-length", "")
    is_large = not length.isdecimal() or int(length) > LARGE_BYTES
    if is_large or "output_schema" in data or "response_format" in data or "items" in data:
        return await asyncio.to_thread(make)
    return make()


def _object(body: bytes) -> dict[str, object] | None:
    try:
        data: object = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", data) if isinstance(data, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
