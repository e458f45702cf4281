"""Ollama's own dialect: `/api/chat` in lines of JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from claude_jobs.rehearsal.call import Asked, Call, Said, json_object, mapping, mappings, string, understand
from claude_jobs.rehearsal.faults import Fault, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.wires.base import (
    Reply,
    counts,
    encode,
    halves,
    json_reply,
    mould,
    new_id,
    pieces,
    rate_headers,
    shown_text,
    shown_thinking,
    wait_headers,
    waiting_rates,
)

VERSION = "0.14.0"
MODELS = ("llama3.3:latest", "qwen3:8b", "gemma4:12b")
_CREATED = "2026-01-01T00:00:00Z"
_NS_PER_TOKEN = 1_000_000

_ERRORS: dict[Fault, tuple[int, str]] = {
    Fault.RATE_LIMIT: (429, "too many requests"),
    Fault.USAGE_LIMIT: (429, "you've reached your hourly usage limit"),
    Fault.CREDIT: (402, "this model requires a subscription, upgrade for access"),
    Fault.INSUFFICIENT_QUOTA: (402, "this model requires a subscription, upgrade for access"),
    Fault.OVERLOADED: (529, "overloaded"),
    Fault.BUSY: (503, "server busy, please try again.  maximum pending requests exceeded"),
    Fault.SERVER_ERROR: (500, "llama runner process has terminated: exit status 2"),
    Fault.BAD_GATEWAY: (502, "bad gateway"),
    Fault.UNAVAILABLE: (503, "service unavailable"),
    Fault.GATEWAY_TIMEOUT: (504, "gateway timeout"),
    Fault.TIMED_OUT: (408, "request timeout"),
    Fault.UNAUTHORIZED: (401, "unauthorized"),
    Fault.BAD_KEY: (401, "unauthorized"),
    Fault.FORBIDDEN: (403, "forbidden"),
    Fault.BAD_REQUEST: (400, "invalid request (rehearsed)"),
    Fault.BLOCKED: (400, "the request was refused by a policy (rehearsed)"),
    Fault.NOT_FOUND: (404, "model '{model}' not found"),
    Fault.TOO_LARGE: (413, "http: request body too large"),
    Fault.PROMPT_TOO_LONG: (400, "prompt too long; exceeded max context length by 121928 tokens"),
}


class Chat:
    """`POST /api/chat`; it streams unless it is told not to."""

    stream_type = "application/x-ndjson"

    def parse(self, asked: Asked) -> Call:
        data = json_object(asked.body)
        said = [_said(message) for message in mappings(data.get("messages"))]
        given = data.get("format")
        return understand(
            asked,
            data,
            said,
            is_stream=data.get("stream") is not False,
            forced=None,
            schema={} if given == "json" else mapping(given) or None,
            shows_thinking=bool(data.get("think")),
        )

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": shown_text(turn)}
        if shown_thinking(turn, call):
            message["thinking"] = turn.thinking
        if turn.calls:
            message["tool_calls"] = _tool_calls(turn)
        return {**_last(turn, call), "message": message}

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        head: JsonObject = {"model": call.model, "created_at": _CREATED}
        if shown_thinking(turn, call):
            for piece in halves(turn.thinking):
                yield _line(head, {"role": "assistant", "content": "", "thinking": piece})
        if shown_text(turn):
            delta = mould(lambda piece: _line(head, {"role": "assistant", "content": piece}))
            for piece in pieces(turn):
                yield delta(piece)
        if turn.calls:
            yield _line(head, {"role": "assistant", "content": "", "tool_calls": _tool_calls(turn)})
        yield encode({**_last(turn, call), "message": {"role": "assistant", "content": ""}}).encode() + b"\n"

    def broken(self, turn: Turn, call: Call) -> bytes:
        return b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        if fault not in _ERRORS:
            return None
        status, message = _ERRORS[fault]
        headers = wait_headers(turn, RetryAs.SECONDS) | rate_headers(waiting_rates(turn))
        return json_reply({"error": message.replace("{model}", call.model)}, status=status, headers=headers)

    def complain(self, status: int, message: str) -> Reply:
        return json_reply({"error": message}, status=status)

    def headers(self, turn: Turn) -> dict[str, str]:
        return rate_headers(turn.rate)


def look_up(asked: Asked, method: str) -> Reply | None:
    """What it has and what it is; None for what is not here."""
    match method, asked.path:
        case "GET", "/api/version":
            return json_reply({"version": VERSION})
        case "GET", "/api/tags" | "/api/ps":
            return json_reply({"models": [_model(name) for name in MODELS]})
        case "POST", "/api/show":
            data = json_object(asked.body)
            name = string(data.get("model")) or string(data.get("name"))
            return json_reply(_shown(name)) if name in MODELS else Chat().complain(404, f"model '{name}' not found")
        case _:
            return None


def _model(name: str) -> JsonObject:
    details: JsonObject = {"format": "gguf", "family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"}
    return {
        "name": name,
        "model": name,
        "modified_at": _CREATED,
        "size": 4_700_000_000,
        "digest": "0" * 64,
        "details": details,
    }


def _shown(name: str) -> JsonObject:
    return {
        "details": {"format": "gguf", "family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"},
        "model_info": {"general.architecture": "llama", "llama.context_length": 131_072},
        "capabilities": ["completion", "tools", "vision" if name.startswith("gemma") else "thinking"],
    }


def _said(message: JsonObject) -> Said:
    role, text = string(message.get("role")), string(message.get("content"))
    if role == "tool":
        return Said(role=role, results=(text,))
    return Said(role=role, texts=(text,), asks=bool(message.get("tool_calls")))


def _tool_calls(turn: Turn) -> list[JsonObject]:
    return [
        {"id": new_id("call_"), "function": {"index": at, "name": one.name, "arguments": one.input}}
        for at, one in enumerate(turn.calls)
    ]


def _line(head: JsonObject, message: JsonObject) -> bytes:
    return encode({**head, "message": message, "done": False}).encode() + b"\n"


def _last(turn: Turn, call: Call) -> JsonObject:
    used = counts(turn, call)
    figures: JsonObject = (
        {}
        if used is None
        else {
            "prompt_eval_count": used.prompt,
            "prompt_eval_duration": abs(used.prompt) * _NS_PER_TOKEN,
            "eval_count": used.output,
            "eval_duration": abs(used.output) * _NS_PER_TOKEN,
        }
    )
    return {
        "model": call.model,
        "created_at": _CREATED,
        "done": True,
        "done_reason": "length" if turn.fault is Fault.MAX_TOKENS else "stop",
        "total_duration": 1_000_000_000,
        "load_duration": 1_000_000,
        **figures,
    }
