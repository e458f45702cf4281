"""What every provider is to the rest: a Protocol, the call it gets, and how it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, GenerationRequest, ModelCard, StreamEvent

MAX_CONNECTIONS = 100
MAX_PER_HOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """How a provider is reached.

    Attributes:
        base_url: "" for the provider's own; the operator's word otherwise.
        connections: Most connections in all; `per_host` to one host.
    """

    base_url: str = ""
    connections: int = MAX_CONNECTIONS
    per_host: int = MAX_PER_HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCall:
    """One attempt.

    Attributes:
        request: Complete: `model` and `max_output_tokens` are set.
        key: None for providers that need none.
        first_s: Time to the first byte of a stream, or to the whole answer of a call that does not stream.
        idle_s: Longest silence between two pieces of a stream.
    """

    request: GenerationRequest
    key: ApiKey | None = None
    first_s: float = 30.0
    idle_s: float = 60.0


class Provider(Protocol):
    """One API. Every method raises ProviderError and nothing else of the API's, and never retries.

    Cancelling closes the connection. Safe to call many times at once on one event loop.
    """

    name: str

    async def generate(self, call: ProviderCall) -> Completion:
        """The whole answer. `Completion.warnings` says what of the request was renamed or dropped for the model."""
        ...

    def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """Deltas as they come, then one Completion with everything. A stream that ends without is a ProviderError."""
        ...

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """Input tokens as the provider counts them; None if it does not count for us."""
        ...

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """The models that key may use, live."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
