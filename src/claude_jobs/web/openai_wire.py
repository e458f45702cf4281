"""OpenAI's chat completions (API reference of November 2026) in our words and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from claude_jobs.domain.generation import (
    Answer,
    Delta,
    FinishReason,
    Provenance,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tokens,
)
from claude_jobs.errors import (
    ClaudeJobsError,
    ContentRefused,
    InvalidRequest,
    ProviderError,
    QuotaExceeded,
    RateExceeded,
    RateLimited,
)
from claude_jobs.services.generation_view import cost_view, error_view, route_view, step_view
from claude_jobs.web.replies import status_of

Json = dict[str, object]

_SAME = frozenset(
    {
        *("model", "temperature", "top_p", "stop", "seed", "metadata", "stream"),
        # Ours, in `extra_body` of an SDK:
        *("provider", "fallbacks", "org", "cache", "cache_stream", "timeout_s", "priority", "hedge", "effort"),
    }
)
_TRANSLATED = frozenset(
    {
        *("messages", "tools", "tool_choice", "response_format", "reasoning_effort", "stream_options", "user"),
        *("max_tokens", "max_completion_tokens", "safety_identifier"),
    }
)
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
}
"""Parameters whose answer we could not give, with the values that ask for nothing."""
_NOTHING: tuple[object, ...] = (None, 0, False, {}, [], "", "auto", "default")
"""Values of other unknown parameters which change nothing, so that nobody is warned."""
_EFFORTS = {"none": "none", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_ANY_JSON = "Answer with one JSON object and nothing else: no words before or after it, no code fence."
_FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.OTHER: "stop",
}


def request_of(body: Mapping[str, object]) -> tuple[Json, list[str]]:
    """(the request as POST /tools/generate takes it, warnings of what was left out).

    Raises:
        InvalidRequest: It asks for what no answer of ours has, or is not in OpenAI's form.
    """
    data: Json = {name: value for name, value in body.items() if name in _SAME and value is not None}
    for name, harmless in _REFUSED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise InvalidRequest(f"{name!r} is not supported here. Leave it out.", field=name)
    data["messages"] = [_message(one, at) for at, one in enumerate(_list(body, "messages"))]
    if tools := _list(body, "tools"):
        data["tools"] = [_tool(one, at) for at, one in enumerate(tools)]
    _set(data, "tool_choice", _tool_choice(body.get("tool_choice")))
    _set(data, "output_schema", _schema(body.get("response_format")))
    _set(data, "max_output_tokens", body.get("max_completion_tokens", body.get("max_tokens")))
    _set(data, "effort", _effort(body.get("reasoning_effort")))
    if user := body.get("safety_identifier", body.get("user")):
        given = data.get("metadata", {})
        data["metadata"] = {"user": user, **cast("Json", given)} if isinstance(given, dict) else given
    warnings: list[str] = []
    if _is_any_json(body.get("response_format")):
        data["system"] = _ANY_JSON  # not every provider knows "some JSON object"; a schema that allows any is refused
        warnings.append("response_format json_object was told the model in words; json_schema is enforced")
    left_out = sorted(body.keys() - _SAME - _TRANSLATED - _REFUSED.keys())
    unknown = [f"{name} was left out: it is not known here" for name in left_out if body[name] not in _NOTHING]
    return data, [*warnings, *unknown]


def _is_any_json(wanted: object) -> bool:
    return isinstance(wanted, dict) and cast("Json", wanted).get("type") == "json_object"


def _set(data: Json, name: str, value: object) -> None:
    if value is not None:
        data[name] = value


def _list(body: Mapping[str, object], name: str) -> list[object]:
    value = body.get(name)
    if value is None and name != "messages":
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{name!r} must be a list.", field=name)
    return cast("list[object]", value)


def _object(value: object, place: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place!r} must be an object.", field=place)
    return cast("Json", value)


def _message(value: object, at: int) -> Json:
    place = f"messages.{at}"
    message = _object(value, place)
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        return {"role": "tool", "tool_call_id": message.get("tool_call_id", ""), "content": _plain(content, place)}
    if role in ("system", "developer"):
        return {"role": "system", "content": _plain(content, place)}
    if role == "function":
        raise InvalidRequest(f"{place}: the role 'function' is not supported. Use 'tool'.", field=f"{place}.role")
    parts = _parts(content, place)
    if role == "assistant":
        calls = cast("list[object]", message.get("tool_calls") or [])
        thought = message.get("reasoning_content")
        thinking: list[Json] = [{"type": "thinking", "text": thought}] if thought and isinstance(thought, str) else []
        parts = [*thinking, *parts, *(_call(one, f"{place}.tool_calls.{i}") for i, one in enumerate(calls))]
    return {"role": role, "content": parts}


def _plain(content: object, place: str) -> object:
    """Text, or the texts of its parts together."""
    if not isinstance(content, list):
        return content if content is not None else ""
    parts = (_object(part, f"{place}.content") for part in cast("list[object]", content))
    return "".join(str(part.get("text", "")) for part in parts)


def _parts(content: object, place: str) -> list[Json]:
    if content is None or content == "":
        return []
    if not isinstance(content, list):
        return [{"type": "text", "text": content}]
    return [_part(one, f"{place}.content.{at}") for at, one in enumerate(cast("list[object]", content))]


def _part(value: object, place: str) -> Json:
    part = _object(value, place)
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part.get("text")}
        case "refusal":
            return {"type": "text", "text": part.get("refusal")}
        case "image_url":
            image = part.get("image_url")
            url = cast("Json", image).get("url") if isinstance(image, dict) else image
            return {"type": "image", "url": url}
        case kind:
            message = f"{place}: a part of the type {kind!r} is not supported, only 'text' and 'image_url'."
            raise InvalidRequest(message, field=f"{place}.type")


def _call(value: object, place: str) -> Json:
    call = _object(value, place)
    function = _object(call.get("function"), f"{place}.function")
    text = function.get("arguments") or "{}"
    try:
        arguments: object = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        message = f"{place}.function.arguments: it must be a JSON object, written as a string."
        raise InvalidRequest(message, field=f"{place}.function.arguments")
    return {
        "type": "tool_use",
        "id": call.get("id"),
        "name": function.get("name"),
        "arguments": cast("Json", arguments),
    }


def _tool(value: object, at: int) -> Json:
    place = f"tools.{at}"
    tool = _object(value, place)
    if tool.get("type") != "function":
        message = f"{place}: a tool of the type {tool.get('type')!r} is not supported, only 'function'."
        raise InvalidRequest(message, field=f"{place}.type")
    function = _object(tool.get("function"), f"{place}.function")
    return {
        "name": function.get("name"),
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {},
    }


def _tool_choice(value: object) -> object:
    if isinstance(value, dict):
        function = _object(cast("Json", value).get("function"), "tool_choice.function")
        return function.get("name")
    return value


def _schema(value: object) -> object:
    """The schema that an answer is to follow."""
    if value is None:
        return None
    wanted = _object(value, "response_format")
    match wanted.get("type"):
        case "text" | "json_object":
            return None
        case "json_schema":
            return _object(wanted.get("json_schema"), "response_format.json_schema").get("schema")
        case kind:
            message = f"response_format: {kind!r} is not known. Use 'text', 'json_object' or 'json_schema'."
            raise InvalidRequest(message, field="response_format.type")


def _effort(value: object) -> object:
    if value is None or not isinstance(value, str):
        return value
    if value not in _EFFORTS:
        message = f"reasoning_effort: {value!r} is not known. Use one of {', '.join(_EFFORTS)}."
        raise InvalidRequest(message, field="reasoning_effort")
    return _EFFORTS[value]


def completion_view(answer: Answer, created_s: int, warnings: Sequence[str]) -> Json:
    """A whole answer in OpenAI's form, with ours beside it under `claude_jobs`."""
    done = answer.completion
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        for call in done.tool_calls
    ]
    message: Json = {"role": "assistant", "content": done.text or (None if calls else ""), "refusal": None}
    if calls:
        message["tool_calls"] = calls
    if thought := "".join(part.text for part in done.parts if isinstance(part, Thinking)):
        message["reasoning_content"] = thought
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[done.finish]}
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": created_s,
        "model": done.model or answer.route.model,
        "choices": [choice],
        "usage": usage_view(done.tokens),
        "claude_jobs": extra_view(answer, warnings),
    }


