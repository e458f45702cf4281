"""What the client gives: frozen values over what the worker says. Standard library only.

A newer worker may say more than is read here; an older one less, which then has the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, TypeVar, cast

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc.fault import from_fault

Json = Mapping[str, Any]
T = TypeVar("T")
_NANO = Decimal(1_000_000_000)


def read(kind: type[T], said: Json) -> T:
    """The fields of `kind` that were said."""
    names = {one.name for one in fields(cast("Any", kind))}
    return kind(**{name: _frozen(value) for name, value in said.items() if name in names})


def _frozen(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def dollars(nusd: int | None) -> Decimal | None:
    """Nano-dollars as dollars, exact; None if the price is unknown."""
    return None if nusd is None else Decimal(nusd) / _NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, the parts disjoint: `input_tokens` is without the provider's prompt cache, `output_tokens` with thinking.

    Attributes:
        provenance: "reported" by the provider, "estimated", or "unknown".
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    thinking_tokens: int = 0
    total_tokens: int = 0
    provenance: str = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks for. Answer it with a message of the role `tool` and this id as `tool_call_id`."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateAnswer:
    """An answer with all that is known about how it came.

    Attributes:
        parts: What `messages` take as `content` of the assistant, to go on with.
        finish_reason: stop, length, tool_calls, content_filter or other.
        cost_usd: What this call cost, exact; None if nobody knows the price, 0 if it came out of a cache.
        key: Fingerprint of the API key that was used.
        cached: "" or hit, stale, coalesced, batch; `age_s` is its age in seconds.
        job_id: The job that answered, for the provider claude-cli.
        explain: What was tried, waited for and skipped on the way, in order.
    """

    id: str
    text: str
    provider: str
    model: str
    finish_reason: str
    usage: Usage
    cost_usd: Decimal | None
    price: str = ""
    parts: tuple[Mapping[str, Any], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    key: str = ""
    cached: str = ""
    age_s: float = 0.0
    total_ms: float = 0.0
    first_token_ms: float | None = None
    org: str = ""
    job_id: str = ""
    response_id: str = ""
    warnings: tuple[str, ...] = ()
    explain: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


def answer_of(said: Json) -> GenerateAnswer:
    """The answer in a view of it."""
    known = {**said, **said.get("timings", {})}
    known["usage"] = read(Usage, said["usage"])
    known["cost_usd"] = dollars(said.get("cost_nusd"))
    known["tool_calls"] = [read(ToolCall, one) for one in said.get("tool_calls", ())]
    known["key"] = said.get("route", {}).get("key", "")
    return read(GenerateAnswer, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of a stream.

    Attributes:
        kind: "text", "thinking" or "tool".
        text: Of the answer, or of what it thinks.
        index, id, name, arguments: Of a tool call: its place, its id and name with the first piece, a piece of its JSON.
    """

    kind: str
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""


def piece_of(said: Json) -> Piece:
    """The piece in a view of it."""
    return read(Piece, {**said, "kind": said.get("type", "")})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """One of a batch. Exactly one of `answer` and `error` is there.

    Attributes:
        index: Its place among the items.
        key: Your name for it, else its place.
        is_resumed: It was answered when the batch was sent before.
    """

    index: int
    key: str
    answer: GenerateAnswer | None = None
    error: ClaudeJobsError | None = None
    is_resumed: bool = False


def item_of(said: Json) -> BatchAnswer:
    """The item in a view of it."""
    return BatchAnswer(
        index=said["index"],
        key=said["key"],
        answer=answer_of(said["answer"]) if "answer" in said else None,
        error=from_fault(said["error"]) if "error" in said else None,
        is_resumed=bool(said.get("resumed")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Input tokens; `provenance` says who counted: "reported" by the provider, or "estimated"."""

    provider: str
    model: str
    input_tokens: int
    provenance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model. Prices in dollars per million tokens, None: unknown; 0 tokens: unknown."""

    id: str
    provider: str
    name: str = ""
    context_tokens: int = 0
    max_output_tokens: int = 0
    tools: bool = True
    vision: bool = False
    json_schema: bool = True
    thinking: bool = False
    input_usd_mtok: float | None = None
    output_usd_mtok: float | None = None
    is_default: bool = False
    is_live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models; `notes` says per provider why its list is not live."""

    models: tuple[Model, ...]
    notes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job in one line.

    Attributes:
        state: queued, running, blocked, succeeded, failed, cancelled or expired.
        reason: Why a queued job waits: dependency, limit, rate_limit, needs_credential, backoff, capacity.
        note: What it is doing, why it waits, or how it ended.
        is_new: After `spawn`: whether it was made now, or known by its key.
    """

    job_id: str
    state: str
    model: str = ""
    reason: str = ""
    note: str = ""
    label: str = ""
    key: str = ""
    batch_id: str = ""
    elapsed_s: float = 0.0
    attempts: int = 0
    cost_usd: float = 0.0
    unread: bool = False
    is_new: bool = False
    depth: int = 0
    parent_id: str = ""
    ahead: int = 0
    eta_s: float | None = None
    waiting_for: tuple[str, ...] = ()
    worktree: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state not in ("queued", "running", "blocked")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult(Job):
    """A job with what came out.

    Attributes:
        text: The answer, partial if the job failed; bounded, the rest begins at `next_offset`.
        error: Name of the failure, "" if none.
        session_id: `claude --resume <session_id>` in `cwd` opens the job's session by hand.
        structured: The answer as JSON, if a schema was asked for.
        accepted: What its acceptance check said; None if there is none, or it was not reached.
    """

    text: str = ""
    next_offset: int | None = None
    total_chars: int = 0
    error: str = ""
    session_id: str = ""
    cwd: str = ""
    token: str = ""
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    denied: tuple[str, ...] = ()
    structured: Any = None
    accepted: bool | None = None
    corrections: int = 0
    diff: str = ""
