"""The real path from a question to its answer, in this process, against the rehearsal API by the real SDKs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from support_app import environment

from claude_jobs.domain.generation import Answer, Route
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.factory import App, open_app
from claude_jobs.generation_parts import Opened
from claude_jobs.rehearsal.script import Script
from claude_jobs.rehearsal.server import Rehearsal, Request
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Ask
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.settings import load

KEYS = {
    "openai": "OPENAI_API_KEY",
    "claude": "ANTHROPIC_API_KEY",
    "gemini": "GOOGLE_API_KEY",
    "grok": "XAI_API_KEY",
    "qwen": "DASHSCOPE_API_KEY",
}


def addresses(url: str) -> dict[str, str]:
    """Settings that send all providers to the rehearsal."""
    return {
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "OPENAI_BASE_URL": f"{url}/openai/v1",
        "GOOGLE_BASE_URL": f"{url}/gemini",
        "XAI_BASE_URL": f"{url}/xai/v1",
        "DASHSCOPE_BASE_URL": f"{url}/dashscope/compatible-mode/v1",
        "OLLAMA_ENDPOINT": f"{url}/ollama",
    }


def keys(*numbers: int) -> tuple[tuple[str, str], ...]:
    """Rehearsed keys of all providers."""
    return tuple((f"{name}{n}", f"sk-rehearsal-{n}") for name in KEYS.values() for n in numbers or (1,))


@dataclass
class Place:
    """An open app and the API that it asks."""

    app: App
    api: Rehearsal
    caller: Caller

    def ask(self, prompt: str = "Say hello.", **fields: Any) -> Ask:
        """As a front would write it. A `rehearse` field is the API's directive."""
        directive = fields.pop("rehearse", None)
        body = {"prompt": prompt + (f" rehearse: {json.dumps(directive)}" if directive else ""), **fields}
        return GenerateRequest.parse({"provider": "claude", **body}).ask(self.caller)

    async def generate(self, prompt: str = "Say hello.", **fields: Any) -> Answer:
        """The answer to it."""
        return await self.app.generation.generate(self.ask(prompt, **fields))

    async def fails(self, prompt: str = "Say hello.", **fields: Any) -> ClaudeJobsError:
        """The error that it ends with."""
        try:
            answer = await self.generate(prompt, **fields)
        except ClaudeJobsError as error:
            return error
        raise AssertionError(f"answered: {answer}")

    async def opened(self) -> Opened:
        """What is behind generation."""
        return await self.app.generation.opened()

    def asked(self, prompt: str = "") -> list[Request]:
        """The calls that reached the API, of that prompt."""
        return [request for request in self.api.requests if request.prompt.startswith(prompt)]

    async def steps(self, call_id: str) -> list[tuple[str, str]]:
        """What the explain record tells of a call."""
        view = await self.app.oversight.explain(call_id)
        return [(step["what"], step["outcome"]) for step in cast("list[dict[str, str]]", view["explain"])]

    async def settled(self, quota_id: str = "") -> dict[str, dict[str, Any]]:
        """Quotas by id."""
        return {str(view["id"]): view for view in await self.app.oversight.quotas("default")}


@asynccontextmanager
async def generating(
    root: Path, *, script: Script | None = None, numbers: tuple[int, ...] = (1,), **settings: str
) -> AsyncGenerator[Place]:
    """An app of its own in `root`, its providers rehearsed, its caller with keys of these numbers."""
    async with Rehearsal(script) as api:
        env = environment(root, **{**addresses(api.url), **settings})
        async with open_app(load(env), Home.resolve(env)) as app:
            yield Place(app, api, Caller(cwd=str(root / "work"), submitter="uid:0", keys=keys(*numbers)))


def shown(answer: Answer) -> list[tuple[str, str]]:
    """The steps of an answer, without their details."""
    return [(step.what, step.outcome) for step in answer.steps]


def where(route: Route) -> str:
    """Provider and model."""
    return f"{route.provider}/{route.model}"
