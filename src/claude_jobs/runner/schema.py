"""JSON Schemas for answers: which are taken, what of them the CLI is given, and how much work a check can be.

The CLI (2.1.329, measured) takes draft-07 with known keywords only, and refuses to start with anything else. So it gets a copy
in its own words, never stricter than the original; the answer is held against the original (structured.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

from claude_jobs.errors import InvalidRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 100
MAX_PARTS = 1_000
"""Objects in its JSON: to hold that many against the schema of schemas takes a second."""
HEAVY = 10**9
"""The weight of a schema whose check has no bound worth naming: it refers to itself, or holds patterns."""

Json = Mapping[str, Any]

_DIALECTS = {
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "https://json-schema.org/draft/2020-12/schema": "Draft202012Validator",
}
_DEFAULT = ("Draft202012Validator", "Draft7Validator")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    *("items", "additionalItems", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "not", "if", "then", "else"),
)
_AT_THE_SAME_PLACE = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"}
)
_DEFINITIONS = frozenset({"$defs", "definitions"})
_NOT_TAKEN = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "$vocabulary")
_WORK = frozenset({"pattern", "patternProperties", "uniqueItems"})
"""Keywords whose check may take longer than its size tells."""
_KEPT = frozenset(
    [
        *("$ref", "$comment", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
        *("contentMediaType", "contentEncoding", "format", "type", "enum", "const", "multipleOf", "maximum"),
        *("exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems"),
        *("minItems", "uniqueItems", "maxProperties", "minProperties", "required", "properties", "$defs"),
        *("definitions", "patternProperties", "dependencies", "items", "additionalItems", "contains"),
        *("additionalProperties", "propertyNames", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    ]
)
_RENAMED = frozenset({"prefixItems", "dependentRequired", "dependentSchemas", "minContains", "maxContains"})
_TRANSLATED = _KEPT | _RENAMED
_LOST = frozenset({"unevaluatedItems", "unevaluatedProperties", "minContains", "maxContains"})
_UNSAFE_WHEN_LOOSENED = frozenset({"not", "oneOf", "if", "then", "else"})
"""A looser part makes these stricter, or other ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A schema that was found good.

    Attributes:
        document: It, without the names of its dialect and of itself: all its references begin with "#".
        dialect: Name of its class in the library jsonschema.
        for_cli: The copy for `--json-schema`, as JSON text.
        weight: Subschemas that may be applied to one place of an answer, references followed; HEAVY if there is no bound.
    """

    document: Json
    dialect: str
    for_cli: str
    weight: int


def check_schema(text: str) -> None:
    """Refuse a schema that no attempt could run with.

    Raises:
        InvalidRequest: Not JSON, not a schema, too large, for something else than an object, or with a reference that
            leads nowhere or out of it; `field` is "output_schema", the message names the place.
    """
    compiled(text)


@lru_cache(maxsize=128)
def compiled(text: str) -> Schema:
    """See `check_schema`."""
    try:
        whole = _parsed(text)
        dialect = _dialect(whole)
        document = {key: value for key, value in whole.items() if key not in ("$schema", "$id")}
        _check_parts(document)
        cli = _for_cli(document)
        return Schema(document=document, dialect=dialect, for_cli=_text(cli), weight=_Weigher(document).weigh(document))
    except RecursionError:
        raise _bad("It is nested too deeply, or refers to itself too often.") from None


def _parsed(text: str) -> Json:
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_SCHEMA_BYTES:
        raise _bad(f"It has {size:,} bytes, the limit is {MAX_SCHEMA_BYTES:,}. Describe the answer with less.")
    try:
        data: object = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise _bad(f"It is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise _bad("It must be a JSON object.")
    document = cast("Json", data)
    _check_extent(document)
    kinds = document.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        message = (
            f"At its root 'type' is {json.dumps(kinds)[:60]}, but an answer is always an object. "
            'Wrap it, as in {"type": "object", "properties": {"items": …}, "required": ["items"]}.'
        )
        raise _bad(message)
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _check_extent(data: object) -> None:
    level: list[object] = [data]
    parts = 0
    for _ in range(MAX_DEPTH):
        parts += sum(isinstance(value, dict) for value in level)
        if parts > MAX_PARTS:
            raise _bad(f"It has more than {MAX_PARTS:,} parts. Describe the answer with less.")
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise _bad(f"It is nested deeper than {MAX_DEPTH} levels. Move parts of it to '$defs'.")


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("Json", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _dialect(document: Json) -> str:
    """The dialect that it names, else the newest in which it is a schema."""
    named = document.get("$schema")
    if named is None:
        tried = _DEFAULT
    elif isinstance(named, str) and named.rstrip("#") in _DIALECTS:
        tried = (_DIALECTS[named.rstrip("#")],)
    else:
        raise _bad(f"'$schema' is {named!r}. Known are: {', '.join(_DIALECTS)}. Without one the newest is meant.")
    complaints: list[str] = []
    for name in tried:
        complaint = _against_its_dialect(document, name)
        if not complaint:
            return name
        complaints.append(complaint)
    raise _bad(complaints[0])


def _against_its_dialect(document: Json, dialect: str) -> str:
    import jsonschema  # 0.3 s, and only some jobs have a schema

    try:
        getattr(jsonschema, dialect).check_schema(document)
    except jsonschema.SchemaError as error:
        return f"At {_pointer(error.absolute_path)} it is no JSON Schema: {error.message[:300]}."
    return ""


def _check_parts(document: Json) -> None:
    for place, part in _walk(document, ""):
        for keyword in _NOT_TAKEN:
            if keyword in part:
                raise _bad(
                    f"At {place or '/'} it uses {keyword!r}, which is not taken. Refer with '$ref' to '#/$defs/…'."
                )
        if "$id" in part and place:
            raise _bad(f"At {place} it has an '$id' of its own, which is not taken. Refer with '$ref' to '#/$defs/…'.")
        if "$ref" in part:
            _resolved(document, part["$ref"], place)


def _resolved(document: Json, ref: str, place: str) -> Json | bool:
    if ref != "#" and not ref.startswith("#/"):
        message = f"At {place or '/'} '$ref' leads to {ref[:80]!r}. Only references within the schema are taken ('#/$defs/…')."
        raise _bad(message)
    found: object = document
    for raw in ref.split("/")[1:]:
        step = unquote(raw).replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = cast("Json", found).get(step)
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(cast("list[object]", found)):
            found = cast("list[object]", found)[int(step)]
        else:
            found = None
    if not isinstance(found, dict | bool):
        raise _bad(f"At {place or '/'} '$ref' leads to {ref[:80]!r}, where there is no schema.")
    return cast("Json | bool", found)


def _parts(schema: Json) -> Iterator[tuple[str, str, Json]]:
    """(keyword, place below this one, schema) of each schema directly in this one; true and false are none."""
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            found = [(f"/{keyword}/{_escaped(name)}", part) for name, part in cast("Json", value).items()]
        elif keyword in _LISTS and isinstance(value, list):
            found = [(f"/{keyword}/{at}", part) for at, part in enumerate(cast("list[object]", value))]
        elif keyword in _SINGLE:
            found = [(f"/{keyword}", value)]
        else:
            continue
        yield from ((keyword, place, cast("Json", part)) for place, part in found if isinstance(part, dict))


def _walk(schema: Json, place: str) -> Iterator[tuple[str, Json]]:
    yield place, schema
    for _, below, part in _parts(schema):
        yield from _walk(part, place + below)


class _Weigher:
    """Follows every reference once, and refuses those that come back to where they started at the same place of an answer."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._known: dict[int, int] = {}
        self._open: list[int] = []
        self._moved: list[bool] = []

    def weigh(self, schema: Json, *, moves: bool = True) -> int:
        """Args: moves: it is applied to a part of what the schema around it is applied to."""
        me = id(schema)
        if me in self._known:
            return self._known[me]
        if me in self._open:
            at = self._open.index(me)
            if not moves and not any(self._moved[at + 1 :]):
                raise _bad(
                    "A '$ref' leads back to itself without going deeper into the answer: no check of it would end."
                )
            return HEAVY
        self._open.append(me)
        self._moved.append(moves)
        weight = min(HEAVY, 1 + self._below(schema)) if not _WORK & schema.keys() else HEAVY
        self._open.pop()
        self._moved.pop()
        self._known[me] = weight
        return weight

    def _below(self, schema: Json) -> int:
        total = sum(
            self.weigh(part, moves=keyword not in _AT_THE_SAME_PLACE)
            for keyword, _, part in _parts(schema)
            if keyword not in _DEFINITIONS
        )
        if "$ref" in schema:
            target = _resolved(self._document, schema["$ref"], "")
            total += self.weigh(target, moves=False) if isinstance(target, dict) else 1
        return total


