"""Claude by Anthropic's API: the Messages wire, both ways. Billed per use by an API key, never by a subscription."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import (
    Completion,
    Delta,
    FinishReason,
    Image,
    Message,
    ModelCard,
    Part,
    RateHeaders,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tokens,
    ToolDelta,
    ToolResult,
    ToolUse,
)
from claude_jobs.errors import ModelNotFound
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.contract import Json, Shaped, Via, shape
from claude_jobs.providers.failures import About, Refusal, heard
from claude_jobs.providers.figures import reported
from claude_jobs.providers.json_schema import closed
from claude_jobs.providers.sdk import Api
from claude_jobs.providers.tool_calls import arguments_of

NAME = "claude"
BASE_URL = "https://api.anthropic.com"

_REDACTED = "redacted_thinking:"
"""Marks the signature of thoughts that come encrypted as a whole. What others mark has a colon too; Anthropic's has none."""
_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_COUNTED = ("system", "tools", "tool_choice", "thinking", "output_config")
_PAGE = 1_000


class Anthropic:
    """The provider "claude"."""

    name = NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._api = Api(NAME, "anthropic", BASE_URL, settings)
        self._wire = Messages()

    async def generate(self, call: ProviderCall) -> Completion:
        """As Provider says."""
        return await self._api.generate(call, self._wire)

    def stream(self, call: ProviderCall) -> AsyncGenerator[StreamEvent]:
        """As Provider says."""
        return self._api.stream(call, self._wire)

    async def count_tokens(self, call: ProviderCall) -> int | None:
        """As Provider says."""
        whole = self._wire.body(shape(call.request, NAME), is_stream=False)
        body = {key: whole[key] for key in ("model", "messages", *_COUNTED) if key in whole}
        try:
            count = (await self._api.post(self._api.about(call), call.key, "/v1/messages/count_tokens", body)).get(
                "input_tokens"
            )
        except ModelNotFound:
            return None
        return count if isinstance(count, int) else None

    async def list_models(self, key: ApiKey | None) -> tuple[ModelCard, ...]:
        """As Provider says."""
        about = About(provider=NAME, secret=key.secret if key else "")
        return await self._api.models(about, key, "/v1/models", {"limit": _PAGE})

    async def close(self) -> None:
        """As Provider says."""
        await self._api.close()


class Messages:
    """The Messages wire."""

    path = "/v1/messages"
    via: Via = "chat"

    def body(self, shaped: Shaped, *, is_stream: bool) -> Json:
        """The request; without a cap of its own it gets the model's, as the API insists on one."""
        request = shaped.request
        body: Json = {"model": request.model, "max_tokens": shaped.rules.max_output, **shaped.params}
        body["messages"] = [_message(message) for message in request.messages]
        if request.system:
            body["system"] = request.system
        if request.tools:
            body["tools"] = [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": {"type": "object", **tool.parameters},
                }
                for tool in request.tools
            ]
            body["tool_choice"] = _tool_choice(request.tool_choice)
        if request.output_schema is not None:
            form = {"type": "json_schema", "schema": closed(request.output_schema)}
            body["output_config"] = {**body.get("output_config", {}), "format": form}
        if is_stream:
            body["stream"] = True
        return body

    def completion(self, answer: Json, shaped: Shaped, limits: RateHeaders | None) -> Completion:
        """A whole answer."""
        reader = MessageReader(shaped)
        reader.start(answer)
        for index, block in enumerate(answer["content"]):
            reader.begin_block(index, block)
        reader.finish(answer)
        return reader.completion(limits)

    def reader(self, shaped: Shaped) -> MessageReader:
        """For a stream."""
        return MessageReader(shaped)


@dataclass(slots=True)
class _Block:
    kind: str
    pieces: list[str]
    id: str = ""
    name: str = ""
    signature: str = ""
    ordinal: int = 0


