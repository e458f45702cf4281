"""Gemini by Google's SDK and an API key. Over our own HTTP client: on aiohttp's, the SDK retries by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, ModelCard, RateHeaders, StreamEvent
from claude_jobs.errors import AuthenticationFailed, ProviderError, RateLimited, RequestRefused
from claude_jobs.policy.headers import rate_headers
from claude_jobs.providers import failures
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.contract import Json, Shaped, card_of, shape
from claude_jobs.providers.failures import About, Refusal
from claude_jobs.providers.gemini_wire import Reader, config_of, contents_of, countable_of

if TYPE_CHECKING:
    import httpx2
    from google.genai import Client, types

NAME = "gemini"
BASE_URL = "https://generativelanguage.googleapis.com/"

_LOOK_UP_S = 30.0
_DRAIN_S = 0.5
"""After its last piece a server ends its body at once; then the connection can be used again."""
_PAGE = 1_000
_KEY_HEADER = "x-goog-api-key"
_UNUSED_KEY = "each-request-has-its-own"

_OPENED: ContextVar[list[httpx2.Response] | None] = ContextVar("gemini_opened", default=None)
"""Where a stream finds the response under the SDK's generators: closing these does not close it."""


class _Models(Protocol):
    """What is used of the SDK's `AsyncModels`: its own types are not all known to a type checker."""

    async def generate_content(
        self, *, model: str, contents: list[Json], config: Json
    ) -> types.GenerateContentResponse: ...

    async def generate_content_stream(
        self, *, model: str, contents: list[Json], config: Json
    ) -> AsyncIterator[types.GenerateContentResponse]: ...

    async def count_tokens(self, *, model: str, contents: list[Json], config: Json) -> types.CountTokensResponse: ...

    async def list(self, *, config: Json) -> AsyncIterator[types.Model]: ...


class _ApiError(Protocol):
    """The same for its `APIError`; `response` is httpx2's, or the SDK's own for an error inside a stream."""

    code: int
    details: Json
    response: object


