"""Qwen by DashScope's endpoint that speaks OpenAI's chat completions. It counts no tokens for us."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, ModelCard, StreamEvent
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.chat import Chat
from claude_jobs.providers.failures import About
from claude_jobs.providers.sdk import Api

NAME = "qwen"
BASE_URL = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
"""For keys of the international site; one of mainland China needs dashscope.aliyuncs.com."""


class Qwen:
    """The provider "qwen"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._api = Api(NAME, "openai", BASE_URL, settings)
        self._wire = Chat()

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        return await self._api.generate(call, self._wire)

    def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        return self._api.stream(call, self._wire)

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says: never."""
        return None

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says; only Qwen's own."""
        about = About(provider=NAME, secret=key.secret if key else "")
        cards = await self._api.models(about, key, "/models", {})
        return tuple(card for card in cards if card.id.startswith(("qwen", "qwq", "qvq")))

    async def close(self) -> None:
        """As Provider says."""
        await self._api.close()