def usage_view(tokens: Tokens) -> Json | None:
    """Their sums: prompt tokens with what the provider's cache held. Unknown is null, not zero."""
    if tokens.provenance is Provenance.UNKNOWN:
        return None
    prompt = tokens.input + tokens.cache_read + tokens.cache_write
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens.output,
        "total_tokens": prompt + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read},
        "completion_tokens_details": {"reasoning_tokens": tokens.thinking},
    }


def extra_view(answer: Answer, warnings: Sequence[str]) -> Json:
    """What OpenAI's form has no place for."""
    return {
        "id": answer.id,
        "route": route_view(answer.route),
        **cost_view(answer.paid),
        "cached": answer.cached,
        "age_s": round(answer.age_s, 3),
        "warnings": [*answer.completion.warnings, *warnings],
        "explain": [step_view(step) for step in answer.steps],
    }


def delta_of(delta: Delta) -> Json:
    """A piece of an answer, as a `delta` has it."""
    if isinstance(delta, TextDelta):
        return {"content": delta.text}
    if isinstance(delta, ThinkingDelta):
        return {"reasoning_content": delta.text}
    call: Json = {"index": delta.index, "function": {"arguments": delta.arguments}}
    if delta.name or delta.id:
        function = {"name": delta.name, "arguments": delta.arguments}
        call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
    return {"tool_calls": [call]}


def finish_of(answer: Answer) -> str:
    """Their word for how it ended."""
    return _FINISH[answer.completion.finish]


def fault_view(error: ClaudeJobsError) -> Json:
    """An error in their form; ours is under `claude_jobs`."""
    fault: Json = {
        "message": error.message,
        "type": _fault_type(error),
        "param": getattr(error, "field", None),
        "code": _CODES.get(error.code, error.code),
    }
    return {"error": {**fault, "claude_jobs": error_view(error)}}


_CODES = {"context_too_long": "context_length_exceeded", "content_refused": "content_filter"}


def _fault_type(error: ClaudeJobsError) -> str:
    if isinstance(error, QuotaExceeded):
        return "insufficient_quota"
    if isinstance(error, RateExceeded | RateLimited):
        return "rate_limit_error"
    if isinstance(error, ContentRefused) or status_of(error) in (400, 404, 413, 422):
        return "invalid_request_error"
    return "upstream_error" if isinstance(error, ProviderError) else "server_error"
