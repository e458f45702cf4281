"""Answers of the HTTP surface as models, for its OpenAPI document. Nothing is made of them: the tests hold answers against them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shown(BaseModel):
    """What an answer says."""

    model_config = ConfigDict(defer_build=True)


class Usage(Shown):
    """Tokens, the parts disjoint: `input_tokens` is without the provider's prompt cache, `output_tokens` with thinking."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    thinking_tokens: int
    total_tokens: int
    provenance: Literal["reported", "estimated", "unknown"]


class RouteShown(Shown):
    """What answered. `key` is the fingerprint of the API key."""

    provider: str
    model: str
    key: str


class Paid(Shown):
    """Exact dollars and nano-dollars, null if nobody knows the price."""

    cost_usd: float | None
    cost_nusd: int | None
    price: Annotated[str, Field(description="Which price list, with its date")]


class StepShown(Shown):
    """One thing that was tried, waited for or skipped."""

    what: str
    outcome: str
    at_ms: float
    took_ms: float = 0
    route: RouteShown | None = None
    why: str = ""
    cost_usd: float | None = None
    cost_nusd: int | None = None
    price: str = ""


class ToolCall(Shown):
    """A call that the model asks for."""

    id: str
    name: str
    arguments: dict[str, Any]


class Timings(Shown):
    """Milliseconds."""

    total_ms: float
    first_token_ms: float | None


class GenerateAnswer(Paid):
    """An answer with all that is known about how it came."""

    id: str
    text: str
    parts: Annotated[list[dict[str, Any]], Field(description="As messages[].content of the assistant takes them")]
    tool_calls: list[ToolCall]
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "other"]
    provider: str
    model: str
    usage: Usage
    route: RouteShown
    cached: Literal["", "hit", "stale", "coalesced", "batch"]
    age_s: float
    timings: Timings
    org: str
    job_id: str
    response_id: str
    warnings: list[str]
    explain: list[StepShown]
    state: str = ""


class ErrorShown(Shown):
    """What went wrong, and whether trying again can help. Some have more fields: limit, used, resets_at, provider, …"""

    code: str
    message: str
    retryable: bool
    field: str = ""
    retry_after_s: float | None = None
    call_id: str = ""


class ErrorAnswer(Shown):
    """Any status of 400 or more."""

    error: ErrorShown


class ItemShown(Shown):
    """One of a batch: an answer or an error."""

    index: int
    key: str
    resumed: bool = False
    answer: GenerateAnswer | None = None
    error: ErrorShown | None = None


class Summary(Shown):
    """What became of a batch. `unpriced` answers have no known price and are not in the cost."""

    items: int
    answered: int
    failed: int
    resumed: int
    unpriced: int
    cost_nusd: int
    cost_usd: float


class BatchAnswer(Shown):
    """A batch, in the order of its items."""

    items: list[ItemShown]
    summary: Summary


class TokenCount(Shown):
    """Input tokens, and who counted them."""

    provider: str
    model: str
    input_tokens: int
    provenance: Literal["reported", "estimated", "unknown"]


class Model(Shown):
    """A model. Prices in dollars per million tokens, null: unknown; 0 tokens of context: unknown."""

    id: str
    provider: str
    name: str
    context_tokens: int
    max_output_tokens: int
    tools: bool
    vision: bool
    json_schema: bool
    thinking: bool
    input_usd_mtok: float | None
    output_usd_mtok: float | None
    is_default: bool
    is_live: bool


class ModelsAnswer(Shown):
    """The models, and per provider why its list is not live."""

    models: list[Model]
    notes: dict[str, str]


class Health(Shown):
    """Whether the worker lives and reaches its store."""

    status: str
    version: str
    jobs: dict[str, int]
    unread: int


class ChatCompletion(Shown):
    """As OpenAI's chat completion, with the route, cost and explanation under `claude_jobs`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None
    claude_jobs: dict[str, Any]


class OpenAiModel(Shown):
    """As OpenAI's model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAiModels(Shown):
    """As OpenAI's list of models."""

    object: Literal["list"]
    data: list[OpenAiModel]


class OpenAiFault(Shown):
    """As OpenAI's error; ours is under `claude_jobs`."""

    message: str
    code: str | None
    type: str = ""
    param: str | None = None


class OpenAiError(Shown):
    """Any status of 400 or more."""

    error: OpenAiFault


class ChatRequest(Shown):
    """As OpenAI's, with ours beside it: provider, fallbacks, cache, org, timeout_s, … Unknown parameters are left out and named
    in `claude_jobs.warnings`."""

    model: Annotated[str, Field(description="provider/name, or a name that tells its provider")] = ""
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool = False
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class ListModels(Shown):
    """Which models to list."""

    provider: Annotated[str, Field(description="Only of this one")] = ""
