"""Gemini's generateContent, both ways: contents and config from a request, and the answer out of the SDK's responses. Pure.

Sources: ai.google.dev/gemini-api/docs (function-calling, thinking, thought-signatures, structured-output).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from claude_jobs.domain.generation import (
    Completion,
    Delta,
    FinishReason,
    GenerationRequest,
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
from claude_jobs.providers.contract import Json, Shaped
from claude_jobs.providers.failures import Refusal, Said
from claude_jobs.providers.figures import reported

if TYPE_CHECKING:
    from google.genai import types

_SIGNED = "gemini:"
"""Marks signatures as Gemini's: it refuses those of others."""
_UNSIGNED = base64.urlsafe_b64decode("skip_thought_signature_validator")
"""What Google gives for calls in a history that it did not sign; Gemini 3 refuses them without. On the wire it is that word."""

_FILTERED = FinishReason.CONTENT_FILTER
_FINISH = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.LENGTH,
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"), _FILTERED),
    **dict.fromkeys(("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), _FILTERED),
}
_MALFORMED = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"}


def config_of(shaped: Shaped) -> Json:
    """Everything but model and contents, as the fields of GenerateContentConfig."""
    request = shaped.request
    config: Json = {
        **shaped.params,
        "automatic_function_calling": {"disable": True},
        # Else the SDK asks again by itself, billed, when an answer is cut.
        "automatic_continuation": False,
    }
    if thinking := config.get("thinking_config"):
        config["thinking_config"] = {**thinking, "include_thoughts": thinking.get("thinking_budget") != 0}
    if request.system:
        config["system_instruction"] = request.system
    if request.tools:
        config["tools"] = [{"function_declarations": [_declaration(request, at) for at in range(len(request.tools))]}]
        config["tool_config"] = {"function_calling_config": _calling(request.tool_choice)}
    if request.output_schema is not None:
        config["response_mime_type"] = "application/json"
        config["response_json_schema"] = dict(request.output_schema)
    return config


def contents_of(request: GenerationRequest) -> list[Json]:
    """The messages. What is left empty, because all of it is another provider's thoughts, is left out."""
    contents = [
        {"role": "model" if message.role is Role.ASSISTANT else "user", "parts": list(_parts(message))}
        for message in request.messages
    ]
    return [content for content in contents if content["parts"]]


def countable_of(request: GenerationRequest) -> list[Json]:
    """What counting takes: contents only, so system and tools are counted as a message of their text."""
    extra = [request.system] if request.system else []
    extra += [json.dumps(_declaration(request, at)) for at in range(len(request.tools))]
    if request.output_schema is not None:
        extra.append(json.dumps(dict(request.output_schema)))
    head: list[Json] = [{"role": "user", "parts": [{"text": "\n".join(extra)}]}] if extra else []
    return head + contents_of(request)


@dataclass(slots=True)
class Reader:
    """An answer as it comes, whole or in pieces."""

    shaped: Shaped
    _finish: str = ""
    _model: str = ""
    _id: str = ""
    _usage: types.GenerateContentResponseUsageMetadata | None = None
    _parts: list[Part] = field(default_factory=list[Part])
    _calls: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the model said why it stopped."""
        return bool(self._finish)

    def feed(self, response: types.GenerateContentResponse) -> Sequence[Delta]:
        """What one response adds.

        Raises:
            Refusal: The prompt was blocked.
            ValueError: It is nothing that Gemini says.
        """
        feedback = response.prompt_feedback
        known = (feedback, response.candidates, response.usage_metadata, response.model_version, response.response_id)
        if known.count(None) == len(known):
            raise ValueError("nothing of an answer")
        if feedback is not None and feedback.block_reason is not None:
            raise Refusal(
                Said(words=frozenset({"blocked"}), text=feedback.block_reason_message or feedback.block_reason)
            )
        self._model = response.model_version or self._model
        self._id = response.response_id or self._id
        self._usage = response.usage_metadata or self._usage
        deltas: list[Delta] = []
        for candidate in (response.candidates or ())[:1]:
            content = candidate.content
            for part in (content.parts if content else None) or ():
                deltas.extend(self._add(part))
            self._finish = candidate.finish_reason.value if candidate.finish_reason else self._finish
        return deltas

    def completion(self, limits: RateHeaders | None) -> Completion:
        """All of it, at its end.

        Raises:
            Refusal: A filter let nothing of it through.
            ValueError: What the model made is no answer.
        """
        finish = _FINISH.get(self._finish, FinishReason.OTHER)
        if not self._parts and finish is _FILTERED:
            raise Refusal(Said(words=frozenset({"blocked"}), text=self._finish))
        if not self._finish or (not self._parts and self._finish in _MALFORMED):
            raise ValueError(self._finish or "no candidate")
        return Completion(
            parts=tuple(self._parts),
            finish=FinishReason.TOOL_CALLS if self._calls and finish is FinishReason.STOP else finish,
            tokens=self._tokens(has_output=bool(self._parts)),
            model=self._model or self.shaped.request.model,
            warnings=self.shaped.warnings,
            limits=limits,
            response_id=self._id,
        )

    def used(self) -> tuple[int, int]:
        """Input and output tokens told by now."""
        tokens = self._tokens(has_output=False)
        return tokens.total - tokens.output, tokens.output

    def _add(self, part: types.Part) -> Iterator[Delta]:
        signature = _SIGNED + base64.b64encode(part.thought_signature).decode() if part.thought_signature else ""
        if part.function_call is not None:
            yield self._call(part.function_call, signature)
            return
        text = part.text or ""
        if part.thought:
            self._join(Thinking(text=text, signature=signature))
        else:
            if text:
                self._join(Text(text=text))
            if signature:
                self._parts.append(Thinking(text="", signature=signature))
        if text:
            yield ThinkingDelta(text=text) if part.thought else TextDelta(text=text)

    def _join(self, part: Text | Thinking) -> None:
        """Pieces of one kind become one part, up to the piece that is signed."""
        match self._parts[-1:], part:
            case [Text(text=before)], Text():
                self._parts[-1] = Text(text=before + part.text)
            case [Thinking(text=before, signature="")], Thinking():
                self._parts[-1] = Thinking(text=before + part.text, signature=part.signature)
            case _:
                self._parts.append(part)

    def _call(self, call: types.FunctionCall, signature: str) -> ToolDelta:
        index, self._calls = self._calls, self._calls + 1
        if not call.name:
            raise ValueError("a call of nothing")
        made = ToolUse(
            id=call.id or f"call_{index}", name=call.name, arguments=dict(call.args or {}), signature=signature
        )
        self._parts.append(made)
        return ToolDelta(index=index, id=made.id, name=made.name, arguments=json.dumps(made.arguments))

    def _tokens(self, *, has_output: bool) -> Tokens:
        """Gemini's prompt includes what was cached; its candidates do not include thoughts."""
        usage = self._usage
        prompt = usage.prompt_token_count if usage else None
        cached = (usage.cached_content_token_count if usage else None) or 0
        said = (usage.candidates_token_count if usage else None) or 0
        thought = (usage.thoughts_token_count if usage else None) or 0
        return reported(
            input=None if prompt is None else prompt - cached,
            output=said + thought if min(said, thought) >= 0 else None,
            cache_read=cached,
            thinking=thought,
            context=self.shaped.rules.context,
            has_output=has_output,
        )


def _parts(message: Message) -> Iterator[Json]:
    for part in message.parts:
        match part:
            case Text():
                if part.text:
                    yield {"text": part.text}
            case Image():
                yield {"inline_data": {"mime_type": part.media_type, "data": base64.b64decode(part.data)}}
            case ToolUse():
                call = {"id": part.id, "name": part.name, "args": dict(part.arguments)}
                is_first = next(each for each in message.parts if isinstance(each, ToolUse)) is part
                signature = _signature(part.signature) or (_UNSIGNED if is_first else None)
                yield {"function_call": call, **({"thought_signature": signature} if signature else {})}
            case ToolResult():
                response = {"error" if part.is_error else "result": part.text}
                yield {"function_response": {"id": part.id, "name": part.name, "response": response}}
            case Thinking():
                if signature := _signature(part.signature):
                    thought = {"thought": True} if part.text else {}
                    yield {"text": part.text, "thought_signature": signature, **thought}
            case _:
                assert_never(part)


def _signature(signature: str) -> bytes | None:
    return base64.b64decode(signature.removeprefix(_SIGNED)) if signature.startswith(_SIGNED) else None


def _declaration(request: GenerationRequest, at: int) -> Json:
    tool = request.tools[at]
    parameters = {"parameters_json_schema": dict(tool.parameters)} if tool.parameters else {}
    return {"name": tool.name, "description": tool.description, **parameters}


def _calling(choice: str) -> Json:
    match choice:
        case "auto" | "none":
            return {"mode": choice.upper()}
        case "required":
            return {"mode": "ANY"}
        case name:
            return {"mode": "ANY", "allowed_function_names": [name]}
