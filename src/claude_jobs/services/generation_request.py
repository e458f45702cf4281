"""A generation as a caller writes it in JSON, checked and turned into an Ask. One place for every rule about bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from claude_jobs.domain.generation import Effort, GenerationRequest, Tool
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import providers
from claude_jobs.policy.rank import MAX_PRIORITY
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Ask, CacheUse
from claude_jobs.services.generation_messages import PARTS, Wire, WireMessage, conversation, plain, where
from claude_jobs.services.request import scrub

MAX_ITEMS = 5_000
"""Requests of one batch."""
MAX_STOPS = 16
MAX_NESTING = 150
"""Levels of JSON: schemas and arguments go through libraries that recurse."""
_KNOWN = (*providers.NAMES, providers.CLAUDE_CLI)
_EXACT = 2.0**53
_LENGTHS = frozenset({"max_tokens", "max_output_tokens"})
_CHOICES = ("auto", "none", "required")

W = TypeVar("W", bound=Wire)
_EITHER: list[JsonValue] = [
    {"required": ["prompt"], "properties": {"prompt": {"type": "string", "pattern": r"\S"}}},
    {"required": ["messages"], "properties": {"messages": {"type": "array"}}},
]
_NAMES: list[JsonValue] = ["", *_KNOWN, *providers.ALIASES]
_TARGET = f"^({'|'.join((*_KNOWN, *providers.ALIASES))})(/.*)?$"
Target = Annotated[str, Field(max_length=200, json_schema_extra={"pattern": _TARGET})]
Short = Annotated[str, Field(max_length=200)]


class WireTool(Wire):
    """A function that the model may ask for. `parameters` is a JSON Schema of an object."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=20_000)] = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


class WireFallback(Wire):
    """Where to go next; without a model to the provider's default."""

    provider: Annotated[str, Field(max_length=200, json_schema_extra={"enum": _NAMES[1:]})]
    model: Short = ""


class Settings(Wire):
    """Everything about a request but what is asked."""

    provider: Annotated[
        str,
        Field(
            max_length=200,
            description="Empty: the model's, else claude-cli (or Ollama, if USE_LOCAL_LLM says so)",
            json_schema_extra={"enum": _NAMES},
        ),
    ] = ""
    model: Annotated[
        str, Field(max_length=200, description="Its name, also as provider/name; empty: the provider's default")
    ] = ""
    system: str = ""
    tools: Annotated[list[WireTool], Field(max_length=128)] = Field(default_factory=list[WireTool])
    tool_choice: Annotated[str, Field(max_length=64, description="auto, none, required, or a tool's name")] = "auto"
    output_schema: Annotated[dict[str, JsonValue] | None, Field(description="JSON Schema of the answer")] = None
    max_output_tokens: Annotated[int | None, Field(ge=1, le=10_000_000)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=10_000_000, description="Another name of max_output_tokens")] = (
        None
    )
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=1_000)]] | str, Field(max_length=1_000)] = Field(
        default_factory=list[str]
    )
    seed: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    effort: Effort = ""
    metadata: Annotated[dict[Short, Annotated[str, Field(max_length=2_000)]], Field(max_length=50)] = Field(
        default_factory=dict[str, str]
    )
    org: Annotated[str, Field(max_length=200, description="Who is billed")] = ""
    fallbacks: Annotated[list[Target | WireFallback], Field(max_length=10)] = Field(
        default_factory=list[str | WireFallback],
        description="provider, provider/model, or an object of both: tried in this order when the first cannot answer",
    )
    timeout_s: Annotated[
        float | None, Field(gt=0, le=86_400, description="For everything, retries and fallbacks included")
    ] = None
    cache: Annotated[CacheUse, Field(description="refresh asks anew and stores; off neither reads nor stores")] = "use"
    cache_stream: Annotated[bool, Field(description="Streams are not cached unless this asks for it")] = False
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    hedge: Annotated[bool, Field(description="Start a second route when the first is slow to begin")] = False


