"""The rehearsal API itself: a loopback server that plays a script to whoever speaks a provider's dialect, Claude Code above all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Self

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal import routes
from claude_jobs.rehearsal.batches import Batches, Played
from claude_jobs.rehearsal.call import Call
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.http import MAX_HEAD_BYTES, BadHttp, Connection, HttpRequest
from claude_jobs.rehearsal.perform import pause, perform, send, status_of
from claude_jobs.rehearsal.play import ANYBODY, Play, Turn
from claude_jobs.rehearsal.routes import Route
from claude_jobs.rehearsal.script import Script, Token
from claude_jobs.rehearsal.wires.base import Reply, Wire, json_reply

_LOGGED_REQUESTS = 10_000
_MAX_LOGGED_BODY = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for an answer, logged when that was decided (before any delay); look-ups are logged alike, but apart.

    Attributes:
        at: Epoch seconds.
        token: Name of the token, "" if it is not known.
        status: HTTP status of the answer; 0 for a fault without one.
        step: Rounds of tool calls done before this request.
        provider: "claude", "openai", "gemini", "llama", "grok" or "qwen".
        path: Without the provider's prefix.
        body: What was asked; of more than 32 KB only what is no text, list or object.
    """

    at: float
    token: str
    model: str
    n_messages: int
    prompt: str
    conversation: str
    step: int
    status: int
    fault: Fault | None = None
    provider: str = "claude"
    path: str = ""
    stream: bool = False
    body: JsonObject = field(default_factory=dict[str, object])


