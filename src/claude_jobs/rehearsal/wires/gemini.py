"""Gemini's dialect: `models/…:generateContent` and its stream, in v1 and v1beta. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

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
from claude_jobs.rehearsal.faults import Fault, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.schema import instance
from claude_jobs.rehearsal.script import ToolCall
from claude_jobs.rehearsal.wires.base import (
    Reply,
    counts,
    halves,
    json_reply,
    mould,
    new_id,
    pieces,
    rate_headers,
    shown_text,
    shown_thinking,
    sse,
    wait_headers,
    waiting_rates,
)

MODELS = ("gemini-3.8-pro", "gemini-3.8-flash", "gemini-4-argon")
_UPPER = re.compile("[A-Z]")
_INFO = (RetryAs.RETRY_INFO, RetryAs.REQUESTS_RESET, RetryAs.TOKENS_RESET)
_FINISHES: dict[Fault | None, str] = {
    Fault.REFUSAL: "SAFETY",
    Fault.CONTENT_FILTER: "PROHIBITED_CONTENT",
    Fault.MAX_TOKENS: "MAX_TOKENS",
}

# HTTP status, google.rpc code, message
_ERRORS: dict[Fault, tuple[int, str, str]] = {
    Fault.RATE_LIMIT: (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    Fault.USAGE_LIMIT: (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    Fault.INSUFFICIENT_QUOTA: (
        *(429, "RESOURCE_EXHAUSTED"),
        "You exceeded your current quota, please check your plan and billing details. limit: 0, model: {model}",
    ),
    Fault.OVERLOADED: (529, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    Fault.BUSY: (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    Fault.SERVER_ERROR: (500, "INTERNAL", "An internal error has occurred."),
    Fault.BAD_GATEWAY: (502, "UNAVAILABLE", "Bad gateway."),
    Fault.UNAVAILABLE: (503, "UNAVAILABLE", "The service is currently unavailable."),
    Fault.GATEWAY_TIMEOUT: (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    Fault.TIMED_OUT: (408, "DEADLINE_EXCEEDED", "Request timed out."),
    Fault.UNAUTHORIZED: (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    Fault.BAD_KEY: (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    Fault.FORBIDDEN: (403, "PERMISSION_DENIED", "The caller does not have permission"),
    Fault.BAD_REQUEST: (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    Fault.NOT_FOUND: (404, "NOT_FOUND", "models/{model} is not found for API version v1beta."),
    Fault.TOO_LARGE: (413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    Fault.PROMPT_TOO_LONG: (
        *(400, "INVALID_ARGUMENT"),
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
}
_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


class GenerateContent:
    """`POST /…/models/{model}:generateContent` and `:streamGenerateContent`."""

    stream_type = "text/event-stream"

    def parse(self, asked: Asked) -> Call:
        data = json_object(asked.body)
        config = mapping(_of(data, "generationConfig"))
        thinking = mapping(_of(config, "thinkingConfig"))
        return understand(
            asked,
            data,
            [_said(content) for content in mappings(data.get("contents"))],
            schema=_schema(config),
            forced=_forced(data),
            shows_thinking=_of(thinking, "includeThoughts") is True,
        )

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        envelope = _envelope(call)
        if turn.fault is Fault.BLOCKED:
            blocked: JsonObject = {"blockReason": "PROHIBITED_CONTENT"}
            return {**envelope, "promptFeedback": blocked, **_usage(turn, call)}
        parts: list[JsonObject] = []
        if shown_thinking(turn, call):
            parts.append({"text": turn.thinking, "thought": True})
        if text := shown_text(turn):
            parts.append({"text": text})
        parts += _function_calls(turn)
        candidate = _candidate(parts, turn)
        return {**envelope, "candidates": [candidate], **_usage(turn, call)}

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        if turn.fault is Fault.BLOCKED:
            yield sse(self.whole(turn, call))
            return
        envelope = _envelope(call)

        def event(part: JsonObject) -> bytes:
            content: JsonObject = {"role": "model", "parts": [part]}
            return sse({**envelope, "candidates": [{"content": content, "index": 0}]})

        if shown_thinking(turn, call):
            for piece in halves(turn.thinking):
                yield event({"text": piece, "thought": True})
        if shown_text(turn):
            delta = mould(lambda piece: event({"text": piece}))
            for piece in pieces(turn):
                yield delta(piece)
        last = _function_calls(turn) or ([] if turn.fault is Fault.EMPTY else [{"text": ""}])
        yield sse({**envelope, "candidates": [_candidate(last, turn)], **_usage(turn, call)})

    def broken(self, turn: Turn, call: Call) -> bytes:
        status, code, message = _ERRORS[Fault.BUSY]
        return sse({"error": {"code": status, "message": message, "status": code}})

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        fault = Fault.INSUFFICIENT_QUOTA if fault is Fault.CREDIT else fault
        if fault not in _ERRORS:
            return None
        status, code, message = _ERRORS[fault]
        headers = wait_headers(turn, RetryAs.RETRY_INFO)
        if turn.retry_after_as is None:
            headers |= rate_headers(waiting_rates(turn))
        return _error(status, code, message.replace("{model}", call.model), _details(fault, turn), headers)

    def complain(self, status: int, message: str) -> Reply:
        return _error(status, _CODES.get(status, "INVALID_ARGUMENT"), message, [], {})

    def headers(self, turn: Turn) -> dict[str, str]:
        return rate_headers(turn.rate)


def look_up(asked: Asked, method: str) -> Reply | None:
    """Models and counts; None for what is not here. The path is without its version."""
    if method == "POST" and asked.path.endswith(":countTokens"):
        return json_reply({"totalTokens": count_tokens(asked.body)})
    if method != "GET":
        return None
    if asked.path == "/models":
        return json_reply({"models": [_model(name) for name in MODELS]})
    name = asked.path.removeprefix("/models/")
    return json_reply(_model(name)) if name in MODELS else None


def _model(name: str) -> JsonObject:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
        "thinking": True,
    }


def _said(content: JsonObject) -> Said:
    parts = mappings(content.get("parts"))
    return Said(
        role="assistant" if content.get("role") == "model" else "user",
        texts=tuple(string(part["text"]) for part in parts if "text" in part and not part.get("thought")),
        asks=any("functionCall" in part for part in parts),
        results=tuple(_result(part) for part in parts if "functionResponse" in part),
    )


def _result(part: JsonObject) -> str:
    response = mapping(mapping(part["functionResponse"]).get("response"))
    texts = [value for value in response.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else json.dumps(response)


def _schema(config: JsonObject) -> JsonObject | None:
    for key in ("responseJsonSchema", "responseSchema"):
        if isinstance(_of(config, key), dict):
            return mapping(_of(config, key))
    return {} if _of(config, "responseMimeType") == "application/json" else None


def _forced(data: JsonObject) -> ToolCall | None:
    config = mapping(_of(mapping(_of(data, "toolConfig")), "functionCallingConfig"))
    if config.get("mode") != "ANY":
        return None
    allowed = _of(config, "allowedFunctionNames")
    for tool in mappings(data.get("tools")):
        for function in mappings(_of(tool, "functionDeclarations")):
            if not isinstance(allowed, list) or not allowed or function.get("name") in allowed:
                schema = mapping(_of(function, "parametersJsonSchema")) or mapping(function.get("parameters"))
                return ToolCall(name=string(function.get("name")), input=mapping(instance(schema)))
    return None


def _of(data: JsonObject, key: str) -> object:
    """A field by its name in either spelling: the API takes includeThoughts and include_thoughts, and the SDK sends both."""
    return data[key] if key in data else data.get(_UPPER.sub(lambda found: "_" + found[0].lower(), key))


def _function_calls(turn: Turn) -> list[JsonObject]:
    """The signature rides on the first call, as Gemini 3 sends it."""
    return [
        {
            "functionCall": {"id": new_id("call_"), "name": one.name, "args": one.input},
            **({} if at else {"thoughtSignature": "cmVoZWFyc2Vk"}),
        }
        for at, one in enumerate(turn.calls)
    ]


def _candidate(parts: list[JsonObject], turn: Turn) -> JsonObject:
    finish = _FINISHES.get(turn.fault, "STOP")
    content: JsonObject = {"role": "model", "parts": parts} if parts else {"role": "model"}
    return {"content": content, "finishReason": finish, "index": 0}


def _envelope(call: Call) -> JsonObject:
    return {"modelVersion": call.model, "responseId": new_id("")}


def _usage(turn: Turn, call: Call) -> JsonObject:
    """The key `usageMetadata`, or nothing. Thoughts are not part of the candidates' tokens."""
    used = counts(turn, call)
    if used is None:
        return {}
    usage: JsonObject = {
        "promptTokenCount": used.prompt,
        "candidatesTokenCount": used.output - used.thinking,
        "totalTokenCount": used.prompt + used.output,
        **({"cachedContentTokenCount": used.cache_read} if used.cache_read else {}),
        **({"thoughtsTokenCount": used.thinking} if used.thinking else {}),
    }
    return {"usageMetadata": usage}


def _details(fault: Fault, turn: Turn) -> list[JsonObject]:
    if fault is Fault.BAD_KEY:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        return [{"@type": kind, "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
    details: list[JsonObject] = []
    if fault is Fault.INSUFFICIENT_QUOTA:
        violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "0"}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if turn.retry_after_s is not None and (turn.retry_after_as or RetryAs.RETRY_INFO) in _INFO:
        delay = f"{math.ceil(turn.retry_after_s * 1000) / 1000:.3f}".rstrip("0").rstrip(".") + "s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return details


def _error(status: int, code: str, message: str, details: list[JsonObject], headers: dict[str, str]) -> Reply:
    body: JsonObject = {"code": status, "message": message, "status": code}
    if details:
        body["details"] = details
    return json_reply({"error": body}, status=status, headers=headers)
