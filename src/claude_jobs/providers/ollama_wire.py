"""Ollama's native chat wire, both ways: what is asked, and lines of JSON as the answer. Pure.

Sources: Ollama's API reference (chat, show, tags) and api/types.go of 0.33, for `truncate` and `shift`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never, cast

from claude_jobs.domain.generation import (
    Completion,
    Delta,
    FinishReason,
    GenerationRequest,
    Image,
    Message,
    Part,
    RateHeaders,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolResult,
    ToolUse,
)
from claude_jobs.providers.contract import Json, Rules, Shaped
from claude_jobs.providers.failures import Refusal, heard
from claude_jobs.providers.figures import reported

MAX_LINE_BYTES = 16 * 1024 * 1024

SMALLEST_WINDOW = 4_096
"""What a server without much memory gives a request that asks for no window."""
FIRST_WINDOW = 8_192
_OUTPUT_ROOM = 4_096
"""So much of the window is kept for the answer; a longer one may still use what the prompt left."""
_PROMPT_MARGIN = 1.25
"""Estimates are within a fifth."""

_OPTIONS = ("num_predict", "temperature", "top_p", "stop", "seed")
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the server says of a model.

    Attributes:
        context: What it was trained for, in tokens; 0 if unknown.
        num_ctx: The window that its Modelfile sets, 0 for none.
        can: "completion", "tools", "vision", "thinking", "embedding" …; None if the server does not say.
    """

    context: int = 0
    num_ctx: int = 0
    can: frozenset[str] | None = None


def known_from(shown: Json) -> Known:
    """From the answer of /api/show; what is missing or odd in it is unknown."""
    info = _object(shown.get("model_info"))
    context = info.get(f"{info.get('general.architecture')}.context_length")
    parameters = shown.get("parameters")
    match = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    can = shown.get("capabilities")
    return Known(
        context=context if type(context) is int and context > 0 else 0,
        num_ctx=int(match[1]) if match else 0,
        can=frozenset(map(str, cast("list[object]", can))) if isinstance(can, list) and can else None,
    )


def rules_for(rules: Rules, known: Known) -> Rules:
    """The table's rules, corrected by what the server knows better."""
    rules = replace(rules, context=known.context or rules.context)
    if known.can is None:
        return rules
    return replace(
        rules,
        tools="tools" in known.can,
        vision="vision" in known.can,
        thinking="thinking" in known.can,
        effort=rules.effort if "thinking" in known.can else {},
    )


def window(prompt_tokens: int, max_output: int | None, known: Known) -> int | None:
    """The window to ask for, in tokens; None to leave it to the server.

    A window costs memory, and a change of it loads the model anew: so it goes in powers of two, and only the prompt and
    an answer of common length count. What does not fit then is refused by the server (`truncate`, `shift`), not cut.

    Args:
        prompt_tokens: Estimated.
    """
    needed = round(prompt_tokens * _PROMPT_MARGIN) + min(max_output or _OUTPUT_ROOM, _OUTPUT_ROOM)
    if needed <= max(known.num_ctx, SMALLEST_WINDOW):
        return None
    size = max(FIRST_WINDOW, 1 << (needed - 1).bit_length())
    return min(size, known.context) if known.context else size


def body_of(shaped: Shaped, *, num_ctx: int | None, is_stream: bool) -> Json:
    """The request. `keep_alive` is not in it: how long a model stays loaded is the word of the server's operator."""
    request = shaped.request
    options = {name: shaped.params[name] for name in _OPTIONS if name in shaped.params}
    if num_ctx:
        options["num_ctx"] = num_ctx
    body: Json = {
        "model": request.model,
        "messages": list(_messages(request)),
        "stream": is_stream,
        # Else the server cuts a prompt that is too long, and says nothing.
        "truncate": False,
        "shift": False,
        "options": options,
    }
    if "think" in shaped.params:
        body["think"] = shaped.params["think"]
    if request.output_schema is not None:
        body["format"] = dict(request.output_schema)
    if request.tools and request.tool_choice != "none":
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters) or {"type": "object", "properties": {}},
                },
            }
            for tool in request.tools
        ]
    return body


