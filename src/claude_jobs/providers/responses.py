"""The Responses wire, both ways: Grok's, and OpenAI's for models that think and call tools. Nothing is kept at the provider."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from claude_jobs.domain.generation import (
    Completion,
    Delta,
    FinishReason,
    Image,
    Message,
    Part,
    RateHeaders,
    Role,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tokens,
    ToolDelta,
    ToolResult,
    ToolUse,
)
from claude_jobs.providers.chat import image_url
from claude_jobs.providers.contract import Json, Shaped, Via
from claude_jobs.providers.failures import Refusal, heard
from claude_jobs.providers.figures import less, reported
from claude_jobs.providers.json_schema import closed, is_strict
from claude_jobs.providers.tool_calls import arguments_of, result_text

_INCOMPLETE = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}
COUNTED = ("model", "input", "instructions", "tools", "tool_choice", "text", "reasoning")
"""What of a request its input tokens depend on."""


class Responses:
    """The wire."""

    path = "/responses"
    via: Via = "responses"

    def body(self, shaped: Shaped, *, is_stream: bool) -> Json:
        """The request."""
        request = shaped.request
        body: Json = {"model": request.model, **shaped.params, "store": False}
        if shaped.rules.thinking:
            body["include"] = ["reasoning.encrypted_content"]
        if request.system:
            body["instructions"] = request.system
        body["input"] = [item for message in request.messages for item in _items(message, shaped.rules.provider)]
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": {"type": "object", "properties": {}, **tool.parameters},
                    "strict": False,
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            is_word = choice in ("auto", "none", "required")
            body["tool_choice"] = choice if is_word else {"type": "function", "name": choice}
        if request.output_schema is not None:
            is_held = is_strict(request.output_schema)
            schema = closed(request.output_schema) if is_held else request.output_schema
            body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": is_held}}
        if is_stream:
            body["stream"] = True
        return body

    def completion(self, answer: Json, shaped: Shaped, limits: RateHeaders | None) -> Completion:
        """A whole answer."""
        if answer["status"] == "failed":
            raise Refusal(heard(None, answer, {}, 0.0))
        reasons: Json = answer.get("incomplete_details") or {}
        finish = FinishReason.STOP
        if answer["status"] != "completed":
            finish = _INCOMPLETE.get(reasons.get("reason") or "", FinishReason.OTHER)
        parts = tuple(part for item in answer["output"] for part in _parts(item, finish, shaped.rules.provider))
        if finish is FinishReason.STOP and any(isinstance(part, ToolUse) for part in parts):
            finish = FinishReason.TOOL_CALLS
        if any(piece["type"] == "refusal" for item in answer["output"] for piece in item.get("content") or ()):
            finish = FinishReason.CONTENT_FILTER
        return Completion(
            parts=parts,
            finish=finish,
            tokens=_tokens(answer.get("usage") or {}, shaped, has_output=bool(parts)),
            model=answer["model"],
            warnings=shaped.warnings,
            limits=limits,
            response_id=answer["id"],
        )

    def reader(self, shaped: Shaped) -> ResponseReader:
        """For a stream."""
        return ResponseReader(self, shaped)


@dataclass(slots=True)
class ResponseReader:
    """An answer as it comes. Its last event holds all of it once more."""

    wire: Responses
    shaped: Shaped
    is_done: bool = False
    _answer: Json = field(default_factory=dict[str, object])
    _ordinals: dict[int, int] = field(default_factory=dict[int, int])

    def feed(self, event: bytes) -> Sequence[Delta]:
        """What one event adds."""
        if event.strip() == b"[DONE]":
            return ()
        data = json.loads(event)
        match data["type"]:
            case "response.output_text.delta" | "response.refusal.delta":
                return (TextDelta(text=data["delta"]),)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return (ThinkingDelta(text=data["delta"]),)
            case "response.function_call_arguments.delta":
                return (ToolDelta(index=self._ordinals[data["output_index"]], arguments=data["delta"]),)
            case "response.output_item.added" if data["item"]["type"] == "function_call":
                ordinal = self._ordinals.setdefault(data["output_index"], len(self._ordinals))
                return (ToolDelta(index=ordinal, id=data["item"]["call_id"], name=data["item"]["name"]),)
            case "response.completed" | "response.incomplete":
                self._answer, self.is_done = data["response"], True
            case "response.failed":
                self._answer = data["response"]
                raise Refusal(heard(None, self._answer, {}, 0.0))
            case "error":
                raise Refusal(heard(None, data, {}, 0.0))
            case _:
                pass
        return ()

    def completion(self, limits: RateHeaders | None) -> Completion:
        """The whole of it."""
        return self.wire.completion(self._answer, self.shaped, limits)

    def used(self) -> tuple[int, int]:
        """Input and output tokens told by now; the API tells them at the end."""
        tokens = _tokens(self._answer.get("usage") or {}, self.shaped, has_output=False)
        return tokens.total - tokens.output, tokens.output


def _items(message: Message, provider: str) -> Iterator[Json]:
    """The wire's items for one turn, in their order; texts and pictures that follow each other are one message."""
    content: list[Json] = []
    for part in message.parts:
        if isinstance(part, Text | Image):
            content.append(_content(part, message.role))
            continue
        if content:
            yield {"role": message.role.value, "content": content}
            content = []
        if item := _item(part, provider):
            yield item
    if content:
        yield {"role": message.role.value, "content": content}


def _content(part: Text | Image, role: Role) -> Json:
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": image_url(part), "detail": "auto"}
    return {"type": "output_text" if role is Role.ASSISTANT else "input_text", "text": part.text}


def _item(part: ToolUse | ToolResult | Thinking, provider: str) -> Json | None:
    match part:
        case ToolUse():
            arguments = json.dumps(part.arguments)
            return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": arguments}
        case ToolResult():
            return {"type": "function_call_output", "call_id": part.id, "output": result_text(part)}
        case Thinking():
            # Only what this provider encrypted; another's it refuses.
            owner, _, rest = part.signature.partition(":")
            item_id, _, encrypted = rest.partition(":")
            if owner != provider or not encrypted:
                return None
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            return {"type": "reasoning", "id": item_id, "summary": summary, "encrypted_content": encrypted}
    assert_never(part)


def _parts(item: Json, finish: FinishReason, provider: str) -> Iterator[Part]:
    match item["type"]:
        case "message":
            text = "".join(piece.get("text") or piece.get("refusal") or "" for piece in item["content"])
            if text:
                yield Text(text=text)
        case "reasoning":
            pieces = [*(item.get("summary") or ()), *(item.get("content") or ())]
            encrypted = item.get("encrypted_content")
            signature = f"{provider}:{item['id']}:{encrypted}" if encrypted else ""
            text = "".join(piece["text"] for piece in pieces)
            if text or signature:
                yield Thinking(text=text, signature=signature)
        case "function_call":
            if (arguments := arguments_of(item["arguments"], finish)) is not None:
                yield ToolUse(id=item["call_id"], name=item["name"], arguments=arguments)
        case _:
            pass


def _tokens(usage: Json, shaped: Shaped, *, has_output: bool) -> Tokens:
    of_input: Json = usage.get("input_tokens_details") or {}
    of_output: Json = usage.get("output_tokens_details") or {}
    cached, written = of_input.get("cached_tokens"), of_input.get("cache_write_tokens")
    return reported(
        input=less(usage.get("input_tokens"), cached, written),
        output=usage.get("output_tokens"),
        cache_read=cached,
        cache_write=written,
        thinking=of_output.get("reasoning_tokens"),
        context=shaped.rules.context,
        has_output=has_output,
    )
