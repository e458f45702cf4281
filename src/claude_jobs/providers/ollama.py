"""Models on this machine or near it: Ollama's native API. No SDK, no key, no price."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, ModelCard, StreamEvent
from claude_jobs.errors import ModelNotFound, ProviderError, ProviderTimeout, ProviderUnavailable
from claude_jobs.policy.estimate_tokens import estimate_request
from claude_jobs.policy.headers import rate_headers
from claude_jobs.policy.providers import OLLAMA
from claude_jobs.policy.similar import did_you_mean
from claude_jobs.providers import failures
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.contract import Json, Shaped, card_of, rules_of, shape
from claude_jobs.providers.failures import About, Refusal, heard
from claude_jobs.providers.ollama_wire import Known, Lines, Reader, body_of, known_from, rules_for, window

if TYPE_CHECKING:
    import httpx2

NAME = OLLAMA
BASE_URL = "http://localhost:11434"

_LOOK_UP_S = 10.0
_KNOWN_S = 300.0
"""How long what the server said of a model is believed: it can be pulled anew under its name."""
_MOST_KNOWN = 256
_SHOWN_AT_ONCE = 8
_NAMED = 10
"""So many models are named to someone who asked for another."""


@dataclass(frozen=True, slots=True)
class _Chat:
    """A request that is ready to be sent."""

    shaped: Shaped
    about: About
    body: Json


class Ollama:
    """The provider "llama"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        url = settings.base_url.rstrip("/") or BASE_URL
        self._base_url = url if "://" in url else f"http://{url}"
        self._settings = settings
        self._http: httpx2.AsyncClient | None = None
        self._known: dict[str, tuple[float, Known]] = {}

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        chat = await self._chat(call, is_stream=False)
        reader = Reader(chat.shaped)
        async with self._mapped(chat.about), asyncio.timeout(call.first_s):
            answer, headers = await self._ask(chat.about, "POST", "/api/chat", chat.body)
            reader.feed(answer)
            if reader.is_done:
                return reader.completion(rate_headers(headers, time.time()))
        raise failures.nonsense(chat.about)

    async def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        chat = await self._chat(call, is_stream=True)
        reader = Reader(chat.shaped)
        async with self._mapped(chat.about), aclosing(self._lines(chat, call)) as lines:
            async for line in lines:
                for delta in reader.feed(line):
                    yield delta
                if reader.is_done:
                    break
            if reader.is_done:
                yield reader.completion(None)
                return
        raise failures.unreachable(chat.about, "ended its answer before it was complete")

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says: Ollama counts only what it answers."""
        return None

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says: what is pulled, without models that only embed."""
        about = About(provider=NAME)
        names = await self._names(about)
        gate = asyncio.Semaphore(_SHOWN_AT_ONCE)

        async def card(name: str) -> ModelCard | None:
            async with gate:
                known = await self._look_at(name, replace(about, model=name))
            if known.can is not None and "completion" not in known.can:
                return None
            rules = rules_for(rules_of(NAME, name), known)
            return replace(
                card_of(NAME, name, is_live=True),
                context_tokens=rules.context,
                tools=rules.tools,
                vision=rules.vision,
                thinking=rules.thinking,
            )

        cards = await asyncio.gather(*map(card, names))
        return tuple(card for card in cards if card)

    async def close(self) -> None:
        """As Provider says."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _chat(self, call: ProviderCall, *, is_stream: bool) -> _Chat:
        request = call.request
        about = About(provider=NAME, model=request.model)
        known = await self._look_at(request.model, about, min(call.first_s, _LOOK_UP_S))
        shaped = shape(request, NAME, rules_for(rules_of(NAME, request.model), known))
        num_ctx = window(estimate_request(request), request.max_output_tokens, known)
        return _Chat(shaped, about, body_of(shaped, num_ctx=num_ctx, is_stream=is_stream))

    async def _look_at(self, model: str, about: About, within_s: float = _LOOK_UP_S) -> Known:
        """What the server says of the model; nothing if it answers anything else, for the question itself will tell why."""
        now = time.monotonic()
        at, known = self._known.get(model, (0.0, None))
        if known is not None and now < at + _KNOWN_S:
            return known
        known = Known()
        try:
            async with self._mapped(about), asyncio.timeout(within_s):
                answer, _ = await self._ask(about, "POST", "/api/show", {"model": model})
                known = known_from(_object(answer))
        except (ProviderUnavailable, ProviderTimeout) as error:
            if error.status is None:
                raise
            return known
        except ProviderError:
            return known
        while len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[model] = (now, known)
        return known

    async def _names(self, about: About) -> tuple[str, ...]:
        async with self._mapped(about), asyncio.timeout(_LOOK_UP_S):
            answer, _ = await self._ask(about, "GET", "/api/tags", None)
            return tuple(str(model["name"]) for model in _object(answer)["models"])
        raise failures.nonsense(about)

    async def _ask(self, about: About, method: str, path: str, body: Json | None) -> tuple[bytes, httpx2.Headers]:
        http = await self._client()
        response = await http.request(method, self._base_url + path, json=body)
        await self._accepted(response, about)
        return response.content, response.headers

    async def _lines(self, chat: _Chat, call: ProviderCall) -> AsyncGenerator[bytes]:
        http = await self._client()
        lines = Lines()
        request = http.build_request("POST", self._base_url + "/api/chat", json=chat.body)
        loop = asyncio.get_running_loop()
        due = loop.time() + call.first_s
        async with asyncio.timeout_at(due):
            response = await http.send(request, stream=True)
        try:
            async with asyncio.timeout_at(due):
                await self._accepted(response, chat.about)
            chunks: AsyncIterator[bytes] = response.aiter_bytes()
            while True:
                async with asyncio.timeout_at(due):
                    chunk = await anext(chunks, b"")
                if not chunk:
                    break
                due = loop.time() + call.idle_s
                for line in lines.push(chunk):
                    yield line
            if rest := lines.rest():
                yield rest
        finally:
            await response.aclose()

    async def _accepted(self, response: httpx2.Response, about: About) -> None:
        if response.status_code >= 300:
            raise Refusal(heard(response.status_code, await response.aread(), response.headers, time.time()))

    async def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            http = await asyncio.to_thread(_open, self._settings)
            self._http = self._http or http
        return self._http

    @asynccontextmanager
    async def _mapped(self, about: About) -> AsyncGenerator[None]:
        import httpx2

        try:
            yield
            return
        except Refusal as refusal:
            failure = failures.of_said(refusal.said, about)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            failure = ProviderUnavailable(
                f"Ollama does not answer at {failures.clean(self._base_url, '')}. Start it (`ollama serve`), "
                "or set OLLAMA_ENDPOINT to where it runs.",
                provider=NAME,
                model=about.model,
            )
        except (TimeoutError, httpx2.TimeoutException):
            failure = ProviderTimeout(
                "Ollama did not answer in time. A model that is only being loaded takes longer: try again, "
                "or allow more time.",
                provider=NAME,
                model=about.model,
            )
        except (httpx2.TransportError, OSError):
            failure = failures.unreachable(about)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, *_NONSENSE):
            failure = failures.nonsense(about)
        if isinstance(failure, ModelNotFound) and about.model:
            failure = await self._missing(about.model, failure)
        raise failure

    async def _missing(self, model: str, failure: ModelNotFound) -> ModelNotFound:
        """The same, with what to do about it."""
        try:
            names = await self._names(About(provider=NAME))
        except ProviderError:
            return failure
        there = f"use one that is there: {', '.join(names[:_NAMED])}" if names else "no model is there yet"
        return ModelNotFound(
            f"Ollama has no model {model!r}.{did_you_mean(model, names)} Run `ollama pull {model}`, or {there}.",
            provider=NAME,
            model=model,
            status=failure.status,
        )


_NONSENSE = (LookupError, TypeError, ValueError, AttributeError)
"""What reading an answer that is none raises."""


def _object(answer: bytes) -> Json:
    found = json.loads(answer)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return cast("dict[str, Any]", found)


def _open(settings: ProviderSettings) -> httpx2.AsyncClient:
    from claude_jobs.providers.http import open_http

    return open_http(settings)
