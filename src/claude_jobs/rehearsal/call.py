"""What a request asks, in no dialect: the prompt in force, its directive, how far its tools are. Pure; nothing is remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.script import Action, ToolCall, parse_action

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
# Texts that go on with the task before them instead of setting a new one: "Continue.", and what the CLI itself writes.
_CONTINUATION = re.compile(
    r"continue\b[^\n]{0,80}$|\[request interrupted|output token limit|\[your previous response had no visible"
    r"|your response above was stopped|\[structured-output-enforce\]|this session is being continued|<task-notification>",
    re.IGNORECASE,
)
_DIRECTIVE = re.compile(r"\brehearse:\s*(?=\{)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came over the wire.

    Attributes:
        path: Without the provider's prefix.
        model, stream: Where the dialect says them in its path.
        session: What the client's headers call its session.
    """

    provider: str
    path: str
    body: bytes
    model: str = ""
    stream: bool = False
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message of the history. `asks` tells of tool calls in it, `results` are those of tools."""

    role: str
    texts: tuple[str, ...] = ()
    asks: bool = False
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, understood.

    Attributes:
        prompt: The last real user prompt; "Continue." and the CLI's own texts do not count.
        directive: What that prompt says about its own rehearsal.
        step: Rounds of tool calls done since that prompt.
        result: Text of the last tool result, "" without one.
        conversation: Key of the session the request belongs to.
        earlier_tokens: Size of all messages but the last, of which `input_tokens` is the rest.
        schema: JSON Schema that the answer has to fit, {} for any JSON, None for text.
        forced: A tool that must be called, with the least it takes.
        shows_thinking: Whether the request wants to read what is thought.
        with_usage: Whether a stream is to tell its usage.
        data: The parsed body.
    """

    model: str
    prompt: str
    directive: Action | None = None
    step: int = 0
    result: str = ""
    n_messages: int = 0
    is_first: bool = True
    conversation: str = ""
    cwd: str = ""
    stream: bool = False
    input_tokens: int = 1
    earlier_tokens: int = 0
    provider: str = "claude"
    path: str = ""
    schema: JsonObject | None = None
    forced: ToolCall | None = None
    shows_thinking: bool = False
    with_usage: bool = True
    data: JsonObject = field(default_factory=dict[str, object], repr=False)


def understand(
    asked: Asked,
    data: JsonObject,
    said: Sequence[Said],
    *,
    schema: JsonObject | None,
    forced: ToolCall | None,
    shows_thinking: bool,
    is_stream: bool | None = None,
    with_usage: bool = True,
    session: str | None = None,
    cwd: str = "",
) -> Call:
    """What every dialect has in common, with what each reads in its own way (as `Call` says it).

    Raises InvalidRequest if there is no message, or the directive in the prompt is wrong.
    """
    if not said:
        raise InvalidRequest("messages: at least one message is required", field="messages")
    prompt, at = _task(said)
    return Call(
        model=asked.model or string(data.get("model")),
        prompt=prompt,
        directive=_directive(prompt),
        step=sum(1 for message in said[at:] if message.asks),
        result=next((one for message in reversed(said) for one in reversed(message.results)), ""),
        n_messages=len(said),
        is_first=all(message.role != "assistant" for message in said),
        conversation=session or prompt,
        cwd=cwd,
        stream=asked.stream or data.get("stream") is True if is_stream is None else is_stream,
        schema=schema,
        forced=forced,
        shows_thinking=shows_thinking,
        with_usage=with_usage,
        input_tokens=count_tokens(asked.body),
        provider=asked.provider,
        path=asked.path,
        data=data,
    )


def count_tokens(body: bytes) -> int:
    """Plausible token count of a request body: four bytes each."""
    return max(1, len(body) // 4)


def json_object(body: bytes) -> JsonObject:
    """The body of a request.

    Raises:
        InvalidRequest: It is no JSON object.
    """
    try:
        data: object = json.loads(body)
    except ValueError as error:
        raise InvalidRequest(f"The request body is not JSON: {error}", field="body") from error
    if not isinstance(data, dict):
        raise InvalidRequest(f"Expected an object, got {type(data).__name__}", field="body")
    return cast("JsonObject", data)


def mapping(value: object) -> JsonObject:
    """`value` if it is an object, else {}."""
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def mappings(value: object) -> list[JsonObject]:
    """The objects of a list, none of anything else."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("JsonObject", item) for item in items if isinstance(item, dict)]


def string(value: object) -> str:
    """`value` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def plain_prompt(text: str) -> str:
    """A user's text without what Claude Code adds to it."""
    return _REMINDER.sub("", text).strip()


def _task(said: Sequence[Said]) -> tuple[str, int]:
    """The prompt in force and the index of its message."""
    fallback = ("", 0)
    for at in range(len(said) - 1, -1, -1):
        if said[at].role != "user":
            continue
        for text in reversed([plain_prompt(text) for text in said[at].texts]):
            if text and not _CONTINUATION.match(text):
                return text, at
            fallback = (text, at) if text else fallback
    return fallback


def _directive(prompt: str) -> Action | None:
    found = _DIRECTIVE.search(prompt)
    if found is None:
        return None
    try:
        data: object
        data, _ = json.JSONDecoder().raw_decode(prompt, found.end())
    except ValueError as error:
        raise InvalidRequest(f"The directive after 'rehearse:' is not JSON: {error}.", field="rehearse") from error
    return parse_action(data, where="rehearse")