@dataclass(slots=True)
class MessageReader:
    """An answer as it comes."""

    shaped: Shaped
    is_done: bool = False
    _id: str = ""
    _model: str = ""
    _stop: str = ""
    _usage: Json = field(default_factory=dict[str, object])
    _blocks: dict[int, _Block] = field(default_factory=dict[int, _Block])

    def feed(self, event: bytes) -> Sequence[Delta]:
        """What one event adds."""
        data = json.loads(event)
        match data["type"]:
            case "content_block_delta":
                return self._add(self._blocks[data["index"]], data["delta"])
            case "content_block_start":
                return self.begin_block(data["index"], data["content_block"])
            case "message_start":
                self.start(data["message"])
            case "message_delta":
                self.finish({**data["delta"], "usage": data.get("usage")})
            case "message_stop":
                self.is_done = True
            case "error":
                raise Refusal(heard(None, data, {}, 0.0))
            case _:
                pass
        return ()

    def start(self, message: Json) -> None:
        """The head of an answer."""
        self._id, self._model = message["id"], message["model"]
        self._count(message)

    def finish(self, message: Json) -> None:
        """Why it ended, and the figures at its end, which go before those at its start."""
        self._stop = message.get("stop_reason") or ""
        self._count(message)

    def begin_block(self, index: int, block: Json) -> Sequence[Delta]:
        """A block, of which some of the content may be there already."""
        match block["type"]:
            case "text":
                self._blocks[index] = _Block("text", [block["text"]])
                return (TextDelta(text=block["text"]),) if block["text"] else ()
            case "thinking":
                self._blocks[index] = _Block("thinking", [block["thinking"]], signature=block.get("signature") or "")
                return (ThinkingDelta(text=block["thinking"]),) if block["thinking"] else ()
            case "redacted_thinking":
                self._blocks[index] = _Block("thinking", [], signature=_REDACTED + block["data"])
            case "tool_use":
                ordinal = sum(each.kind == "tool_use" for each in self._blocks.values())
                said = json.dumps(block["input"]) if block.get("input") else ""
                self._blocks[index] = _Block("tool_use", [said], block["id"], block["name"], ordinal=ordinal)
                return (ToolDelta(index=ordinal, id=block["id"], name=block["name"], arguments=said),)
            case kind:
                self._blocks[index] = _Block(kind, [])
        return ()

    def completion(self, limits: RateHeaders | None) -> Completion:
        """The whole of it."""
        finish = _FINISH.get(self._stop, FinishReason.OTHER)
        parts = tuple(self._parts(finish))
        return Completion(
            parts=parts,
            finish=finish,
            tokens=self._tokens(has_output=bool(parts)),
            model=self._model,
            warnings=self.shaped.warnings,
            limits=limits,
            response_id=self._id,
        )

    def used(self) -> tuple[int, int]:
        """Input and output tokens told by now."""
        tokens = self._tokens(has_output=False)
        return tokens.total - tokens.output, tokens.output

    def _add(self, block: _Block, delta: Json) -> Sequence[Delta]:
        match delta["type"]:
            case "text_delta":
                block.pieces.append(delta["text"])
                return (TextDelta(text=delta["text"]),)
            case "thinking_delta":
                block.pieces.append(delta["thinking"])
                return (ThinkingDelta(text=delta["thinking"]),)
            case "input_json_delta":
                block.pieces.append(delta["partial_json"])
                return (ToolDelta(index=block.ordinal, arguments=delta["partial_json"]),)
            case "signature_delta":
                block.signature += delta["signature"]
            case _:
                pass
        return ()

    def _count(self, message: Json) -> None:
        usage: Json = message.get("usage") or {}
        self._usage.update((key, value) for key, value in usage.items() if value is not None)

    def _parts(self, finish: FinishReason) -> Iterator[Part]:
        for _, block in sorted(self._blocks.items()):
            content = "".join(block.pieces)
            if block.kind == "text" and content:
                yield Text(text=content)
            elif block.kind == "thinking":
                yield Thinking(text=content, signature=block.signature)
            elif block.kind == "tool_use" and (arguments := arguments_of(content, finish)) is not None:
                yield ToolUse(id=block.id, name=block.name, arguments=arguments)

    def _tokens(self, *, has_output: bool) -> Tokens:
        usage = self._usage
        written: Json = usage.get("cache_creation") or {}
        details: Json = usage.get("output_tokens_details") or {}
        return reported(
            input=usage.get("input_tokens"),
            output=usage.get("output_tokens"),
            cache_read=usage.get("cache_read_input_tokens"),
            cache_write=usage.get("cache_creation_input_tokens"),
            cache_write_1h=written.get("ephemeral_1h_input_tokens"),
            thinking=details.get("thinking_tokens"),
            context=self.shaped.rules.context,
            has_output=has_output,
        )


def _message(message: Message) -> Json:
    return {"role": message.role.value, "content": [block for part in message.parts if (block := _block(part))]}


def _block(part: Part) -> Json | None:
    match part:
        case Text():
            return {"type": "text", "text": part.text} if part.text else None
        case Image():
            source = {"type": "base64", "media_type": part.media_type, "data": part.data}
            return {"type": "image", "source": source}
        case ToolUse():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": dict(part.arguments)}
        case ToolResult():
            return {"type": "tool_result", "tool_use_id": part.id, "content": part.text, "is_error": part.is_error}
        case Thinking():
            if part.signature.startswith(_REDACTED):
                return {"type": "redacted_thinking", "data": part.signature.removeprefix(_REDACTED)}
            # The API refuses thoughts that it did not sign; another provider's are left out.
            is_its_own = bool(part.signature) and ":" not in part.signature
            return {"type": "thinking", "thinking": part.text, "signature": part.signature} if is_its_own else None
    assert_never(part)


def _tool_choice(choice: str) -> Json:
    match choice:
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case name:
            return {"type": "tool", "name": name}
