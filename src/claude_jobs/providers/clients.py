"""SDK clients: one per key over one pool of connections, and what their errors are to us."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.errors import AuthenticationFailed, ProviderError
from claude_jobs.providers import failures
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.failures import About, Refusal

if TYPE_CHECKING:
    import httpx2

Json = dict[str, Any]
_MOST_CLIENTS = 64


class Streamed(Protocol):
    """An SDK's stream, of which only the response under it is used."""

    response: httpx2.Response


class Client(Protocol):
    """The part that the SDKs' clients have in common."""

    async def get(self, path: str, *, cast_to: type[httpx2.Response], options: Json) -> httpx2.Response:
        """Ask."""
        ...

    @overload
    async def post(self, path: str, *, cast_to: type[httpx2.Response], body: Json) -> httpx2.Response: ...
    @overload
    async def post(
        self, path: str, *, cast_to: type[object], body: Json, stream: Literal[True], stream_cls: object
    ) -> Streamed: ...


class Clients:
    """The clients of one provider. The connections are shared, so that the pool's limits hold for all keys together."""

    def __init__(
        self, provider: str, sdk: Literal["anthropic", "openai"], base_url: str, settings: ProviderSettings
    ) -> None:
        self._provider = provider
        self._sdk_name = sdk
        self._base_url = settings.base_url or base_url
        self._settings = settings
        self._sdk: ModuleType | None = None
        self._http: httpx2.AsyncClient | None = None
        self._by_secret: OrderedDict[str, Client] = OrderedDict()

    async def of(self, key: ApiKey | None, about: About) -> Client:
        """The client of that key; the first use imports the SDK, in a thread because that takes a second of CPU and more.

        Raises:
            AuthenticationFailed: There is no key.
        """
        if key is None:
            raise AuthenticationFailed(
                f"{self._provider} needs an API key. Give it one.", provider=self._provider, model=about.model
            )
        if self._sdk is None or self._http is None:
            sdk, http = await asyncio.to_thread(_load, self._sdk_name, self._settings)
            self._sdk, self._http = sdk, self._http or http
        client = self._by_secret.get(key.secret)
        if client is None:
            client = self._by_secret[key.secret] = self._new(self._sdk, key)
            if len(self._by_secret) > _MOST_CLIENTS:
                self._by_secret.popitem(last=False)
        else:
            self._by_secret.move_to_end(key.secret)
        return client

    async def stream(self, client: Client, path: str, body: Json) -> httpx2.Response:
        """The response to a request for a stream, its head read."""
        assert self._sdk is not None
        stream_class = self._sdk.AsyncStream[object]
        return (await client.post(path, cast_to=object, body=body, stream=True, stream_cls=stream_class)).response

    async def close(self) -> None:
        """Close the connections; what still runs on them fails."""
        self._by_secret.clear()
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def foreign(self) -> tuple[type[Exception], ...]:
        """What the SDK and the transport raise."""
        import httpx2

        api_error = self._sdk.APIError if self._sdk else Refusal
        return (api_error, httpx2.HTTPError, httpx2.StreamError, Refusal, OSError, ValueError)

    def failure(self, error: Exception, about: About) -> ProviderError:
        """Ours for one of those."""
        import httpx2

        sdk: Any = self._sdk
        foreign: Any = error
        if isinstance(error, Refusal):
            return failures.of_said(error.said, about)
        if isinstance(error, sdk.APIStatusError):
            response: httpx2.Response = foreign.response
            said = failures.heard(response.status_code, _content(response), response.headers, time.time())
            return failures.of_said(said, about)
        if isinstance(error, sdk.APIResponseValidationError | httpx2.DecodingError):
            return failures.nonsense(about)
        never_connected = isinstance(error.__cause__, httpx2.ConnectTimeout)
        if isinstance(error, sdk.APITimeoutError | httpx2.TimeoutException | TimeoutError) and not never_connected:
            return failures.unanswered(about)
        if isinstance(error, sdk.APIConnectionError | httpx2.TransportError | OSError):
            return failures.unreachable(about)
        return failures.nonsense(about)

    def _new(self, sdk: ModuleType, key: ApiKey) -> Client:
        given: Json = {
            "api_key": key.secret,
            "base_url": self._base_url,
            "max_retries": 0,
            "timeout": None,
            "http_client": self._http,
        }
        if self._sdk_name == "anthropic":
            return sdk.AsyncAnthropic(**given)
        headers: Json = {}
        if self._provider != "openai":
            # The SDK would tell a stranger whose account at OpenAI the environment names.
            headers = {"OpenAI-Organization": sdk.omit, "OpenAI-Project": sdk.omit}
        return sdk.AsyncOpenAI(**given, default_headers=headers)


def _load(name: str, settings: ProviderSettings) -> tuple[ModuleType, httpx2.AsyncClient]:
    from claude_jobs.providers.http import open_http

    sdk = import_module(name)
    for logger in (name, "httpx2"):
        # At DEBUG they log whole requests: the prompt is nobody's but the caller's.
        logging.getLogger(logger).setLevel(logging.WARNING)
    return sdk, open_http(settings)


def _content(response: httpx2.Response) -> bytes:
    """An error's body, b"" if it was not read."""
    import httpx2

    try:
        return response.content
    except httpx2.ResponseNotRead:
        return b""