class Gemini:
    """The provider "gemini"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._http: httpx2.AsyncClient | None = None

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        shaped = shape(call.request, NAME)
        reader = Reader(shaped)
        about = _about(call.request.model, call.key)
        models, options = await self._models(call.key, about)
        contents, config = _asked(shaped, options, about)
        try:
            async with asyncio.timeout(call.first_s):
                response = await models.generate_content(model=shaped.request.model, contents=contents, config=config)
            reader.feed(response)
            return reader.completion(_limits(response))
        except _foreign() as error:
            failure = _failure(error, about)
        # Raised out here it carries no context: the SDK's errors hold requests, and these hold the key.
        raise failure

    async def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        shaped = shape(call.request, NAME)
        reader = Reader(shaped)
        about = _about(call.request.model, call.key)
        models, options = await self._models(call.key, about)
        contents, config = _asked(shaped, options, about)
        opened: list[httpx2.Response] = []
        response: types.GenerateContentResponse | None = None
        wait_s = call.first_s
        try:
            _OPENED.set(opened)
            pieces = await models.generate_content_stream(model=shaped.request.model, contents=contents, config=config)
            while (piece := await _next(pieces, wait_s, reader)) is not None:
                response = piece
                for delta in reader.feed(piece):
                    yield delta
                wait_s = call.idle_s
            if reader.is_done:
                yield reader.completion(_limits(response))
                return
            failure: ProviderError = _unfinished(about, response)
        except _foreign() as error:
            failure = _failure(error, about)
        finally:
            _OPENED.set(None)
            for each in opened:
                await each.aclose()
        failure.input_tokens, failure.output_tokens = reader.used()
        raise failure

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says. System and tools are counted as text: the SDK takes nothing else for this API."""
        about = _about(call.request.model, call.key)
        models, options = await self._models(call.key, about)
        try:
            contents, config = countable_of(call.request), {"http_options": options}
            async with asyncio.timeout(_LOOK_UP_S):
                counted = await models.count_tokens(model=call.request.model, contents=contents, config=config)
            return counted.total_tokens
        except _foreign() as error:
            failure = _failure(error, about)
        raise failure

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says: those that generate."""
        about = _about("", key)
        models, options = await self._models(key, about)
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                pages = await models.list(config={"page_size": _PAGE, "http_options": options})
                cards = [_card(model) async for model in pages]
            return tuple(card for card in cards if card)
        except _foreign() as error:
            failure = _failure(error, about)
        raise failure

    async def close(self) -> None:
        """As Provider says."""
        http, self._http = self._http, None
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if http is not None:
            await http.aclose()

    async def _models(self, key: ApiKey | None, about: About) -> tuple[_Models, Json]:
        """The SDK's one client, and the options of a request that make it that key's."""
        if key is None:
            raise AuthenticationFailed(f"{NAME} needs an API key. Give it one.", provider=NAME, model=about.model)
        if self._client is None:
            # In a thread: the first import takes a second of CPU.
            client, http = await asyncio.to_thread(_open, self._settings)
            if self._client is None:
                self._client, self._http = client, http
        return cast("_Models", self._client.aio.models), {"headers": {_KEY_HEADER: key.secret}}


def _asked(shaped: Shaped, options: Json, about: About) -> tuple[list[Json], Json]:
    try:
        return contents_of(shaped.request), {**config_of(shaped), "http_options": options}
    except ValueError:
        what = f"{NAME} cannot be asked: an image or a signature is not base64. Encode it anew."
        failure = RequestRefused(what, provider=NAME, model=about.model)
    raise failure


def _open(settings: ProviderSettings) -> tuple[Client, httpx2.AsyncClient]:
    from google.genai import Client, types

    from claude_jobs.providers.http import open_http

    http = open_http(settings)
    http.event_hooks = {"response": [_note]}
    options = types.HttpOptions(base_url=settings.base_url or BASE_URL, httpx_async_client=http)
    # All of it is said here, so that nothing is taken from the environment.
    return Client(api_key=_UNUSED_KEY, vertexai=False, http_options=options), http


async def _note(response: httpx2.Response) -> None:
    opened = _OPENED.get()
    if opened is not None and not opened:  # A stream has one; a list that is left behind in its context takes no more.
        opened.append(response)


async def _next(
    pieces: AsyncIterator[types.GenerateContentResponse], wait_s: float, reader: Reader
) -> types.GenerateContentResponse | None:
    """The next piece; None at the end. What goes wrong after the model's last word is none of the answer's."""
    try:
        async with asyncio.timeout(_DRAIN_S if reader.is_done else wait_s):
            return await anext(pieces, None)
    except _foreign():
        if reader.is_done:
            return None
        raise


def _foreign() -> tuple[type[Exception], ...]:
    """What the SDK and the transport raise, and what reading an answer that is none does."""
    import httpx2
    from google.genai.errors import APIError

    known = (APIError, Refusal, httpx2.HTTPError, httpx2.StreamError, OSError)
    return (*known, ValueError, LookupError, TypeError, AttributeError)


def _failure(error: Exception, about: About) -> ProviderError:
    import httpx2
    from google.genai.errors import APIError

    if isinstance(error, Refusal):
        return failures.of_said(error.said, about)
    if isinstance(error, APIError):
        return _refused(cast("_ApiError", error), about)
    if isinstance(error, httpx2.TimeoutException | TimeoutError) and not isinstance(error, httpx2.ConnectTimeout):
        return failures.unanswered(about)
    if isinstance(error, httpx2.TransportError | OSError):
        return failures.unreachable(about)
    return failures.nonsense(about)


def _refused(error: _ApiError, about: About) -> ProviderError:
    """For an APIError: of an HTTP status, or told inside a stream."""
    import httpx2

    response, body = error.response, error.details
    if isinstance(response, httpx2.Response):
        said = failures.heard(response.status_code, response.content, response.headers, time.time())
    else:
        said = failures.heard(error.code, body, {}, time.time())
    failure = failures.of_said(said, about)
    if isinstance(failure, RateLimited):
        failure.is_exhausted = failure.is_exhausted or _is_exhausted(body)
    return failure


def _is_exhausted(body: Json) -> bool:
    """Whether a quota is used up that a wait of minutes does not fill: one of a day, or one of nothing."""
    try:
        violations = [each for detail in body["error"]["details"] for each in detail.get("violations", ())]
        return any("PerDay" in str(each.get("quotaId")) or each.get("quotaValue") == "0" for each in violations)
    except (LookupError, TypeError, AttributeError):
        return False


def _unfinished(about: About, last: types.GenerateContentResponse | None) -> ProviderError:
    if last is None:
        return failures.nonsense(about)
    return failures.unreachable(about, "ended its answer before it was complete")


def _limits(response: types.GenerateContentResponse | None) -> RateHeaders | None:
    http = response.sdk_http_response if response else None
    return rate_headers((http.headers if http else None) or {}, time.time())


def _about(model: str, key: ApiKey | None) -> About:
    return About(provider=NAME, model=model, secret=key.secret if key else "")


def _card(model: types.Model) -> ModelCard | None:
    actions = model.supported_actions
    if not model.name or (actions is not None and "generateContent" not in actions):
        return None
    card = card_of(NAME, model.name.removeprefix("models/"), name=model.display_name or "", is_live=True)
    return replace(
        card,
        context_tokens=model.input_token_limit or card.context_tokens,
        max_output_tokens=model.output_token_limit or card.max_output_tokens,
    )
