"""Calls of providers for the tests: short to write, and read to their ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, Delta, GenerationRequest, Message, Part, Role, Text
from claude_jobs.providers.base import Provider, ProviderCall

SECRET = "sk-rehearsal-1"


def key_of(provider: str, secret: str = SECRET) -> ApiKey:
    return ApiKey(provider=provider, name="TEST_KEY", secret=secret)


def user(*parts: Part | str) -> Message:
    return Message(role=Role.USER, parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def directive(**action: Any) -> str:
    """What the rehearsal API does with the prompt that contains it."""
    return "rehearse: " + json.dumps(action)


def asking(
    model: str,
    *messages: Message | str,
    key: ApiKey | None = None,
    first_s: float = 60,
    idle_s: float = 60,
    **more: Any,
) -> ProviderCall:
    turns = tuple(user(each) if isinstance(each, str) else each for each in messages)
    fields: dict[str, Any] = {"max_output_tokens": 1_000, **more}
    return ProviderCall(
        request=GenerationRequest(messages=turns, model=model, **fields), key=key, first_s=first_s, idle_s=idle_s
    )


async def streamed(provider: Provider, call: ProviderCall) -> tuple[Sequence[Delta], Completion]:
    """The deltas and the one completion that ends them."""
    *deltas, last = [event async for event in provider.stream(call)]
    assert isinstance(last, Completion)
    assert not any(isinstance(delta, Completion) for delta in deltas)
    return [delta for delta in deltas if not isinstance(delta, Completion)], last
