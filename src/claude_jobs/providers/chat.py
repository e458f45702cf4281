"""The Chat Completions wire, both ways, as OpenAI and the many that copy it speak it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
from claude_jobs.providers.contract import Json, Shaped, Via
from claude_jobs.providers.failures import Refusal, heard
from claude_jobs.providers.figures import less, reported
from claude_jobs.providers.json_schema import asked_in_words, closed, is_strict
from claude_jobs.providers.tool_calls import arguments_of, result_text

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class Chat:
    """The wire."""

    path = "/chat/completions"
    via: Via = "chat"

    def body(self, shaped: Shaped, *, is_stream: bool) -> Json:
        """The request."""
        request = shaped.request
        body: Json = {"model": request.model, **shaped.params}
        system = request.system
        if request.output_schema is not None and shaped.rules.json == "object":
            system = asked_in_words(system, request.output_schema)
            body["response_format"] = {"type": "json_object"}
        elif request.output_schema is not None:
            is_held = is_strict(request.output_schema)
            schema = closed(request.output_schema) if is_held else request.output_schema
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": is_held},
            }
        messages: list[Json] = [{"role": "system", "content": system}] if system else []
        for message in request.messages:
            messages.extend(_messages(message))
        body["messages"] = messages
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": {"type": "object", "properties": {}, **tool.parameters},
                    },
                }
                for tool in request.tools
            ]
            body["tool_choice"] = _tool_choice(request.tool_choice)
        if is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def completion(self, answer: Json, shaped: Shaped, limits: RateHeaders | None) -> Completion:
        """A whole answer."""
        reader = ChatReader(shaped)
        choice = answer["choices"][0]
        reader.add({**answer, "choices": [{**choice, "delta": choice["message"]}]})
        return reader.completion(limits)

    def reader(self, shaped: Shaped) -> ChatReader:
        """For a stream."""
        return ChatReader(shaped)


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class ChatReader:
    """An answer as it comes."""

    shaped: Shaped
    is_done: bool = False
    _id: str = ""
    _model: str = ""
    _finish: str = ""
    _usage: Json = field(default_factory=dict[str, object])
    _text: list[str] = field(default_factory=list[str])
    _thinking: list[str] = field(default_factory=list[str])
    _is_refusal: bool = False
    _calls: dict[int, _Call] = field(default_factory=dict[int, _Call])

    def feed(self, event: bytes) -> Sequence[Delta]:
        """What one event adds."""
        if event.strip() == b"[DONE]":
            self.is_done = True
            return ()
        return self.add(json.loads(event))

    def add(self, chunk: Json) -> Sequence[Delta]:
        """What one chunk adds."""
        if chunk.get("error"):
            raise Refusal(heard(None, chunk, {}, 0.0))
        if usage := chunk.get("usage"):
            self._usage = usage
        if not self._id:
            self._id, self._model = chunk.get("id") or "", chunk.get("model") or self.shaped.request.model
        choices = chunk["choices"]
        if not choices:
            return ()
        self._finish = choices[0].get("finish_reason") or self._finish
        delta: Json = choices[0]["delta"]
        deltas: list[Delta] = []
        if thought := delta.get("reasoning_content"):
            self._thinking.append(thought)
            deltas.append(ThinkingDelta(text=thought))
        if text := delta.get("content") or delta.get("refusal"):
            self._is_refusal = self._is_refusal or bool(delta.get("refusal"))
            self._text.append(text)
            deltas.append(TextDelta(text=text))
        if calls := delta.get("tool_calls"):
            deltas.extend(self._call(call, position) for position, call in enumerate(calls))
        return deltas

    def completion(self, limits: RateHeaders | None) -> Completion:
        """The whole of it."""
        if not self._finish:
            raise ValueError("no finish reason")
        finish = _FINISH.get(self._finish, FinishReason.OTHER)
        if self._calls and finish is FinishReason.STOP:
            finish = FinishReason.TOOL_CALLS
        parts = tuple(self._parts(finish))
        return Completion(
            parts=parts,
            finish=FinishReason.CONTENT_FILTER if self._is_refusal else finish,
            tokens=self._tokens(has_output=bool(parts)),
            model=self._model,
            warnings=self.shaped.warnings,
            limits=limits,
            response_id=self._id,
        )

    def used(self) -> tuple[int, int]:
        """Input and output tokens told by now; the API tells them at the end."""
        tokens = self._tokens(has_output=False)
        return tokens.total - tokens.output, tokens.output

    def _call(self, said: Json, position: int) -> ToolDelta:
        index = said.get("index", position)
        call = self._calls.setdefault(index, _Call())
        function: Json = said.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        call.id = said.get("id") or call.id
        call.name = call.name or name
        call.arguments.append(arguments)
        return ToolDelta(index=index, id=said.get("id") or "", name=name, arguments=arguments)

    def _parts(self, finish: FinishReason) -> Iterator[Part]:
        if self._thinking:
            yield Thinking(text="".join(self._thinking))
        if self._text:
            yield Text(text="".join(self._text))
        for _, call in sorted(self._calls.items()):
            if (arguments := arguments_of("".join(call.arguments), finish)) is not None:
                yield ToolUse(id=call.id, name=call.name, arguments=arguments)

    def _tokens(self, *, has_output: bool) -> Tokens:
        usage = self._usage
        of_prompt: Json = usage.get("prompt_tokens_details") or {}
        of_output: Json = usage.get("completion_tokens_details") or {}
        cached, written = of_prompt.get("cached_tokens"), of_prompt.get("cache_write_tokens")
        return reported(
            input=less(usage.get("prompt_tokens"), cached, written),
            output=usage.get("completion_tokens"),
            cache_read=cached,
            cache_write=written,
            thinking=of_output.get("reasoning_tokens"),
            context=self.shaped.rules.context,
            has_output=has_output,
        )


def image_url(image: Image) -> str:
    """A picture as a data URL."""
    return f"data:{image.media_type};base64,{image.data}"


def _messages(message: Message) -> Iterator[Json]:
    """The wire's messages for one turn: results of tools are messages of their own, and come first."""
    for part in message.parts:
        if isinstance(part, ToolResult):
            yield {"role": "tool", "tool_call_id": part.id, "content": result_text(part)}
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    if message.role is Role.ASSISTANT:
        calls = [
            {
                "id": part.id,
                "type": "function",
                "function": {"name": part.name, "arguments": json.dumps(part.arguments)},
            }
            for part in message.parts
            if isinstance(part, ToolUse)
        ]
        if text or calls:
            yield {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
    elif any(isinstance(part, Image) for part in message.parts):
        yield {"role": "user", "content": [each for part in message.parts if (each := _content(part))]}
    elif text:
        yield {"role": "user", "content": text}


def _content(part: Part) -> Json | None:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": image_url(part)}}
        case _:
            return None


def _tool_choice(choice: str) -> str | Json:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": choice}}
