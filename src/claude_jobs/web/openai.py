"""OpenAI's endpoints over our generation: a client of theirs needs another base URL (…/v1) and our token as its key."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import ClaudeJobsError, InvalidRequest
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Ask, Generation
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.web import openai_wire as wire
from claude_jobs.web.replies import body_of, checked, encoded, headers_of, internal_view, reply, status_of
from claude_jobs.web.streams import COMMENT, SSE, PieceResponse, unless_gone

log = structlog.get_logger()

T = TypeVar("T")
_DONE = b"data: [DONE]\n\n"


def _theirs(endpoint: Callable[[T, Request], Awaitable[Response]]) -> Callable[[T, Request], Awaitable[Response]]:
    """`endpoint`, whose errors are answers in OpenAI's form."""

    @wraps(endpoint)
    async def wrapper(self: T, request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except ClaudeJobsError as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:
            # The boundary of a request: it is answered whatever happens, and logged.
            log.exception("http.failed", path=request.url.path)
            return _refusal(None)

    return wrapper


class OpenAiEndpoints:
    """POST /v1/chat/completions and GET /v1/models. A model is "provider/name", or a name that tells its provider."""

    def __init__(self, generation: Generation, caller: Callable[[], Caller]) -> None:
        self._generation = generation
        self._caller = caller

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{id:path}", self.model, methods=["GET"]),
        ]

    @_theirs
    async def chat(self, request: Request) -> Response:
        """A chat completion, whole or in chunks."""
        body = await body_of(request)
        ask, warnings = await checked(body, lambda: _ask(body, self._caller()), request)
        if body.get("stream"):
            options = body.get("stream_options")
            with_usage = isinstance(options, dict) and bool(options.get("include_usage"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            chunks = self._chunks(ask, warnings, with_usage=with_usage)
            return PieceResponse(chunks, media_type=SSE, whole=_refusal, late=_late, keep_alive=COMMENT)
        answer = await unless_gone(request, self._generation.generate(ask))
        return reply(wire.completion_view(answer, int(time.time()), warnings))

    async def _chunks(self, ask: Ask, warnings: list[str], *, with_usage: bool) -> AsyncGenerator[bytes]:
        base: dict[str, object] = {
            "id": f"chatcmpl-{time.time_ns():x}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": ask.request.model,
        }
        usage = {"usage": None} if with_usage else {}

        def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return b"data: " + encoded({**base, "choices": [choice], **usage, **more}) + b"\n\n"

        is_first = True
        async with aclosing(self._generation.stream(ask)) as events:
            async for event in events:
                role: dict[str, object] = {"role": "assistant"} if is_first else {}
                is_first = False
                if isinstance(event, Answer):
                    yield chunk(role, wire.finish_of(event), claude_jobs=wire.extra_view(event, warnings))
                    if with_usage:
                        last: dict[str, object] = {
                            **base,
                            "choices": [],
                            "usage": wire.usage_view(event.completion.tokens),
                        }
                        yield b"data: " + encoded(last) + b"\n\n"
                    yield _DONE
                else:
                    yield chunk({**role, **wire.delta_of(event)})

    @_theirs
    async def models(self, request: Request) -> Response:
        """The models, their provider before their name."""
        found = await unless_gone(request, self._generation.models(self._caller()))
        return reply({"object": "list", "data": [_model(card.provider, card.id) for card in found.models]})

    @_theirs
    async def model(self, request: Request) -> Response:
        """One of them."""
        name = str(request.path_params["id"])
        found = await unless_gone(request, self._generation.models(self._caller()))
        for card in found.models:
            if name in (card.id, f"{card.provider}/{card.id}"):
                return reply(_model(card.provider, card.id))
        error = InvalidRequest(f"There is no model {name!r}. GET /v1/models lists them.", field="model")
        return reply(wire.fault_view(error), 404, headers_of(error))


def _ask(body: dict[str, object], caller: Caller) -> tuple[Ask, list[str]]:
    data, warnings = wire.request_of(body)
    return GenerateRequest.parse(data).ask(caller), warnings


def _model(provider: str, model: str) -> dict[str, object]:
    return {"id": f"{provider}/{model}", "object": "model", "created": 0, "owned_by": provider}


def _refusal(error: ClaudeJobsError | None) -> Response:
    if error is None:
        return reply({"error": {**internal_view(), "type": "server_error", "param": None}}, 500)
    return reply(wire.fault_view(error), status_of(error), headers_of(error))


def _late(error: ClaudeJobsError | None) -> bytes:
    fault = {"error": {**internal_view(), "type": "server_error"}} if error is None else wire.fault_view(error)
    return b"data: " + encoded(fault) + b"\n\n"