class Rehearsal:
    """A running rehearsal: `async with Rehearsal(script) as api:` and then `ANTHROPIC_BASE_URL=api.url`."""

    def __init__(self, script: Script | None = None, *, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.requests: deque[Request] = deque(maxlen=_LOGGED_REQUESTS)
        self.lookups: deque[Request] = deque(maxlen=_LOGGED_REQUESTS)
        self.url = ""
        self._port = port
        self._clock = clock
        self._play = Play(script or Script(), now=clock())
        self._batches = Batches(self._play, self._batched)
        self._logged = asyncio.Condition()
        self._held: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, limit=MAX_HEAD_BYTES, backlog=1024
        )
        self.url = self._batches.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_for(
        self, wanted: Callable[[Request], bool] = lambda _: True, *, count: int = 1, timeout_s: float = 30.0
    ) -> list[Request]:
        """Waits until `count` requests that are `wanted` have come and returns all of these.

        Raises:
            TimeoutError: They did not come in time.
        """
        async with asyncio.timeout(timeout_s), self._logged:
            while len(found := [one for one in self.requests if wanted(one)]) < count:
                await self._logged.wait()
            return found

    def release(self) -> int:
        """Lets every held request go on and tells how many there were."""
        held = list(self._held)
        for timeout in held:
            timeout.reschedule(asyncio.get_running_loop().time())
        return len(held)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            while request := await connection.request():
                await self._answer(connection, request)
            await connection.close()
        except (BadHttp, ConnectionError):
            return
        finally:
            connection.abort()

    async def _answer(self, connection: Connection, request: HttpRequest) -> None:
        match request.method, request.path:
            case "HEAD" | "GET", "/" | "/ollama" | "/ollama/":
                await connection.reply(200, {}, b"", head_only=request.method == "HEAD")
            case "GET", "/rehearsal/requests":
                await send(connection, json_reply({"requests": [asdict(one) for one in self.requests]}))
            case "POST", "/rehearsal/release":
                await send(connection, json_reply({"released": self.release()}))
            case _:
                route = routes.route(request)
                token = self._token(request, route.asked.provider)
                if route.wire is None:
                    await self._look_up(connection, request, route, token)
                else:
                    await self._generate(connection, request, route, route.wire, token)

    def _token(self, request: HttpRequest, provider: str) -> Token | None:
        """Whose request it is; None if that is nobody who may ask this provider."""
        token = self._play.token(routes.secret(request, provider))
        if provider == "llama":
            return token or ANYBODY
        return token

    async def _look_up(self, connection: Connection, request: HttpRequest, route: Route, token: Token | None) -> None:
        asked, voice = route.asked, route.voice
        call = Call(provider=asked.provider, path=asked.path, model="", prompt="", conversation=asked.path)
        turn, error, refusal = Turn(), None, _refusal(request, route, token)
        if token is not None and refusal is None:
            turn = self._play.look_up(token, call, now=self._clock())
            error = voice.error(turn.fault, turn, call) if turn.fault else None
        reply = self._found(request, route, None if refusal or turn.fault else token)
        reply = error or (refusal if reply.status != 404 or self._batches.owns(asked) else None) or reply
        if route.is_prefixed:
            self.lookups.append(self._entry(call, token, turn, status=status_of(turn, reply)))
        async with self._logged:
            self._logged.notify_all()
        await self._wait(connection, turn)
        if turn.fault is None or error is not None:
            await send(connection, reply)
        else:
            await perform(connection, voice, call, turn, error)

    def _found(self, request: HttpRequest, route: Route, token: Token | None) -> Reply:
        """The answer to a look-up. Batches are made and shown for a token only."""
        asked = route.asked
        try:
            reply = routes.look_up(asked, request.method)
            if reply is None and token is not None:
                reply = self._batches.answer(asked, request.method, token, now=self._clock())
        except InvalidRequest as error:
            return route.voice.complain(400, error.message)
        return reply or route.voice.complain(404, f"No {request.method} {request.path} here.")

    def _batched(self, token: Token, played: Played) -> None:
        call, turn, status = played
        self.requests.append(self._entry(call, token, turn, status=status))

    async def _generate(
        self, connection: Connection, request: HttpRequest, route: Route, wire: Wire, token: Token | None
    ) -> None:
        try:
            call = wire.parse(route.asked)
        except InvalidRequest as error:
            call = Call(provider=route.asked.provider, path=route.asked.path, model=route.asked.model, prompt="")
            await self._log(self._entry(call, token, Turn(), status=400))
            await send(connection, wire.complain(400, error.message))
            return
        reply = _refusal(request, route, token)
        if reply is not None or token is None:
            turn = Turn(fault=Fault.UNAUTHORIZED)
        else:
            turn = self._play.next(token, call, now=self._clock())
            reply = None if turn.fault is None else wire.error(turn.fault, turn, call)
        await self._log(self._entry(call, token, turn, status=status_of(turn, reply)))
        await self._wait(connection, turn)
        await perform(connection, wire, call, turn, reply)

    def _entry(self, call: Call, token: Token | None, turn: Turn, *, status: int) -> Request:
        is_small = call.input_tokens + call.earlier_tokens <= _MAX_LOGGED_BODY // 4
        return Request(
            at=self._clock(),
            token=token.name if token else "",
            model=call.model,
            n_messages=call.n_messages,
            prompt=call.prompt,
            conversation=call.conversation,
            step=call.step,
            status=status,
            fault=turn.fault,
            provider=call.provider,
            path=call.path,
            stream=call.stream,
            body=call.data if is_small else {k: v for k, v in call.data.items() if isinstance(v, int | float)},
        )

    async def _log(self, request: Request) -> None:
        async with self._logged:
            self.requests.append(request)
            self._logged.notify_all()

    async def _wait(self, connection: Connection, turn: Turn) -> None:
        if turn.hold:
            await self._hold(connection)
        if turn.delay_s:
            await pause(connection, turn.delay_s)

    async def _hold(self, connection: Connection) -> None:
        held = asyncio.timeout(None)
        try:
            async with held:
                self._held.add(held)
                await connection.hung_up()
        except TimeoutError:
            return
        finally:
            self._held.discard(held)
        raise ConnectionResetError("the client left while it was held")


def _refusal(request: HttpRequest, route: Route, token: Token | None) -> Reply | None:
    """What somebody is told who may not ask: with no known key, or with a subscription at a foreign door."""
    provider = route.asked.provider
    if token is not None and not (token.is_subscription and provider != "claude"):
        return None
    if provider == "claude":
        what = "Invalid bearer token" if "authorization" in request.headers else "invalid x-api-key"
        return route.voice.complain(401, f"{what} (the rehearsal knows only its own tokens)")
    call = Call(provider=provider, path=route.asked.path, model=route.asked.model, prompt="")
    return route.voice.error(Fault.BAD_KEY, Turn(), call)
