"""OpenAI: chat completions, and the Responses API where a model does not think beside tools otherwise."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, GenerationRequest, ModelCard, StreamEvent
from claude_jobs.errors import ModelNotFound
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.chat import Chat
from claude_jobs.providers.contract import rules_of, shape
from claude_jobs.providers.failures import About
from claude_jobs.providers.responses import COUNTED, Responses
from claude_jobs.providers.sdk import Api, Dialect

NAME = "openai"
BASE_URL = "https://api.openai.com/v1"

_NOT_CHAT = re.compile(r"audio|realtime|image|transcribe|tts|instruct|search|live|codex|-pro\b|cyber|deep-research")
"""Models of the list that do not answer chat completions."""


class OpenAI:
    """The provider "openai"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._api = Api(NAME, "openai", BASE_URL, settings)
        self._chat = Chat()
        self._responses = Responses()

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        return await self._api.generate(call, self._wire(call))

    def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        return self._api.stream(call, self._wire(call))

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says."""
        return await count_by_responses(self._api, call, self._responses)

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says; only the models that answer here."""
        about = About(provider=NAME, secret=key.secret if key else "")
        cards = await self._api.models(about, key, "/models", {})
        return tuple(
            card for card in cards if re.match(r"gpt-|o\d|chatgpt-|ft:", card.id) and not _NOT_CHAT.search(card.id)
        )

    async def close(self) -> None:
        """As Provider says."""
        await self._api.close()

    def _wire(self, call: ProviderCall) -> Dialect:
        return self._responses if is_by_responses(call.request) else self._chat


def is_by_responses(request: GenerationRequest) -> bool:
    """Whether the Responses API answers it."""
    by_responses = bool(request.tools) and rules_of(NAME, request.model).tools_via == "responses"
    return by_responses and request.effort != "none"


async def count_by_responses(api: Api, call: ProviderCall, wire: Responses) -> int | None:
    """Input tokens as the Responses API counts them; None where it has no such call."""
    rules = rules_of(api.provider, call.request.model, "responses")
    whole = wire.body(shape(call.request, api.provider, rules), is_stream=False)
    body = {key: whole[key] for key in COUNTED if key in whole}
    try:
        count = (await api.post(api.about(call), call.key, "/responses/input_tokens", body)).get("input_tokens")
    except ModelNotFound:
        return None
    return count if isinstance(count, int) else None
