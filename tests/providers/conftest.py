"""Each provider of the registry against the rehearsal API. A new one takes part by its place there and a path here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from providers.support_calls import SECRET, asking, key_of
from providers.support_relay import Relay

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Message
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.providers.base import Provider, ProviderCall, ProviderSettings
from claude_jobs.providers.registry import DEFAULT_MODELS, PROVIDERS
from claude_jobs.rehearsal.server import Rehearsal

PATHS = {
    "openai": "/openai/v1",
    "grok": "/xai/v1",
    "qwen": "/dashscope/compatible-mode/v1",
    "claude": "/anthropic",
    "gemini": "/gemini",
    "llama": "/ollama",
}
INSTALLED = "qwen3:8b"
"""What Ollama's part of the rehearsal has."""


@dataclass(slots=True)
class Desk:
    """One provider, a rehearsal that plays its API, and a relay between them that sees the connections."""

    name: str
    provider: Provider
    api: Rehearsal
    relay: Relay
    model: str
    key: ApiKey | None = field(repr=False)

    def call(self, *messages: Message | str, model: str = "", secret: str = SECRET, **more: Any) -> ProviderCall:
        """A call for the provider's default model with its key."""
        key = key_of(self.name, secret) if self.key else None
        return asking(model or self.model, *messages, key=key, **more)


@pytest.fixture(params=sorted(PROVIDERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as running:
        yield running


@pytest.fixture
async def desk(name: str, api: Rehearsal) -> AsyncIterator[Desk]:
    async with Relay(api.url) as relay:
        provider = PROVIDERS[name](ProviderSettings(base_url=relay.url + PATHS[name]))
        key = key_of(name) if name in KEY_NAMES else None
        yield Desk(name, provider, api, relay, DEFAULT_MODELS[name] or INSTALLED, key)
        await provider.close()
        await relay.is_quiet()
