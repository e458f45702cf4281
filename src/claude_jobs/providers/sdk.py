"""How the providers that have an SDK call it: time, streams and failures, the same for all. An API's wire is a Dialect.

The SDK makes the request (address, authorization, its errors); what comes back is read here as plain JSON, because its
typed events cost several times what the rest of a stream does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, cast

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, Delta, ModelCard, RateHeaders, StreamEvent
from claude_jobs.errors import ProviderError
from claude_jobs.policy.headers import rate_headers
from claude_jobs.providers import failures
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.clients import Clients
from claude_jobs.providers.contract import Json, Shaped, Via, card_of, rules_of, shape
from claude_jobs.providers.failures import About, Refusal
from claude_jobs.providers.sse import Events

if TYPE_CHECKING:
    import httpx2

_LOOK_UP_S = 30.0
_DRAIN_S = 0.5
"""After the last event a server ends its body at once; then the connection can be used again."""
_NOT_AS_AGREED = (LookupError, TypeError, AttributeError)
"""What reading JSON of another shape than the protocol's raises, besides ValueError."""


class Reader(Protocol):
    """Reads one stream. May raise Refusal for what the API refuses, and on data it does not know LookupError and the like."""

    @property
    def is_done(self) -> bool:
        """Whether the API's last event has come."""
        ...

    def feed(self, event: bytes) -> Sequence[Delta]:
        """What the event adds."""
        ...

    def completion(self, limits: RateHeaders | None) -> Completion:
        """All of it, at the end."""
        ...

    def used(self) -> tuple[int, int]:
        """Input and output tokens as far as the API has told by now."""
        ...


class Dialect(Protocol):
    """One API's wire format. Pure."""

    @property
    def path(self) -> str:
        """Where requests go, below the base URL."""
        ...

    @property
    def via(self) -> Via:
        """Which of an API's ways it is."""
        ...

    def body(self, shaped: Shaped, *, is_stream: bool) -> Json:
        """The request."""
        ...

    def completion(self, answer: Json, shaped: Shaped, limits: RateHeaders | None) -> Completion:
        """The answer; raises as Reader does."""
        ...

    def reader(self, shaped: Shaped) -> Reader:
        """For a stream's events."""
        ...


class Api:
    """One provider, reached by an SDK."""

    def __init__(
        self, provider: str, sdk: Literal["anthropic", "openai"], base_url: str, settings: ProviderSettings
    ) -> None:
        self.provider = provider
        self._clients = Clients(provider, sdk, base_url, settings)

    def about(self, call: ProviderCall) -> About:
        """Whose call it is, for its errors."""
        return About(provider=self.provider, model=call.request.model, secret=call.key.secret if call.key else "")

    async def generate(self, call: ProviderCall, dialect: Dialect) -> Completion:
        """The whole answer, within `call.first_s`."""
        shaped = shape(call.request, self.provider, rules_of(self.provider, call.request.model, dialect.via))
        body = dialect.body(shaped, is_stream=False)
        about = self.about(call)
        answer, headers = await self._ask(about, call.key, dialect.path, body=body, timeout_s=call.first_s)
        try:
            return dialect.completion(answer, shaped, rate_headers(headers, time.time()))
        except Refusal as refusal:
            failure = failures.of_said(refusal.said, about)
        except (*_NOT_AS_AGREED, ValueError):
            failure = failures.nonsense(about)
        raise failure

    async def stream(self, call: ProviderCall, dialect: Dialect) -> AsyncGenerator[StreamEvent]:
        """Deltas, then the Completion. Closing the generator closes the connection."""
        shaped = shape(call.request, self.provider, rules_of(self.provider, call.request.model, dialect.via))
        body = dialect.body(shaped, is_stream=True)
        about = self.about(call)
        client = await self._clients.of(call.key, about)
        reader = dialect.reader(shaped)
        answer: _Body | None = None
        try:
            now_s = asyncio.get_running_loop().time
            first_at = now_s() + call.first_s
            async with asyncio.timeout_at(first_at):
                response = await self._clients.stream(client, dialect.path, body)
            answer = _Body(response)
            wait_s = first_at - now_s()
            while (events := await answer.events(wait_s)) is not None:
                wait_s = call.idle_s
                for event in events:
                    for delta in reader.feed(event):
                        yield delta
                if reader.is_done:
                    yield reader.completion(rate_headers(response.headers, time.time()))
                    return
            failure: ProviderError = failures.nonsense(about)
            if answer.is_stream:
                failure = failures.unreachable(about, "ended its answer before it was complete")
        except _NOT_AS_AGREED:
            failure = failures.nonsense(about)
        except self._clients.foreign() as error:
            failure = self._clients.failure(error, about)
        finally:
            if answer is not None:
                await answer.leave(is_done=reader.is_done)
        failure.input_tokens, failure.output_tokens = reader.used()
        raise failure

    async def post(self, about: About, key: ApiKey | None, path: str, body: Json) -> Json:
        """The answer of a call that is no generation."""
        return (await self._ask(about, key, path, body=body))[0]

    async def models(
        self, about: About, key: ApiKey | None, path: str, query: Mapping[str, object]
    ) -> tuple[ModelCard, ...]:
        """What a list of models says, `{"data": [{"id": …}]}` in all of the APIs, with what we know of each."""
        listed = (await self._ask(about, key, path, query=query))[0].get("data")
        if not isinstance(listed, list):
            raise failures.nonsense(about)
        entries = [cast("Json", each) for each in cast("list[object]", listed) if isinstance(each, dict)]
        return tuple(
            card_of(self.provider, str(entry["id"]), name=str(entry.get("display_name") or ""), is_live=True)
            for entry in entries
            if entry.get("id")
        )

    async def close(self) -> None:
        """Close the connections; what still runs on them fails."""
        await self._clients.close()

    async def _ask(
        self,
        about: About,
        key: ApiKey | None,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, object] | None = None,
        timeout_s: float = _LOOK_UP_S,
    ) -> tuple[Json, Mapping[str, str]]:
        client = await self._clients.of(key, about)
        import httpx2

        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    response = await client.get(path, cast_to=httpx2.Response, options={"params": query or {}})
                else:
                    response = await client.post(path, cast_to=httpx2.Response, body=body)
            answer: object = json.loads(response.content)
            if isinstance(answer, dict):
                return cast("Json", answer), response.headers
            failure: ProviderError = failures.nonsense(about)
        except self._clients.foreign() as error:
            failure = self._clients.failure(error, about)
        # Raised out here it carries no context: the SDK's errors hold requests, and these hold the key.
        raise failure


class _Body:
    """A stream's body, event by event.

    Attributes:
        is_stream: Whether events have come, or at least the server says that they will.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self._events = Events()
        self.is_stream = "event-stream" in response.headers.get("content-type", "")

    async def events(self, wait_s: float) -> list[bytes] | None:
        """The events that the next bytes complete, None at the end; TimeoutError if there is nothing for `wait_s`."""
        async with asyncio.timeout(wait_s):
            chunk = await anext(self._chunks, b"")
        if not chunk:
            return None
        events = self._events.push(chunk)
        self.is_stream = self.is_stream or bool(events)
        return events

    async def leave(self, *, is_done: bool) -> None:
        """Ends it; after the last event what little may follow is read, so that the connection can be used again."""
        import httpx2

        try:
            if is_done:
                async with asyncio.timeout(_DRAIN_S):
                    async for _ in self._chunks:
                        pass
        except (httpx2.HTTPError, OSError):
            return
        finally:
            await self._response.aclose()
