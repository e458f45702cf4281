"""Dataclasses <-> JSON: the one codec of every store. No files, no SQL.

Fields at their default are left out; unknown fields are skipped on reading, so a document written by the next version
stays readable. JSON is pure ASCII, so lone surrogates in prompts survive as escapes.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from claude_jobs.domain.usage import Usage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")
Json: TypeAlias = Any
"""What `json` reads and writes: the one place where types end."""
Doc = dict[str, Json]
Reader = Callable[[Json], Json]


def dumps(doc: object) -> str:
    """Compact ASCII JSON."""
    return json.dumps(doc, separators=(",", ":"))


def loads(text: str) -> Json:
    """What `dumps` wrote."""
    return json.loads(text)


def encode(value: DataclassInstance, *, without: Collection[str] = ()) -> Doc:
    """`value` as a JSON document, its default-valued fields and those named `without` left out."""
    doc: Doc = {}
    for name, default in _defaults(type(value)):
        item = getattr(value, name)
        if name not in without and (default is MISSING or item != default):
            doc[name] = _plain(item)
    return doc


def decode(kind: type[D], doc: Mapping[str, Any]) -> D:
    """The value that `encode` turned into `doc`."""
    readers = _readers(kind)
    known = {name: item for name, item in doc.items() if name in readers}
    return kind(**{name: reader(item) if (reader := readers[name]) else item for name, item in known.items()})


def to_json(value: DataclassInstance) -> str:
    """`encode` and `dumps` in one."""
    return dumps(encode(value))


def from_json(kind: type[D], text: str) -> D:
    """`loads` and `decode` in one."""
    return decode(kind, loads(text))


@cache
def _defaults(kind: type[Any]) -> tuple[tuple[str, object], ...]:
    return tuple(
        (field.name, field.default_factory() if field.default_factory is not MISSING else field.default)
        for field in fields(kind)
    )


def _plain(item: Json) -> Json:
    if is_dataclass(item) and not isinstance(item, type):
        return encode(item)
    if isinstance(item, tuple):
        return [_plain(part) for part in cast("tuple[Any, ...]", item)]
    if isinstance(item, Mapping):
        return {key: _plain(part) for key, part in cast("Mapping[str, Any]", item).items()}
    return item


@cache
def _readers(kind: type[Any]) -> dict[str, Reader | None]:
    hints = get_type_hints(kind, localns={"Usage": Usage})
    return {field.name: _reader(hints[field.name]) for field in fields(kind)}


def _reader(hint: Json) -> Reader | None:
    """How to read a value of this type back; None if JSON already has it right."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next((found for part in arguments if (found := _reader(part))), None)
        return inner and partial(_optional, inner)
    if origin is tuple:
        return partial(_tuple, _reader(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        inner = _reader(arguments[1])
        return inner and partial(_mapping, inner)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return partial(decode, cast("type[Usage]", hint)) if is_dataclass(cast("object", hint)) else None


def _optional(inner: Reader, item: Json) -> Json:
    return None if item is None else inner(item)


def _tuple(inner: Reader | None, items: list[Any]) -> tuple[Any, ...]:
    return tuple(map(inner, items)) if inner else tuple(items)


def _mapping(inner: Reader, items: dict[str, Any]) -> dict[str, Any]:
    return {key: inner(item) for key, item in items.items()}
