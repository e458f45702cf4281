"""OpenAI's Chat Completions dialect, which Grok and Qwen speak too. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from claude_jobs.rehearsal.call import Asked, Call, Said, json_object, mapping, mappings, string, understand
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.wires import openai
from claude_jobs.rehearsal.wires.base import (
    Counts,
    Reply,
    counts,
    halves,
    mould,
    new_id,
    pieces,
    shown_text,
    shown_thinking,
    sse,
)

_FINISHES: dict[Fault | None, str] = {Fault.CONTENT_FILTER: "content_filter", Fault.MAX_TOKENS: "length"}
_DONE = b"data: [DONE]\n\n"


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    stream_type = "text/event-stream"

    def parse(self, asked: Asked) -> Call:
        data = json_object(asked.body)
        said = [_said(message) for message in mappings(data.get("messages"))]
        return understand(
            asked,
            data,
            said,
            schema=_schema(data),
            forced=openai.forced(data.get("tools"), data.get("tool_choice")),
            shows_thinking=data.get("enable_thinking") is True,
            with_usage=data.get("stream") is not True
            or mapping(data.get("stream_options")).get("include_usage") is True,
        )

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": shown_text(turn) or None, "refusal": None}
        if turn.fault is Fault.REFUSAL:
            message |= {"content": None, "refusal": shown_text(turn)}
        if turn.calls:
            message["tool_calls"] = [_tool_call(one.name, json.dumps(one.input)) for one in turn.calls]
        if shown_thinking(turn, call):
            message["reasoning_content"] = turn.thinking
        choice: JsonObject = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(turn)}
        used = counts(turn, call)
        usage = {} if used is None else {"usage": _usage(used)}
        return {**_envelope(call, "chat.completion"), "choices": [choice], **usage}

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        envelope = _envelope(call, "chat.completion.chunk")
        if call.with_usage:
            envelope["usage"] = None
        event = partial(_event, envelope)
        yield event({"role": "assistant", "content": "", "refusal": None})
        if shown_thinking(turn, call):
            for piece in halves(turn.thinking):
                yield event({"content": None, "reasoning_content": piece})
        if shown_text(turn):
            key = "refusal" if turn.fault is Fault.REFUSAL else "content"
            delta = mould(lambda piece: event({key: piece}))
            for piece in pieces(turn):
                yield delta(piece)
        for at, one in enumerate(turn.calls):
            yield event({"tool_calls": [{"index": at, **_tool_call(one.name, "")}]})
            for piece in halves(json.dumps(one.input)):
                yield event({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
        yield event({}, finish=_finish(turn))
        used = counts(turn, call)
        if call.with_usage and used is not None:
            yield sse({**envelope, "choices": [], "usage": _usage(used)})
        yield _DONE

    def broken(self, turn: Turn, call: Call) -> bytes:
        return sse({"error": openai.overload()})

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        return openai.error(fault, turn, call)

    def complain(self, status: int, message: str) -> Reply:
        return openai.complain(status, message)

    def headers(self, turn: Turn) -> dict[str, str]:
        return openai.headers(turn)


def _said(message: JsonObject) -> Said:
    role, content = string(message.get("role")), message.get("content")
    parts = [part for part in mappings(content) if part.get("type") in ("text", "input_text")]
    texts = (content,) if isinstance(content, str) else tuple(string(part.get("text")) for part in parts)
    if role in ("tool", "function"):
        return Said(role="tool", results=("\n".join(texts),))
    return Said(role=role, texts=texts, asks=bool(message.get("tool_calls")))


def _schema(data: JsonObject) -> JsonObject | None:
    wanted = mapping(data.get("response_format"))
    if wanted.get("type") == "json_schema":
        return mapping(mapping(wanted.get("json_schema")).get("schema"))
    return {} if wanted.get("type") == "json_object" else None


def _finish(turn: Turn) -> str:
    if turn.fault in _FINISHES:
        return _FINISHES[turn.fault]
    return "tool_calls" if turn.calls else "stop"


def _tool_call(name: str, arguments: str) -> JsonObject:
    return {"id": new_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}}


def _envelope(call: Call, kind: str) -> JsonObject:
    return {
        "id": new_id("chatcmpl-"),
        "object": kind,
        "created": 1_767_225_600,
        "model": call.model,
        "system_fingerprint": "fp_rehearsal",
    }


def _event(envelope: JsonObject, delta: JsonObject, finish: str | None = None) -> bytes:
    choice: JsonObject = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return sse({**envelope, "choices": [choice]})


def _usage(used: Counts) -> JsonObject:
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.output,
        "total_tokens": used.prompt + used.output,
        "prompt_tokens_details": {"cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write},
        "completion_tokens_details": {"reasoning_tokens": used.thinking},
    }