class Question(Settings):
    """`prompt` or `messages`, and how it is to be answered."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _EITHER})

    prompt: str | None = None
    messages: Annotated[list[WireMessage] | None, Field(min_length=1, max_length=10_000)] = None

    def ask(self, caller: Caller) -> Ask:
        """The Ask that it stands for.

        Raises:
            InvalidRequest: What single fields cannot tell: both or neither of prompt and messages, a provider nobody
                knows, a schema that is none, a choice of no tool, an image that is too large.
        """
        provider, model = _target(self.provider, self.model)
        system, messages = self._conversation()
        request = GenerationRequest(
            messages=messages,
            provider=provider,
            model=model,
            system="\n\n".join(text for text in (self.system, system) if text),
            tools=_tools(self.tools),
            tool_choice=_tool_choice(self.tool_choice, self.tools),
            output_schema=_schema(self.output_schema),
            max_output_tokens=self._limit(),
            temperature=self.temperature,
            top_p=self.top_p,
            stop=_stop(self.stop),
            seed=self.seed,
            effort=self.effort,
            metadata=self.metadata,
        )
        return Ask(
            request=request,
            caller=caller,
            org=self.org,
            fallbacks=tuple(_fallback(one, at) for at, one in enumerate(self.fallbacks)),
            timeout_s=self.timeout_s,
            cache=self.cache,
            cache_stream=self.cache_stream,
            priority=self.priority,
            hedge=self.hedge,
        )

    def _limit(self) -> int | None:
        if self.max_tokens is None or self.max_output_tokens in (None, self.max_tokens):
            return self.max_output_tokens or self.max_tokens
        message = "`max_tokens` is another name of `max_output_tokens`. Give one of them."
        raise InvalidRequest(message, field="max_tokens")

    def _conversation(self) -> tuple[str, Any]:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("Give either `prompt` or `messages`.", field="prompt")
        return ("", plain(self.prompt)) if self.prompt is not None else conversation(self.messages or ())


class GenerateRequest(Question):
    """One request."""

    stream: Annotated[bool, Field(description="Answer with server-sent events")] = False

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """From JSON.

        Raises:
            InvalidRequest: Names the field, what is wrong with it, and for an unknown one the known ones.
        """
        return parsed(cls, data)


class WireItem(Question):
    """One of a batch. What it says goes before what the batch says for all. `key` is your name for it."""

    key: Short = ""


class BatchRequest(Settings):
    """Many requests. Settings beside `items` hold for all that do not say otherwise."""

    items: Annotated[list[WireItem], Field(min_length=1, max_length=MAX_ITEMS)]
    max_parallel: Annotated[int, Field(ge=0, le=1_000, description="0: as many as the worker makes at once")] = 0
    batch_key: Annotated[
        str,
        Field(
            max_length=200,
            description="Your name for the batch: sent again, answers that were given are not made again",
        ),
    ] = ""
    stream: Annotated[bool, Field(description="One line or event for each answer, as it comes")] = False
    economy: Annotated[
        bool,
        Field(description="Half price within a day, by the batch APIs of claude and openai; others are asked at once"),
    ] = False
    cancel_on_leave: Annotated[bool, Field(description="With economy: end the provider's batch if you leave")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEntry:
    """One of a batch; `key` is the caller's name for it, else its place."""

    key: str
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Many asks as they came."""

    entries: tuple[BatchEntry, ...]
    max_parallel: int = 0
    batch_key: str = ""
    stream: bool = False
    economy: bool = False
    cancel_on_leave: bool = False


def parse_batch(data: Mapping[str, object], caller: Caller) -> Batch:
    """From JSON: every item is checked before anything is asked.

    Raises:
        InvalidRequest: As for one request; the message names the item. Two items with one key.
    """
    batch = parsed(BatchRequest, data)
    shared = {name: getattr(batch, name) for name in batch.model_fields_set & Settings.model_fields.keys()}
    lengthless = {name: value for name, value in shared.items() if name not in _LENGTHS}
    entries: dict[str, BatchEntry] = {}
    for index, item in enumerate(batch.items):
        key = item.key or str(index)
        if key in entries:
            raise InvalidRequest(f"Two items have the key {key!r}. Give each its own.", field=f"items.{index}.key")
        own = {name: getattr(item, name) for name in item.model_fields_set if name != "key"}
        try:
            common = lengthless if own.keys() & _LENGTHS else shared
            ask = Question.model_construct(**{**common, **own}).ask(caller)
        except InvalidRequest as error:
            raise InvalidRequest(f"Item {key!r}: {error.message}", field=f"items.{index}.{error.field}") from None
        entries[key] = BatchEntry(key=key, ask=ask)
    return Batch(
        entries=tuple(entries.values()),
        max_parallel=batch.max_parallel,
        batch_key=batch.batch_key,
        stream=batch.stream,
        economy=batch.economy,
        cancel_on_leave=batch.cancel_on_leave,
    )


def parsed(kind: type[W], data: Mapping[str, object]) -> W:
    """`data` as a `kind`. Raises InvalidRequest as `GenerateRequest.parse`."""
    try:
        return kind.model_validate(_clean(data, 0))
    except ValidationError as error:
        raise _advice(kind, error) from None


def _clean(value: object, depth: int) -> object:
    """`value` without lone surrogates, which no encoder takes.

    Raises:
        InvalidRequest: It is nested too deeply, or holds a number that JSON does not have.
    """
    if isinstance(value, str):
        return value if value.isascii() else scrub(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest("A number is NaN or infinite, which JSON does not have.", field="body")
        return int(value) if value.is_integer() and abs(value) < _EXACT else value  # 1.0 is an integer in JSON Schema
    if depth > MAX_NESTING:
        raise InvalidRequest(f"The body is nested deeper than {MAX_NESTING} levels.", field="body")
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return {cast("str", _clean(name, depth)): _clean(item, depth + 1) for name, item in pairs}
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in cast("list[object]", value)]
    return value


def _advice(kind: type[Wire], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    name = where(first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields(kind, first["loc"])
        message = f"Unknown field {name!r}.{_near(name.rpartition('.')[2], known)}"
        message += f" Known are: {', '.join(known)}." if known else ""
    elif first["type"] == "missing":
        message = f"Field {name!r} is missing."
    else:
        message = f"Field {name!r}: {first['msg']}."
    return InvalidRequest(message, field=name or "body")


_INNER: Mapping[str, type[Wire]] = {
    "items": WireItem,
    "messages": WireMessage,
    "tools": WireTool,
    "fallbacks": WireFallback,
    **{f"({name})": kind for name, kind in PARTS.items()},
}
"""What is known inside of a field, or of a part with that tag."""


def _fields(kind: type[Wire], location: Sequence[int | str]) -> tuple[str, ...]:
    for step in location[:-1]:
        kind = _INNER.get(step, kind) if isinstance(step, str) else kind
    return tuple(kind.model_fields)


def _near(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # only for who got it wrong

    found = get_close_matches(name.lower(), known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(one) for one in found)}?" if found else ""


def provider_named(name: str, field: str) -> str:
    """The provider with that name or alias, "" for "".

    Raises:
        InvalidRequest: Nobody knows it; the message has near ones and all.
    """
    found = providers.canonical(name) if name else ""
    if name and not found:
        near = _near(name, (*_KNOWN, *providers.ALIASES))
        message = f"Unknown provider {name!r}.{near} Known are: {', '.join(_KNOWN)}."
        raise InvalidRequest(message, field=field)
    return found


def _target(provider: str, model: str) -> tuple[str, str]:
    """(provider, model): a model may be written provider/name where no provider is given."""
    if not provider and "/" in model:
        before, _, after = model.partition("/")
        if found := providers.canonical(before):
            return found, after
    return provider_named(provider, "provider"), model.strip()


def _fallback(one: str | WireFallback, at: int) -> tuple[str, str]:
    field = f"fallbacks.{at}"
    if isinstance(one, WireFallback):
        name, model = one.provider, one.model
    else:
        name, _, model = one.partition("/")
    found = provider_named(name, field)
    if not found:
        raise InvalidRequest(f"Field {field!r} names no provider. Write 'openai' or 'qwen/qwen-plus'.", field=field)
    return found, model.strip()


def _tools(given: Sequence[WireTool]) -> tuple[Tool, ...]:
    names: set[str] = set()
    for at, tool in enumerate(given):
        if tool.name in names:
            raise InvalidRequest(f"Two tools are called {tool.name!r}. Rename one.", field=f"tools.{at}.name")
        names.add(tool.name)
        if tool.parameters.get("type", "object") != "object":
            message = (
                f"Tool {tool.name!r}: `parameters` describes {tool.parameters['type']!r}; arguments are an object."
            )
            raise InvalidRequest(message, field=f"tools.{at}.parameters")
    return tuple(
        Tool(name=tool.name, description=tool.description, parameters=tool.parameters or _NO_PARAMETERS)
        for tool in given
    )


_NO_PARAMETERS: Mapping[str, object] = {"type": "object", "properties": {}}


def _tool_choice(choice: str, tools: Sequence[WireTool]) -> str:
    names = [tool.name for tool in tools]
    if choice in ("auto", "none") or (choice == "required" and names) or choice in names:
        return choice
    if not names:
        raise InvalidRequest(f"`tool_choice` is {choice!r}, but there are no `tools`.", field="tool_choice")
    known = (*_CHOICES, *names)
    message = f"`tool_choice` is {choice!r}.{_near(choice, known)} Known are: {', '.join(known)}."
    raise InvalidRequest(message, field="tool_choice")


def _stop(given: list[str] | str) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,) if given else ()
    if len(given) > MAX_STOPS:
        raise InvalidRequest(f"`stop` has {len(given)} texts, the limit is {MAX_STOPS}.", field="stop")
    return tuple(given)


def _schema(schema: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if schema is not None:
        from claude_jobs.runner.schema import check_schema

        check_schema(json.dumps(schema, sort_keys=True))
    return schema
