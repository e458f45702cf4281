"""What callers see of a generation: flat values that become JSON. One view for MCP, socket, HTTP and shell."""

from __future__ import annotations

from datetime import UTC, datetime

from claude_jobs.domain.generation import (
    Answer,
    Cost,
    Delta,
    Image,
    ModelCard,
    Part,
    Route,
    Step,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tokens,
    ToolDelta,
    ToolResult,
    ToolUse,
)
from claude_jobs.domain.usage import usd
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.services.generation_api import BatchItem, ModelList, TokenCount

View = dict[str, object]

_ERROR_FIELDS = (
    *("field", "counter", "limit", "used", "asked", "resets_ms", "retry_after_s", "tried"),
    *("provider", "model", "status", "job_id", "call_id", "value", "chain"),
)
"""What of an error helps who gets it; paths of this machine do not."""


def answer_view(answer: Answer) -> View:
    """An answer with all that is known about it.

    `parts` can be given back as `messages[].content` of the assistant. `cost_usd` is exact to the nano-dollar, null if
    nobody knows the price, 0 if it came out of the cache; `usage` stays that of the call which made the answer.
    """
    done = answer.completion
    view: View = {
        "id": answer.id,
        "text": done.text,
        "parts": [part_view(part) for part in done.parts],
        "tool_calls": [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in done.tool_calls],
        "finish_reason": done.finish.value,
        "provider": answer.route.provider,
        "model": done.model or answer.route.model,
        "usage": usage_view(done.tokens),
        **cost_view(answer.paid),
        "route": route_view(answer.route),
        "cached": answer.cached,
        "age_s": round(answer.age_s, 3),
        "timings": {"total_ms": round(answer.took_ms, 3), "first_token_ms": _rounded(answer.first_token_ms)},
        "org": answer.org,
        "job_id": answer.job_id,
        "response_id": done.response_id,
        "warnings": list(done.warnings),
        "explain": [step_view(step) for step in answer.steps],
    }
    return {**view, "state": "succeeded"} if answer.job_id else view


def usage_view(tokens: Tokens) -> View:
    """Tokens; `input_tokens` is without those read from or written to a provider's prompt cache."""
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_tokens": tokens.cache_write,
        "thinking_tokens": tokens.thinking,
        "total_tokens": tokens.total,
        "provenance": tokens.provenance.value,
    }


def cost_view(cost: Cost) -> View:
    """Dollars, exact in decimal: a nano-dollar is the ninth digit, and a double keeps fifteen. None is not zero."""
    return {"cost_usd": None if cost.nusd is None else usd(cost.nusd), "cost_nusd": cost.nusd, "price": cost.price}


def route_view(route: Route) -> View:
    """Provider, model and the fingerprint of the key."""
    return {"provider": route.provider, "model": route.model, "key": route.key}


def step_view(step: Step) -> View:
    """One line of the explanation; what says nothing is left out."""
    view: View = {"what": step.what, "outcome": step.outcome, "at_ms": round(step.at_ms, 3)}
    if step.took_ms:
        view["took_ms"] = round(step.took_ms, 3)
    if step.route is not None:
        view["route"] = route_view(step.route)
    if step.why:
        view["why"] = step.why
    if step.cost is not None:
        view.update(cost_view(step.cost))
    return view


def part_view(part: Part) -> View:
    """A part as messages take it."""
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Thinking():
            return {"type": "thinking", "text": part.text, "signature": part.signature}
        case ToolUse():
            view: View = {"type": "tool_use", "id": part.id, "name": part.name, "arguments": part.arguments}
            return {**view, "signature": part.signature} if part.signature else view
        case ToolResult():
            return {"type": "tool_result", "id": part.id, "text": part.text, "is_error": part.is_error}
        case Image():
            return {"type": "image", "media_type": part.media_type, "data": part.data}


def delta_view(delta: Delta) -> View:
    """A piece of a stream. The name of a tool comes with the first piece of each `index`."""
    match delta:
        case TextDelta():
            return {"type": "text", "text": delta.text}
        case ThinkingDelta():
            return {"type": "thinking", "text": delta.text}
        case ToolDelta():
            view: View = {"type": "tool", "index": delta.index, "arguments": delta.arguments}
            return {**view, "id": delta.id, "name": delta.name} if delta.name or delta.id else view


def error_view(error: ClaudeJobsError) -> View:
    """An error: code, message, whether trying again can help, and the fields that it has."""
    view: View = {"code": error.code, "message": error.message, "retryable": error.retryable}
    for name in _ERROR_FIELDS:
        value: object = getattr(error, name, None)
        if value is not None and value != "" and value != ():
            view[name] = list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType]
    resets_ms = view.get("resets_ms")
    if isinstance(resets_ms, int):
        view["resets_at"] = datetime.fromtimestamp(resets_ms / 1000, UTC).isoformat(timespec="seconds")
    return view


def batch_item_view(item: BatchItem, key: str) -> View:
    """One of a batch: `answer` or `error`."""
    view: View = {"index": item.index, "key": key, **({"note": item.note} if item.note else {})}
    if item.error is not None:
        return {**view, "error": error_view(item.error)}
    assert item.answer is not None, "an item has an answer or an error"
    return {**view, "answer": answer_view(item.answer)}


def count_view(count: TokenCount) -> View:
    """Input tokens, and who counted them."""
    return {
        "provider": count.provider,
        "model": count.model,
        "input_tokens": count.tokens,
        "provenance": count.provenance.value,
    }


def models_view(models: ModelList) -> View:
    """The models, and per provider why its list is not live."""
    return {"models": [card_view(card) for card in models.models], "notes": dict(models.notes)}


def card_view(card: ModelCard) -> View:
    """A model: what it can do, and what it costs in dollars per million tokens (null: unknown)."""
    return {
        "id": card.id,
        "provider": card.provider,
        "name": card.name,
        "context_tokens": card.context_tokens,
        "max_output_tokens": card.max_output_tokens,
        "tools": card.tools,
        "vision": card.vision,
        "json_schema": card.json_schema,
        "thinking": card.thinking,
        "input_usd_mtok": _dollars(card.input_nusd_mtok),
        "output_usd_mtok": _dollars(card.output_nusd_mtok),
        "is_default": card.is_default,
        "is_live": card.is_live,
    }


def _dollars(nusd: int | None) -> float | None:
    return None if nusd is None else usd(nusd)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
