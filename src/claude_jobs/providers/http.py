"""The one HTTP client of a provider: aiohttp's connections under the SDKs' httpx2. Imported when a provider is first used."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import aiohttp
import httpx2

if TYPE_CHECKING:
    from collections.abc import Generator

    from claude_jobs.providers.base import ProviderSettings

_KEEP_ALIVE_S = 20.0
"""Shorter than the idle limit of the providers' front ends (60 s and more): a connection they close first costs a retry."""
_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 10.0


def open_http(settings: ProviderSettings) -> httpx2.AsyncClient:
    """A client for one provider and all its keys, so that the limits hold for all of them together.

    The SDKs' own aiohttp client knows no limit per host, shares cookies among keys, and follows redirects with the key in
    a header; this one does not. Proxies come from the environment (HTTPS_PROXY, NO_PROXY).
    """
    return httpx2.AsyncClient(
        transport=AioTransport(settings),
        timeout=httpx2.Timeout(None, connect=_CONNECT_S),
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


class AioTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests over one aiohttp session. Raises httpx2's errors only."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._read: set[aiohttp.ClientResponse] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its head read and its body not yet."""
        with _mapped():
            response = await self._open().request(
                request.method,
                str(request.url),
                # As bytes they are: asking httpx2 for text looks for their encoding again and again.
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                data=await request.aread() or None,
                allow_redirects=False,
            )
        self._read.add(response)
        body = _Body(response, on_close=self._read.discard)
        return httpx2.Response(response.status, headers=list(response.raw_headers), stream=body, request=request)

    async def aclose(self) -> None:
        """Close the connections. Who still reads from one gets an error; aiohttp by itself would let him wait."""
        for response in self._read:
            response.content.set_exception(aiohttp.ClientConnectionError("closed"))
        self._read.clear()
        if self._session:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._settings.connections,
                    limit_per_host=self._settings.per_host,
                    keepalive_timeout=_KEEP_ALIVE_S,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                auto_decompress=False,
                trust_env=bool(urllib.request.getproxies()),
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, *, on_close: Callable[[aiohttp.ClientResponse], None]) -> None:
        self._response = response
        self._on_close = on_close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _mapped():
            async for chunk in self._response.content.iter_chunked(_CHUNK_BYTES):
                yield chunk

    async def aclose(self) -> None:
        """A body that was not read to its end takes its connection with it."""
        self._on_close(self._response)
        self._response.release()


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error)) from error
    except aiohttp.InvalidURL as error:
        raise httpx2.UnsupportedProtocol(str(error)) from error
    except aiohttp.ClientError as error:
        raise httpx2.ReadError(str(error)) from error
