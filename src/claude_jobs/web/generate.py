"""Generation over HTTP: generate, batch_generate, count_tokens, list_models. No MCP in the way: these are asked often."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import ClaudeJobsError, InvalidRequest
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Ask, Generation
from claude_jobs.services.generation_batch import BatchBook, BatchSummary, run_batch
from claude_jobs.services.generation_request import Batch, GenerateRequest, parse_batch, provider_named
from claude_jobs.services.generation_view import answer_view, count_view, delta_view, error_view, models_view
from claude_jobs.web.replies import body_of, checked, encoded, guarded, internal_view, refusal, reply
from claude_jobs.web.streams import COMMENT, NDJSON, SSE, PieceResponse, sse, unless_gone

POSTED = ("generate", "batch_generate", "count_tokens")
"""Tools of this file that only POST reaches."""

JobTool = Callable[[dict[str, Any]], Awaitable[Response]]


class GenerateEndpoints:
    """The endpoints.

    Args:
        caller: Who asks over HTTP.
        job_tool: Answers a `generate` that names a job by an idempotency key.
    """

    def __init__(
        self, generation: Generation, book: BatchBook, caller: Callable[[], Caller], job_tool: JobTool
    ) -> None:
        self._generation = generation
        self._book = book
        self._caller = caller
        self._job_tool = job_tool

    def routes(self) -> list[Route]:
        """Before the routes of the other tools, which take any name."""
        return [
            Route("/tools/generate", self.generate, methods=["POST"]),
            Route("/tools/batch_generate", self.batch_generate, methods=["POST"]),
            Route("/tools/count_tokens", self.count_tokens, methods=["POST"]),
            Route("/tools/list_models", self.list_models, methods=["GET", "POST"]),
        ]

    @guarded
    async def generate(self, request: Request) -> Response:
        """One answer: as JSON, or as server-sent events `delta`… and `done` or `error`."""
        data = await body_of(request)
        if data.get("key"):
            _check_names_a_job(data)
            return await self._job_tool(data)
        data.pop("key", None)
        wants_events = SSE in request.headers.get("accept", "")
        ask, wants_stream = await checked(data, partial(_ask, data, self._caller()), request)
        if wants_stream or wants_events:
            return event_response(self._events(ask))
        answer = await unless_gone(request, self._generation.generate(ask))
        return reply(answer_view(answer))

    async def _events(self, ask: Ask) -> AsyncGenerator[bytes]:
        async with aclosing(self._generation.stream(ask)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    yield sse("done", answer_view(event))
                else:
                    yield sse("delta", delta_view(event))

    @guarded
    async def batch_generate(self, request: Request) -> Response:
        """Many answers: each as it comes (NDJSON, or events `item` and `done`), or all in one JSON, in the order of the items."""
        data = await body_of(request)
        batch = await checked(data, partial(parse_batch, data, self._caller()), request)
        accept = request.headers.get("accept", "")
        if SSE in accept:
            return event_response(self._items(batch, partial(sse, "item"), partial(sse, "done")))
        if batch.stream or NDJSON in accept:
            lines = self._items(batch, _line, lambda summary: _line({"done": summary}))
            return PieceResponse(lines, media_type=NDJSON, whole=_whole, late=lambda error: _line(_told(error)))
        return await unless_gone(request, self._all(batch))

    async def _items(
        self, batch: Batch, item: Callable[[object], bytes], done: Callable[[object], bytes]
    ) -> AsyncGenerator[bytes]:
        summary = BatchSummary(items=len(batch.entries))
        async with aclosing(run_batch(self._generation, batch, self._book)) as views:
            async for view in views:
                summary.count(view)
                yield item(view)
        yield done(summary.view())

    async def _all(self, batch: Batch) -> Response:
        summary = BatchSummary(items=len(batch.entries))
        found: list[tuple[int, dict[str, object]]] = []
        async with aclosing(run_batch(self._generation, batch, self._book)) as views:
            async for view in views:
                summary.count(view)
                found.append((int(str(view["index"])), view))
        found.sort(key=lambda one: one[0])
        return reply({"items": [view for _, view in found], "summary": summary.view()})

    @guarded
    async def count_tokens(self, request: Request) -> Response:
        """Input tokens of a request."""
        data = await body_of(request)
        ask, _ = await checked(data, partial(_ask, data, self._caller()), request)
        return reply(count_view(await unless_gone(request, self._generation.count_tokens(ask))))

    @guarded
    async def list_models(self, request: Request) -> Response:
        """The models, of all providers or of the one that is named."""
        given: dict[str, object] = dict(request.query_params)
        if request.method == "POST":
            given = await body_of(request)
        name = given.pop("provider", "")
        if given or not isinstance(name, str):
            message = "`list_models` takes `provider` only, the name of one."
            raise InvalidRequest(message, field=next(iter(given), "provider"))
        provider = provider_named(name, "provider")
        models = await unless_gone(request, self._generation.models(self._caller(), provider))
        return reply(models_view(models))


def event_response(events: AsyncGenerator[bytes]) -> Response:
    """`events` as a stream of server-sent events; a late error is the event `error`."""
    return PieceResponse(
        events, media_type=SSE, whole=_whole, late=lambda error: sse("error", _told(error)), keep_alive=COMMENT
    )


def _ask(data: dict[str, object], caller: Caller) -> tuple[Ask, bool]:
    request = GenerateRequest.parse(data)
    return request.ask(caller), request.stream


def _check_names_a_job(data: dict[str, object]) -> None:
    """`key` is the idempotency key of a job: its meaning does not fit an answer that no job makes."""
    known = {"prompt", "model", "system", "timeout_s", "key"}
    if more := sorted(data.keys() - known):
        message = (
            f"`key` names a job of the CLI, which takes {', '.join(sorted(known - {'key'}))} only, not {more[0]!r}. "
            "Leave `key` out: a repeated question is answered from the cache."
        )
        raise InvalidRequest(message, field="key")


def _line(view: object) -> bytes:
    return encoded(view) + b"\n"


def _told(error: ClaudeJobsError | None) -> dict[str, object]:
    return {"error": internal_view() if error is None else error_view(error)}


def _whole(error: ClaudeJobsError | None) -> Response:
    return reply({"error": internal_view()}, 500) if error is None else refusal(error)
