"""Grok by xAI's Responses API; its chat completions are a legacy by xAI's own word."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, ModelCard, StreamEvent
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.failures import About
from claude_jobs.providers.openai import count_by_responses
from claude_jobs.providers.responses import Responses
from claude_jobs.providers.sdk import Api

NAME = "grok"
BASE_URL = "https://api.x.ai/v1"


class Grok:
    """The provider "grok"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._api = Api(NAME, "openai", BASE_URL, settings)
        self._wire = Responses()

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        return await self._api.generate(call, self._wire)

    def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        return self._api.stream(call, self._wire)

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says."""
        return await count_by_responses(self._api, call, self._wire)

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says; only those that answer in words."""
        about = About(provider=NAME, secret=key.secret if key else "")
        cards = await self._api.models(about, key, "/models", {})
        return tuple(
            card for card in cards if not any(word in card.id for word in ("image", "video", "voice", "imagine"))
        )

    async def close(self) -> None:
        """As Provider says."""
        await self._api.close()