class Lines:
    """Bytes in, whole lines out."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0

    def push(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes.

        Raises:
            ValueError: A line is longer than any answer can be.
        """
        self._pending.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_LINE_BYTES:
            raise ValueError("line too long")
        if b"\n" not in chunk:
            return []
        *lines, rest = b"".join(self._pending).split(b"\n")
        self._pending, self._size = [rest], len(rest)
        return [line for line in lines if line.strip()]

    def rest(self) -> bytes:
        """What came after the last whole line."""
        return b"".join(self._pending).strip()


@dataclass(slots=True)
class Reader:
    """An answer as it comes."""

    shaped: Shaped
    is_done: bool = False
    _last: Json = field(default_factory=dict[str, object])
    _thinking: list[str] = field(default_factory=list[str])
    _text: list[str] = field(default_factory=list[str])
    _calls: list[ToolUse] = field(default_factory=list[ToolUse])

    def feed(self, line: bytes) -> Sequence[Delta]:
        """What one line adds.

        Raises:
            Refusal: It tells an error.
            LookupError, TypeError, ValueError, AttributeError: It is nothing that Ollama says.
        """
        data = json.loads(line)
        if "error" in data:
            raise Refusal(heard(None, data, {}, 0.0))
        deltas: list[Delta] = []
        message = data["message"]
        if thought := message.get("thinking"):
            self._thinking.append(thought)
            deltas.append(ThinkingDelta(text=thought))
        if text := message["content"]:
            self._text.append(text)
            deltas.append(TextDelta(text=text))
        deltas.extend(self._call(call) for call in message.get("tool_calls") or ())
        if data["done"]:
            self.is_done, self._last = True, data
        return deltas

    def completion(self, limits: RateHeaders | None) -> Completion:
        """All of it, once it is done."""
        parts = tuple(self._parts())
        finish = _FINISH.get(self._last.get("done_reason", "stop"), FinishReason.OTHER)
        return Completion(
            parts=parts,
            finish=FinishReason.TOOL_CALLS if self._calls and finish is FinishReason.STOP else finish,
            tokens=reported(
                input=self._last.get("prompt_eval_count"),
                output=self._last.get("eval_count"),
                context=self.shaped.rules.context,
                has_output=bool(parts),
            ),
            model=str(self._last["model"]),
            warnings=self.shaped.warnings,
            limits=limits,
        )

    def _parts(self) -> Iterator[Part]:
        if self._thinking:
            yield Thinking(text="".join(self._thinking))
        if self._text:
            yield Text(text="".join(self._text))
        yield from self._calls

    def _call(self, call: Json) -> ToolDelta:
        index = len(self._calls)
        function = call["function"]
        arguments = dict(function.get("arguments") or {})
        made = ToolUse(id=call.get("id") or f"call_{index}", name=function["name"], arguments=arguments)
        self._calls.append(made)
        return ToolDelta(index=index, id=made.id, name=made.name, arguments=json.dumps(arguments))


def _messages(request: GenerationRequest) -> Iterator[Json]:
    if request.system:
        yield {"role": "system", "content": request.system}
    for message in request.messages:
        yield from _message(message)


def _message(message: Message) -> Iterator[Json]:
    """Results of tools are messages of their own, before what else the turn says."""
    said: Json = {"role": message.role.value, "content": ""}
    for part in message.parts:
        match part:
            case Text():
                said["content"] += part.text
            case Image():
                said.setdefault("images", []).append(part.data)
            case ToolUse():
                function = {"name": part.name, "arguments": dict(part.arguments)}
                said.setdefault("tool_calls", []).append({"id": part.id, "function": function})
            case ToolResult():
                text = f"Error: {part.text}" if part.is_error else part.text
                yield {"role": "tool", "content": text, "tool_name": part.name, "tool_call_id": part.id}
            case Thinking():
                said["thinking"] = said.get("thinking", "") + part.text
            case _:
                assert_never(part)
    if len(said) > 2 or said["content"]:
        yield said


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}
