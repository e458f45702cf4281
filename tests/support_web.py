"""HTTP over the real parts: a worker, the rehearsal API behind its providers, and a client with the token."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx2
from support_mcp import Surface, surface

from claude_jobs.rehearsal.script import Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.services.caller import Caller
from claude_jobs.web.app import HttpApp
from claude_jobs.web.serve import RunningHttp, serve_http

TOKEN = "t0ken-of-the-test"
KEYS = (
    ("OPENAI_API_KEY", "sk-rehearsal-1"),
    ("ANTHROPIC_API_KEY", "sk-rehearsal-1"),
    ("GOOGLE_API_KEY", "sk-rehearsal-1"),
    ("XAI_API_KEY", "sk-rehearsal-1"),
    ("DASHSCOPE_API_KEY", "sk-rehearsal-1"),
)


async def outside(client: tuple[str, int], port: int) -> bool:
    """Nobody is of a job."""
    return False


def rehearse(text: str, **action: object) -> str:
    """A prompt that tells the rehearsal what to do."""
    return f"{text}\nrehearse: " + json.dumps(action)


def base_urls(url: str) -> dict[str, str]:
    """The providers' settings that lead to a rehearsal API."""
    return {
        "OPENAI_BASE_URL": f"{url}/openai/v1",
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "GOOGLE_BASE_URL": f"{url}/gemini",
        "XAI_BASE_URL": f"{url}/xai/v1",
        "DASHSCOPE_BASE_URL": f"{url}/dashscope/compatible-mode/v1",
        "OLLAMA_ENDPOINT": f"{url}/ollama",
    }


def http_app(
    here: Surface,
    *,
    token: str = TOKEN,
    auth: str = "token",
    is_of_a_job: Callable[[tuple[str, int], int], Awaitable[bool | None]] = outside,
    caller: Caller | None = None,
) -> HttpApp:
    """The parts behind HTTP; `caller` is who asks for generation."""
    asks = caller or here.caller
    return HttpApp(
        mcp=here.server,
        jobs=here.app.jobs,
        generation=here.app.generation,
        book=here.app.batches,
        caller=lambda: asks,
        token=token,
        auth=auth,
        is_of_a_job=is_of_a_job,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running surface: `client` has the token; `api` is what its providers reach."""

    here: Surface
    http: RunningHttp
    client: httpx2.AsyncClient
    api: Rehearsal

    async def post(self, path: str, **body: Any) -> httpx2.Response:
        """POST `body` as JSON."""
        return await self.client.post(path, json=body)


@asynccontextmanager
async def serving(
    root: Path,
    script: Script | None = None,
    *,
    keys: tuple[tuple[str, str], ...] = KEYS,
    auth: str = "token",
    is_of_a_job: Callable[[tuple[str, int], int], Awaitable[bool | None]] = outside,
    **settings: str,
) -> AsyncGenerator[Served]:
    """HTTP whose providers are all the rehearsal API, with `keys` for them."""
    async with Rehearsal(script) as api, surface(root, **cast("Any", {**base_urls(api.url), **settings})) as here:
        who = replace(here.caller, keys=keys)
        running = await serve_http(http_app(here, auth=auth, is_of_a_job=is_of_a_job, caller=who), 0)
        headers = {"Authorization": f"Bearer {TOKEN}"} if auth == "token" else {}
        try:
            async with httpx2.AsyncClient(base_url=running.url, timeout=60, trust_env=False, headers=headers) as client:
                yield Served(here=here, http=running, client=client, api=api)
        finally:
            await running.close()
