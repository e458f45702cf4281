"""What the surfaces ask of generation: the question with its circumstances, and what comes back. No logic."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from claude_jobs.domain.generation import Answer, Delta, GenerationRequest, ModelCard, Provenance
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.services.caller import Caller

CacheUse = Literal["use", "refresh", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request with its circumstances.

    Attributes:
        org: Who is billed; "" is "default".
        caller: Who asks; its keys are used first.
        fallbacks: (provider, model) to try next, in order; an empty model is the provider's default.
        timeout_s: For the whole chain; None for REQUEST_TIMEOUT to the first token and a generous end.
        cache: "refresh" asks anew and stores the answer; "off" neither reads nor stores.
        cache_stream: Streams are not cached unless asked for.
        priority: Before others when requests wait; higher is sooner.
        hedge: A second route may be started when the first is slow to begin.
    """

    request: GenerationRequest
    caller: Caller
    org: str = ""
    fallbacks: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = None
    cache: CacheUse = "use"
    cache_stream: bool = False
    priority: int = 0
    hedge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Input tokens of a request; `provenance` says whether the provider counted."""

    provider: str
    model: str
    tokens: int
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList:
    """Models by provider; `notes` says per provider why its list is not live (no key, not reachable)."""

    models: tuple[ModelCard, ...]
    notes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One of a batch, as it comes. Exactly one of `answer` and `error` is there; `note` says why it was not by a batch API."""

    index: int
    answer: Answer | None = None
    error: ClaudeJobsError | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EconomyOrder:
    """That a batch can wait a day for half the price.

    Attributes:
        name: Of the batch: asked again under it, what was handed in is waited for, not handed in a second time.
        labels: One for each ask: names it and all that can change its answer.
        cancel: End the providers' batches when the caller leaves; else they go on.
    """

    name: str
    labels: tuple[str, ...]
    cancel: bool = False


class Generation(Protocol):
    """What `services.generation.Generator` is to surfaces. Errors: AdmissionError (quota, rate, route, bad input), ProviderError,
    StoreError. Each carries `call_id` for `explain` where a call was begun."""

    async def generate(self, ask: Ask) -> Answer: ...

    def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer]:
        """Deltas, then the Answer. Closing the generator ends the call; what was used is billed."""
        ...

    def batch(
        self, asks: Sequence[Ask], *, max_parallel: int = 0, economy: EconomyOrder | None = None
    ) -> AsyncGenerator[BatchItem]:
        """All of them, grouped by provider and model, each as it comes. 0: as many at once as MAX_CONCURRENT_REQUESTS."""
        ...

    async def count_tokens(self, ask: Ask) -> TokenCount: ...

    async def models(self, caller: Caller, provider: str = "") -> ModelList: ...