def _for_cli(document: Json) -> Json:
    loses = any(_LOST & part.keys() for _, part in _walk(document, ""))
    copy = dict(_translated(document, loses=loses))
    for _ in range(MAX_DEPTH):  # the API wants the keywords of the object itself at the root
        if "$ref" not in copy:
            break
        target = _resolved(document, copy.pop("$ref"), "")
        if isinstance(target, dict):
            copy = {**_translated(target, loses=loses), **copy}
    for keyword in ("allOf", "anyOf", "oneOf"):  # nor does it take these there
        copy.pop(keyword, None)
    copy["type"] = "object"
    for place, part in _walk(copy, ""):
        if "$ref" in part and not _leads_somewhere(copy, part["$ref"]):
            raise _bad(
                f"At {place} '$ref' leads to {part['$ref']!r}, where claude cannot follow. Move that to '$defs'."
            )
    return copy


def _leads_somewhere(document: Json, ref: str) -> bool:
    try:
        _resolved(document, ref, "")
    except InvalidRequest:
        return False
    return True


def _translated(schema: Json, *, loses: bool) -> Json:
    """In keywords that the CLI knows. What it does not know and cannot be said otherwise is left out.

    Args:
        loses: Something is left out somewhere.
    """

    def again(value: object) -> object:
        return _translated(cast("Json", value), loses=loses) if isinstance(value, dict) else value

    copy: dict[str, object] = {}
    for keyword, value in schema.items():
        if keyword not in _TRANSLATED or (loses and keyword in _UNSAFE_WHEN_LOOSENED):
            continue
        if keyword in _MAPS:
            copy[keyword] = {name: again(part) for name, part in cast("Json", value).items()}
        elif keyword in _LISTS and isinstance(value, list):
            copy[keyword] = [again(part) for part in cast("list[object]", value)]
        else:
            copy[keyword] = again(value) if keyword in _SINGLE else value
    return _in_old_words(copy)


def _in_old_words(schema: dict[str, object]) -> Json:
    """What newer dialects say with other keywords than draft-07."""
    if "prefixItems" in schema:
        if "items" in schema:
            schema["additionalItems"] = schema.pop("items")
        schema["items"] = schema.pop("prefixItems")
    for keyword in ("dependentRequired", "dependentSchemas"):
        if keyword in schema:
            known = cast("Json", schema.get("dependencies", {}))
            schema["dependencies"] = {**known, **cast("Json", schema.pop(keyword))}
    if {"minContains", "maxContains"} & schema.keys():
        for keyword in ("contains", "minContains", "maxContains"):
            schema.pop(keyword, None)
    return schema


def _text(schema: Json) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _pointer(path: object) -> str:
    return "/" + "/".join(_escaped(str(step)) for step in cast("list[object]", path))


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(f"output_schema: {message}", field="output_schema")
