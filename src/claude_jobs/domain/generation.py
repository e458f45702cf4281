"""One question to a model and its answer, the same for every provider. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """Who says a message. System texts are a field of the request."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture, its bytes in base64. `media_type` is image/png, image/jpeg, image/gif or image/webp."""

    media_type: str
    data: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call the model asked for: in an answer, or given back in the history. `signature` is the provider's own, opaque."""

    id: str
    name: str
    arguments: Mapping[str, object]
    signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave for the call of that id."""

    id: str
    name: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What the model thought. `signature` is the provider's own, opaque, and must come back unchanged with the history."""

    text: str
    signature: str = ""


Part = Text | Image | ToolUse | ToolResult | Thinking


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may ask for. `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])


Effort = Literal["", "none", "low", "medium", "high"]
"""How much it may think; "" leaves it to the model, "none" asks for no thinking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What is asked. Everything in it but `metadata` can change the answer.

    Attributes:
        provider: As in `policy.providers.NAMES`; "" lets the route decide.
        model: As the provider names it; "" is the provider's default.
        tool_choice: "auto", "none", "required", or a tool's name.
        output_schema: JSON Schema of the answer; None for free text.
        max_output_tokens: None: the contract's cap for the model.
        metadata: For the caller's own records; sent to nobody.
    """

    messages: tuple[Message, ...]
    provider: str = ""
    model: str = ""
    system: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    output_schema: Mapping[str, object] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    effort: Effort = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


class Provenance(StrEnum):
    """Where a figure comes from. Unknown is not zero."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one call, the parts disjoint: `input` is without cache reads and writes, `output` is with thinking.

    Attributes:
        thinking: How many of `output` were thought, where the provider says so.
        cache_write_1h: How many of `cache_write` are kept an hour, which costs more (Anthropic).
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    thinking: int = 0
    provenance: Provenance = Provenance.REPORTED

    @property
    def total(self) -> int:
        """Everything that counts against a token quota."""
        return self.input + self.output + self.cache_read + self.cache_write


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call cost.

    Attributes:
        nusd: Nano-dollars (1 dollar = 10**9); None if nobody knows the price, which is not zero.
        price: Which price, with its version or date ("genai-prices 0.2.3", "own 2026-11-21", "local", "cached").
    """

    nusd: int | None
    price: str = ""


UNKNOWN_COST = Cost(nusd=None)


class FinishReason(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a provider answered: the parts, and what is known of the rest.

    Attributes:
        model: As the provider names what answered.
        warnings: What of the request was renamed or dropped for this model, one line each.
        limits: Rate-limit headers of the answer, as policy.headers reads them.
    """

    parts: tuple[Part, ...]
    finish: FinishReason
    tokens: Tokens
    model: str
    warnings: tuple[str, ...] = ()
    limits: RateHeaders | None = None
    response_id: str = ""

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolUse, ...]:
        """The calls it asks for."""
        return tuple(part for part in self.parts if isinstance(part, ToolUse))


@dataclass(frozen=True, slots=True, kw_only=True)
class RateHeaders:
    """What a provider said of a key's limits: requests and tokens left, and when they are full again (seconds from then)."""

    requests_limit: int | None = None
    requests_left: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta:
    """A piece of what it thinks."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDelta:
    """A piece of a tool call; `name` comes with the first one of each `index`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


Delta = TextDelta | ThinkingDelta | ToolDelta
StreamEvent = Delta | Completion
"""A provider's stream: deltas, then exactly one Completion as the last. It ends in no other way but a ProviderError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model can do and costs.

    Attributes:
        context_tokens, max_output_tokens: 0 if unknown.
        input_nusd_mtok, output_nusd_mtok: Nano-dollars per million tokens; None if unknown.
        is_live: Whether the provider itself listed it just now (else it is from our table).
    """

    id: str
    provider: str
    name: str = ""
    context_tokens: int = 0
    max_output_tokens: int = 0
    tools: bool = True
    vision: bool = False
    json_schema: bool = True
    thinking: bool = False
    input_nusd_mtok: int | None = None
    output_nusd_mtok: int | None = None
    is_default: bool = False
    is_live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request may go. `key` is the fingerprint of the API key, "" where none is needed."""

    provider: str
    model: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was tried, waited for or skipped on the way to an answer; the explain record is a list of these.

    Attributes:
        what: "cache", "coalesce", "route", "skip", "wait", "quota", "attempt", "retry", "fallback", "hedge", "batch".
        outcome: "hit", "miss", "stale", "leader", "follower", "ok", "denied", or an error's code.
        at_ms: Milliseconds since the call began.
    """

    what: str
    outcome: str
    at_ms: float
    took_ms: float = 0.0
    route: Route | None = None
    why: str = ""
    cost: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion with all that we know about how it came.

    Attributes:
        id: Of the call; `explain` takes it.
        route: What answered; of a cached answer, what answered then.
        cached: "" or "hit", "stale", "coalesced".
        age_s: Of a cached answer.
        paid: What this call cost: nothing if cached. `completion.tokens` stay those of the original.
        job_id: The job that answered, for the provider claude-cli.
    """

    id: str
    completion: Completion
    route: Route
    paid: Cost
    steps: tuple[Step, ...]
    took_ms: float
    first_token_ms: float | None = None
    cached: str = ""
    age_s: float = 0.0
    org: str = ""
    job_id: str = ""
