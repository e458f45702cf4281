"""Pure rules of the response cache: what an answer is kept under, what may be kept, and for how long. No clock, no IO.

The key covers everything of a request by a deny-list: a field added to `GenerationRequest` tomorrow is in it by itself.
Source of the rules: facts/gateway.md §4.3.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import cast

from claude_jobs.domain.generation import Completion, FinishReason, GenerationRequest, Image, Role, ToolUse
from claude_jobs.errors import InvalidRequest

VERSION = 1
"""Of the key's form. Another one makes every entry a miss."""
MAX_TEMPERATURE = 0.7
"""An answer to a request with more is meant to differ each time."""
TTL_JITTER = 0.1
"""Entries stored together do not expire together."""

_NOT_IN_KEY = frozenset({"provider", "model", "metadata"})
"""Provider and model stand in the key as they were resolved; metadata is sent to nobody."""
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")).encode
_AS_IS = frozenset({str, int, bool, type(None), Role})
_TYPES = {
    "string": (str,),
    "object": (Mapping,),
    "array": (list, tuple),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def cache_key(secret: bytes, *, org: str, provider: str, model: str, endpoint: str, request: GenerationRequest) -> str:
    """What the answer to a request is kept under: HMAC-SHA256 in hexadecimal, so that a stolen cache gives nothing to guess.

    Texts count as they are, without normalisation. The order of an object's members does not count, that of a list does;
    1 and 1.0 are equal, as they are in JSON Schema. An image counts by the hash of its base64 text.

    Args:
        secret: Of this installation; not empty.
        org: Who is billed: one org's answers are no other's. "" is "default".
        model: As resolved, never "".
        endpoint: The base URL, "" for the provider's own.

    Raises:
        InvalidRequest: Its JSON is nested deeper than can be walked.
    """
    if not secret:
        raise ValueError("A cache key needs a secret.")
    try:
        text = _ENCODE(_plain(request))
    except RecursionError:
        raise InvalidRequest(
            "A schema or a tool call's arguments are nested too deep. Flatten them.", field="request"
        ) from None
    org = org or "default"
    whole = (
        f"{VERSION}|{len(org)}:{org}{len(provider)}:{provider}{len(model)}:{model}"
        f"{len(endpoint)}:{endpoint}{len(text)}:{text}"
    )
    keyed = _keyed(secret).copy()
    keyed.update(whole.encode("utf-8", "surrogatepass"))
    return keyed.hexdigest()


def is_cacheable(
    request: GenerationRequest, *, is_stream: bool, cache_stream: bool, skipped_providers: Collection[str]
) -> str:
    """Why the answer to a request is neither looked up nor stored, "" if it is.

    Allowed on purpose: no temperature (the provider's own; who wants answers to differ says so), tools (an answer only asks
    for a call, and nothing of ours runs it) and images (in the key by their hash).

    Args:
        request: With its provider as resolved.
        cache_stream: The caller asked for streams to be cached.
        skipped_providers: Those the operator configured out, by canonical name.
    """
    if request.provider in skipped_providers:
        return f"answers of {request.provider} are not cached (configured)"
    if is_stream and not cache_stream:
        return "streams are not cached unless asked for"
    if request.temperature is not None and not request.temperature <= MAX_TEMPERATURE:
        return f"temperature {request.temperature:g} is over {MAX_TEMPERATURE:g}"
    return ""


def is_storable(completion: Completion, request: GenerationRequest | None = None) -> str:
    """Why an answer is not stored, "" if it may be. A bad answer, once stored, would be given again and again.

    Tokens may be unknown: what an answer cost does not change it.

    Args:
        request: If given, tool calls are held against its tools (name, required arguments, their types at the first level)
            and an answer with an output schema must be JSON. No schema is evaluated in depth: it may be hostile.
    """
    if completion.finish in (FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.OTHER):
        return f"it ended by {completion.finish.value}"
    calls = completion.tool_calls
    if not calls and not completion.text.strip():
        return "it is empty"
    if completion.finish is FinishReason.TOOL_CALLS and not calls:
        return "it announces tool calls and has none"
    tools = None if request is None else {tool.name: tool.parameters for tool in request.tools}
    for call in calls:
        if why := _malformed(call, tools):
            return why
    if request is not None and request.output_schema is not None and not calls and not _is_json(completion.text):
        return "it is not the JSON that was asked for"
    return ""


def expiry(now_ms: int, ttl_s: float, rnd: float, *, max_stale_s: float | None = None) -> tuple[int, int]:
    """Until when an entry is fresh, and until when it may be served stale; epoch milliseconds.

    Args:
        ttl_s: Nominal, ± 10 %. 0 or less: both are now, nothing is to be stored.
        rnd: In [0, 1).
        max_stale_s: Bounds the stale window, which is as long as the TTL otherwise; 0 for none.
    """
    if ttl_s <= 0:
        return now_ms, now_ms
    fresh_until_ms = now_ms + round(ttl_s * 1000 * (1 - TTL_JITTER + 2 * TTL_JITTER * rnd))
    stale_s = ttl_s if max_stale_s is None else min(ttl_s, max(max_stale_s, 0))
    return fresh_until_ms, fresh_until_ms + round(stale_s * 1000)


@lru_cache(maxsize=4)
def _keyed(secret: bytes) -> hmac.HMAC:
    """With the secret mixed in: half of the time of a short message's HMAC."""
    return hmac.new(secret, digestmod="sha256")


def _plain(value: object) -> object:
    """What JSON can say of a value, the same for equal values and another for others. Raises TypeError for what it does not know."""
    kind = type(value)
    if kind in _AS_IS:
        return value
    if kind is tuple or kind is list:
        return [_plain(item) for item in cast(Sequence[object], value)]
    shape = _SHAPES.get(kind)
    if shape is not None:
        label, read = shape
        return [label, *[item if type(item) in _AS_IS else _plain(item) for item in read(value)]]
    if kind is float:
        number = cast(float, value)
        return int(number) if number.is_integer() else number
    if kind is dict:
        return _plain_mapping(cast(Mapping[object, object], value))
    return _plain_rare(value)


def _plain_mapping(value: Mapping[object, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise TypeError(f"A member's name is {name!r}: JSON has texts there.")
        plain[name] = _plain(item)
    return plain


def _plain_rare(value: object) -> object:
    """Subclasses and types seen for the first time."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return _plain_mapping(cast(Mapping[object, object], value))
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no place in a cache key yet: add it to policy.cache.")
    _SHAPES[type(value)] = _shape(type(value))
    return _plain(value)


_Read = Callable[[object], Iterable[object]]
_SHAPES: dict[type, tuple[str, _Read]] = {}
"""Per dataclass: its name with those of its fields, so that no layout of another version is taken for this one; and its reader."""


def _shape(kind: type) -> tuple[str, _Read]:
    names = [field.name for field in fields(kind)]
    if issubclass(kind, GenerationRequest):
        names = [name for name in names if name not in _NOT_IN_KEY]
    label = f"{kind.__name__}({','.join(names)})"
    if kind is Image:
        return label, _image
    read = attrgetter(*names)
    if len(names) > 1:
        return label, cast(_Read, read)

    def read_one(value: object) -> Iterable[object]:
        return (read(value),)

    return label, read_one


def _image(value: object) -> Iterable[object]:
    image = cast(Image, value)
    return image.media_type, sha256(image.data.encode("utf-8", "surrogatepass")).hexdigest()


def _malformed(call: ToolUse, tools: Mapping[str, Mapping[str, object]] | None) -> str:
    arguments = cast(object, call.arguments)
    if not call.name or not isinstance(arguments, Mapping):
        return f"its call of {call.name!r} is malformed"
    if tools is None:
        return ""
    schema = tools.get(call.name)
    if schema is None:
        return f"it calls {call.name!r}, which it was not given"
    given = cast(Mapping[str, object], arguments)
    required = schema.get("required")
    for name in cast(list[object], required) if isinstance(required, list) else ():
        if name not in given:
            return f"its call of {call.name!r} lacks {name!r}"
    properties = schema.get("properties")
    known = cast(Mapping[str, object], properties if isinstance(properties, Mapping) else {})
    wrong = next((name for name, value in given.items() if not _fits(value, known.get(name))), None)
    return "" if wrong is None else f"its call of {call.name!r} has a {wrong!r} of another type"


def _fits(value: object, schema: object) -> bool:
    """Whether a value has the type that a schema names, as far as it plainly names one."""
    named = cast(Mapping[str, object], schema).get("type") if isinstance(schema, Mapping) else None
    names = cast(list[object], named) if isinstance(named, list) else [named]
    if not all(isinstance(name, str) and name in _TYPES for name in names):
        return True
    return any(_is_a(value, cast(str, name)) for name in names)


def _is_a(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
