"""The Anthropic Messages dialect, of Claude Code and of the SDK. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from claude_jobs.rehearsal.call import (
    Asked,
    Call,
    Said,
    count_tokens,
    json_object,
    mapping,
    mappings,
    string,
    understand,
)
from claude_jobs.rehearsal.faults import Fault, LimitWindow, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.figures import Rates
from claude_jobs.rehearsal.play import Meter, Turn
from claude_jobs.rehearsal.schema import instance
from claude_jobs.rehearsal.script import ToolCall
from claude_jobs.rehearsal.wires.base import (
    Counts,
    Reply,
    counts,
    halves,
    json_reply,
    mould,
    new_id,
    pieces,
    shown_text,
    shown_thinking,
    sse,
    stamp,
    wait_headers,
    waiting_rates,
)

MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2")
_CWD = re.compile(r"working directory: *([^\n]+)", re.IGNORECASE)
_WARNING = 0.8

# status, error type, message
_ERRORS: dict[Fault, tuple[int, str, str]] = {
    Fault.RATE_LIMIT: (429, "rate_limit_error", "Number of requests has exceeded your rate limit (rehearsed)."),
    Fault.USAGE_LIMIT: (429, "rate_limit_error", "This request would exceed your account's rate limit (rehearsed)."),
    Fault.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    Fault.BUSY: (529, "overloaded_error", "Overloaded"),
    Fault.SERVER_ERROR: (500, "api_error", "Internal server error"),
    Fault.BAD_GATEWAY: (502, "api_error", "Bad gateway"),
    Fault.UNAVAILABLE: (503, "api_error", "Service unavailable"),
    Fault.GATEWAY_TIMEOUT: (504, "timeout_error", "Request timed out"),
    Fault.TIMED_OUT: (408, "timeout_error", "Request timed out"),
    Fault.UNAUTHORIZED: (401, "authentication_error", "Invalid bearer token"),
    Fault.BAD_KEY: (401, "authentication_error", "invalid x-api-key"),
    Fault.FORBIDDEN: (403, "permission_error", "OAuth token does not meet scope requirement (rehearsed)"),
    Fault.BAD_REQUEST: (400, "invalid_request_error", "Bad request (rehearsed)"),
    Fault.BLOCKED: (400, "invalid_request_error", "Output blocked by content filtering policy"),
    Fault.NOT_FOUND: (404, "not_found_error", "model: {model}"),
    Fault.TOO_LARGE: (413, "request_too_large", "Request exceeds the maximum size"),
    Fault.PROMPT_TOO_LONG: (400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"),
    Fault.CREDIT: (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
    ),
}
_ERRORS[Fault.INSUFFICIENT_QUOTA] = _ERRORS[Fault.CREDIT]
_STOPS: dict[Fault | None, str] = {
    Fault.REFUSAL: "refusal",
    Fault.CONTENT_FILTER: "refusal",
    Fault.MAX_TOKENS: "max_tokens",
}


class Messages:
    """`POST /v1/messages`."""

    stream_type = "text/event-stream"

    def parse(self, asked: Asked) -> Call:
        data = json_object(asked.body)
        messages = mappings(data.get("messages"))
        last = len(json.dumps(messages[-1])) if messages else 0
        user = string(mapping(data.get("metadata")).get("user_id"))
        call = understand(
            asked,
            data,
            [_said(message) for message in messages],
            session=asked.session or user,
            cwd=_cwd(data, messages),
            schema=_schema(data),
            forced=_forced(data),
            shows_thinking=mapping(data.get("thinking")).get("type") in ("enabled", "adaptive"),
        )
        return replace(call, input_tokens=max(1, last // 4), earlier_tokens=max(0, len(asked.body) - last) // 4)

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        content: list[JsonObject] = []
        if shown_thinking(turn, call):
            content.append({"type": "thinking", "thinking": turn.thinking, "signature": _signature(turn)})
        if text := shown_text(turn):
            content.append({"type": "text", "text": text})
        content += [_tool_use(one, one.input) for one in turn.calls]
        return {
            **_envelope(call),
            "content": content,
            "stop_reason": _stop_reason(turn),
            **_usage(counts(turn, call)),
        }

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        """Text comes in pieces, so that it can be spread over time or cut."""
        used = counts(turn, call)
        usage = _usage(used)
        start = {"usage": {**mapping(usage.get("usage")), "output_tokens": 1}} if usage else {}
        envelope: JsonObject = {**_envelope(call), "content": [], "stop_reason": None, **start}
        yield _event("message_start", {"message": envelope})
        yield _event("ping", {})
        at = 0
        if shown_thinking(turn, call):
            yield from _thinking_block(at, turn)
            at += 1
        if shown_text(turn):
            yield from _text_block(at, turn)
            at += 1
        for one in turn.calls:
            yield from _tool_block(at, one)
            at += 1
        stop: JsonObject = {"stop_reason": _stop_reason(turn), "stop_sequence": None}
        yield _event("message_delta", {"delta": stop, **usage})
        yield _event("message_stop", {})

    def broken(self, turn: Turn, call: Call) -> bytes:
        return _event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        if fault not in _ERRORS:
            return None
        status, kind, message = _ERRORS[fault]
        headers = _meter_headers(turn.meter) if fault is Fault.USAGE_LIMIT else {}
        headers |= wait_headers(turn, RetryAs.SECONDS) | _rate_headers(waiting_rates(turn), turn.at)
        return _error(status, kind, message.replace("{model}", call.model), headers)

    def complain(self, status: int, message: str) -> Reply:
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        return _error(status, kinds.get(status, "invalid_request_error"), message)

    def headers(self, turn: Turn) -> dict[str, str]:
        return {**_meter_headers(turn.meter), **_rate_headers(turn.rate, turn.at)}


def look_up(method: str, path: str, body: bytes) -> Reply | None:
    """Models and counts; None for what is not here."""
    if method == "POST" and path == "/v1/messages/count_tokens":
        return json_reply({"input_tokens": count_tokens(body)})
    if method != "GET":
        return None
    if path == "/v1/models":
        return json_reply(
            {"data": [_model(name) for name in MODELS], "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        )
    name = path.removeprefix("/v1/models/")
    return json_reply(_model(name)) if name in MODELS else None


def _model(name: str) -> JsonObject:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    body: JsonObject = {"type": "error", "error": {"type": kind, "message": message}, "request_id": new_id("req_")}
    return json_reply(body, status=status, headers=headers)


def _said(message: JsonObject) -> Said:
    content = message.get("content")
    blocks = mappings(content)
    role = string(message.get("role"))
    return Said(
        role=role,
        texts=_texts(content),
        asks=role == "assistant" and any(block.get("type") == "tool_use" for block in blocks),
        results=tuple(
            "\n".join(_texts(block.get("content"))) for block in blocks if block.get("type") == "tool_result"
        ),
    )


def _texts(content: object) -> tuple[str, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(string(block.get("text")) for block in mappings(content) if block.get("type") == "text")


def _cwd(data: JsonObject, messages: list[JsonObject]) -> str:
    """The latest working directory the client told the model about."""
    texts = list(_texts(data.get("system")))
    for message in messages:
        is_system = message.get("role") == "system"
        texts += [text for text in _texts(message.get("content")) if is_system or "<system-reminder>" in text]
    found = [match.group(1).strip() for text in texts for match in _CWD.finditer(text)]
    return found[-1] if found else ""


def _schema(data: JsonObject) -> JsonObject | None:
    given = mapping(mapping(data.get("output_config")).get("format")) or mapping(data.get("output_format"))
    return mapping(given.get("schema")) if given.get("type") == "json_schema" else None


def _forced(data: JsonObject) -> ToolCall | None:
    choice = mapping(data.get("tool_choice"))
    tools = [
        one
        for one in mappings(data.get("tools"))
        if choice.get("type") == "any" or one.get("name") == choice.get("name")
    ]
    if choice.get("type") not in ("any", "tool") or not tools:
        return None
    return ToolCall(name=string(tools[0].get("name")), input=mapping(instance(mapping(tools[0].get("input_schema")))))


def _event(kind: str, data: JsonObject) -> bytes:
    return sse({"type": kind, **data}, kind)


def _tool_use(call: ToolCall, arguments: JsonObject) -> JsonObject:
    return {"type": "tool_use", "id": new_id("toolu_"), "name": call.name, "input": arguments}


def _signature(turn: Turn) -> str:
    return f"rehearsed-{len(turn.thinking)}"


def _thinking_block(at: int, turn: Turn) -> Iterator[bytes]:
    yield _event(
        "content_block_start", {"index": at, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}
    )
    for piece in halves(turn.thinking):
        yield _event("content_block_delta", {"index": at, "delta": {"type": "thinking_delta", "thinking": piece}})
    signed: JsonObject = {"type": "signature_delta", "signature": _signature(turn)}
    yield _event("content_block_delta", {"index": at, "delta": signed})
    yield _event("content_block_stop", {"index": at})


def _text_block(at: int, turn: Turn) -> Iterator[bytes]:
    yield _event("content_block_start", {"index": at, "content_block": {"type": "text", "text": ""}})
    delta = mould(
        lambda piece: _event("content_block_delta", {"index": at, "delta": {"type": "text_delta", "text": piece}})
    )
    for piece in pieces(turn):
        yield delta(piece)
    yield _event("content_block_stop", {"index": at})


def _tool_block(at: int, one: ToolCall) -> Iterator[bytes]:
    yield _event("content_block_start", {"index": at, "content_block": _tool_use(one, {})})
    for piece in halves(json.dumps(one.input)):
        delta: JsonObject = {"type": "input_json_delta", "partial_json": piece}
        yield _event("content_block_delta", {"index": at, "delta": delta})
    yield _event("content_block_stop", {"index": at})


def _stop_reason(turn: Turn) -> str:
    if turn.fault in _STOPS:
        return _STOPS[turn.fault]
    return "tool_use" if turn.calls else "end_turn"


def _envelope(call: Call) -> JsonObject:
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": call.model, "stop_sequence": None}


def _usage(used: Counts | None) -> JsonObject:
    """The key `usage`, or nothing."""
    if used is None:
        return {}
    usage: JsonObject = {
        "input_tokens": used.input,
        "output_tokens": used.output,
        "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": used.cache_write, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    }
    return {"usage": usage}


def _rate_headers(rates: Rates | None, at: float) -> dict[str, str]:
    """`anthropic-ratelimit-requests-*` and `-tokens-*` of API keys; resets are stamps."""
    if rates is None:
        return {}
    values = {
        "requests-limit": rates.limit_requests,
        "requests-remaining": rates.remaining_requests,
        "requests-reset": None if rates.reset_requests_s is None else stamp(at + rates.reset_requests_s),
        "tokens-limit": rates.limit_tokens,
        "tokens-remaining": rates.remaining_tokens,
        "tokens-reset": None if rates.reset_tokens_s is None else stamp(at + rates.reset_tokens_s),
    }
    return {f"anthropic-ratelimit-{key}": str(value) for key, value in values.items() if value is not None}


def _meter_headers(meter: Meter | None) -> dict[str, str]:
    """The `anthropic-ratelimit-unified-*` headers; names as Claude Code reads them."""
    if meter is None:
        return {}
    claim = meter.rejected or (LimitWindow.SEVEN_DAY if meter.seven_day > meter.five_hour else LimitWindow.FIVE_HOUR)
    reset = {
        LimitWindow.FIVE_HOUR: meter.five_hour_resets_at,
        LimitWindow.SEVEN_DAY: meter.seven_day_resets_at,
        LimitWindow.SEVEN_DAY_OPUS: meter.seven_day_resets_at,
    }[claim]
    five = _level(meter.five_hour, rejected=meter.rejected is LimitWindow.FIVE_HOUR)
    seven = _level(meter.seven_day, rejected=meter.rejected is LimitWindow.SEVEN_DAY)
    values = {
        "status": "rejected"
        if meter.rejected
        else "allowed_warning"
        if "allowed_warning" in (five, seven)
        else "allowed",
        "reset": f"{reset:.0f}",
        "representative-claim": claim.value,
        "fallback-percentage": "0.5",
        "overage-status": "rejected",
        "overage-disabled-reason": "org_level_disabled",
        "5h-status": five,
        "5h-reset": f"{meter.five_hour_resets_at:.0f}",
        "5h-utilization": f"{meter.five_hour:.4g}",
        "7d-status": seven,
        "7d-reset": f"{meter.seven_day_resets_at:.0f}",
        "7d-utilization": f"{meter.seven_day:.4g}",
    }
    return {f"anthropic-ratelimit-unified-{key}": value for key, value in values.items()}


def _level(share: float, *, rejected: bool) -> str:
    if rejected:
        return "rejected"
    return "allowed_warning" if share >= _WARNING else "allowed"
