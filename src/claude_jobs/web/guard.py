"""Who may talk to the HTTP surface: Host, Origin, bearer token and size of every request. No endpoint lives here."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 32 * 1024 * 1024
OPEN = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/tools/list_models"),
        ("POST", "/tools/list_models"),
        ("POST", "/tools/generate"),
        ("GET", "/v1/models"),  # list_models and generate by other names
        ("POST", "/v1/chat/completions"),
    }
)
"""What CLAUDE_JOBS_HTTP_AUTH=none opens. Nothing that starts an agent or shows another's work."""


AUTHORIZED = "claude_jobs.authorized"
"""In the scope of a request: whether it brought the token, also where none is needed."""


IsOfAJob = Callable[[tuple[str, int]], Awaitable[bool | None]]
"""Whether a process of a job is at that address and port; None if no job runs, which may be otherwise a moment later."""
CONNECTION = "connection"


class Connection:
    """What is known of one TCP connection, in the `state` of its requests: looking costs milliseconds, the answer stays."""

    __slots__ = ("is_of_a_job",)

    def __init__(self) -> None:
        self.is_of_a_job: bool | None = None


class Guard:
    """ASGI middleware. A page of another site can make a browser send requests here: names other than loopback are refused.

    Args:
        is_of_a_job: Whether the client at (address, port) is a process of a job: it has its own way in, which keeps its limits.
    """

    def __init__(self, app: ASGIApp, *, token: str, is_open: bool, port: int, is_of_a_job: IsOfAJob) -> None:
        self._app = app
        self._token = token.encode()
        self._is_open = is_open
        self._is_of_a_job = is_of_a_job
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = frozenset(f"{name}:{port}" for name in names)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is None and await self._comes_from_a_job(scope):
            message = (
                "A job asks over the claude-jobs server that it was given, or with `claude-jobs spawn`, not over HTTP."
            )
            refused = _error(403, "not_permitted", message)
        if refused is not None:
            await refused(scope, receive, send)
            return
        body = _Body(receive, send)
        try:
            await self._app(scope, body.receive, body.send)
        except _TooLargeError:
            if body.is_answered:
                raise
            await _too_large()(scope, receive, send)

    async def _comes_from_a_job(self, scope: Scope) -> bool:
        connection = scope.get("state", {}).get(CONNECTION)
        if not isinstance(connection, Connection):
            connection = Connection()
        if connection.is_of_a_job is None and scope["client"]:
            connection.is_of_a_job = await self._is_of_a_job(scope["client"])
        return bool(connection.is_of_a_job)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        if scope["type"] != "http":
            return _error(403, "not_http", "Only HTTP is spoken here.")
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _error(
                421, "wrong_host", "This server answers to 127.0.0.1, localhost and [::1] with its port only."
            )
        if any(origin.lower() not in self._origins for origin in headers.getlist("origin")):
            return _error(403, "wrong_origin", "Requests from pages of other sites are refused.")
        if not self._may(scope, headers):
            message = "Send `Authorization: Bearer <token>`; `claude-jobs token` prints it."
            return _error(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return _too_large()
        return None

    def _may(self, scope: Scope, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        has_token = (
            secrets.compare_digest(given.strip().encode(), self._token)
            and kind.lower() == "bearer"
            and bool(self._token)
        )
        scope[AUTHORIZED] = has_token
        return has_token or (self._is_open and (scope["method"], scope["path"]) in OPEN)


class _TooLargeError(Exception):
    """A body without a length turned out too large."""


class _Body:
    """Counts what comes in, and notes whether an answer has begun."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._received = 0
        self.is_answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > MAX_BODY_BYTES:
            raise _TooLargeError
        return message

    async def send(self, message: Message) -> None:
        self.is_answered = True
        await self._send(message)


def _too_large() -> JSONResponse:
    return _error(413, "too_large", f"The body is longer than {MAX_BODY_BYTES} bytes.", {"Connection": "close"})


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    error = {"code": code, "message": message, "retryable": False}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
