"""The least value that fits a JSON Schema: what a rehearsal answers when JSON is asked for and the script says nothing."""

from __future__ import annotations

from typing import cast

from claude_jobs.rehearsal.fields import JsonObject

_MAX_DEPTH = 16
_DEEP = 3
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "rehearsal@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "hostname": "example.com",
}


def instance(schema: JsonObject) -> object:
    """A value that fits the usual keywords; patterns and conditions are not looked at. Gemini's upper-case types are understood."""
    return _instance(schema, schema, 0)


def _instance(schema: JsonObject, root: JsonObject, depth: int) -> object:
    schema = _resolved(schema, root)
    if depth > _MAX_DEPTH:
        return None
    if choices := [schema["const"]] if "const" in schema else _list(schema.get("enum")):
        return choices[0]
    for key in ("anyOf", "oneOf"):
        if options := _list(schema.get(key)):
            # Something may hold itself or null: a few levels down it holds null.
            nulls = [one for one in options if _object(one).get("type") == "null"] if depth > _DEEP else []
            return _instance(_object((nulls or options)[0]), root, depth + 1)
    match _type(schema):
        case "object":
            return _object_of(schema, root, depth)
        case "array":
            one = _object(schema.get("items"))
            return [_instance(one, root, depth + 1) for _ in range(_whole(schema.get("minItems")))]
        case "string":
            text = _FORMATS.get(str(schema.get("format")), "rehearsed")
            return text.ljust(_whole(schema.get("minLength")), ".")[: _whole(schema.get("maxLength")) or None]
        case "integer" | "number" as kind:
            return _number(schema, is_whole=kind == "integer")
        case "boolean":
            return True
        case _:
            return None


def _object_of(schema: JsonObject, root: JsonObject, depth: int) -> JsonObject:
    properties = _object(schema.get("properties"))
    required = [str(name) for name in _list(schema.get("required"))]
    found: JsonObject = {
        name: _instance(_object(properties.get(name)), root, depth + 1) for name in required if name in properties
    }
    for part in _list(schema.get("allOf")):
        value = _instance(_object(part), root, depth + 1)
        found.update(cast("JsonObject", value) if isinstance(value, dict) else {})
    return found


def _type(schema: JsonObject) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in cast("list[object]", kind) if one != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    return "array" if "items" in schema else "object"


def _number(schema: JsonObject, *, is_whole: bool) -> float:
    low, high = _bounds(schema, is_whole=is_whole)
    value = low if low is not None else 1 if high is None else min(1, high)
    if low is not None and "minimum" not in schema:
        value = low + 1 if is_whole or high is None else (low + high) / 2
    step = schema.get("multipleOf")
    if isinstance(step, int | float) and step > 0:
        value = -(-value // step) * step
    return int(value) if is_whole else value


def _bounds(schema: JsonObject, *, is_whole: bool) -> tuple[float | None, float | None]:
    """The lowest value, or what it must be above; and the highest."""
    low = next(
        (one for key in ("minimum", "exclusiveMinimum") if isinstance(one := schema.get(key), int | float)), None
    )
    below = schema.get("exclusiveMaximum")
    high = schema.get("maximum")
    if isinstance(below, int | float):
        return low, below - (1 if is_whole else 0.5)
    return low, high if isinstance(high, int | float) else None


def _resolved(schema: JsonObject, root: JsonObject) -> JsonObject:
    for _ in range(_MAX_DEPTH):
        path = schema.get("$ref")
        if not isinstance(path, str) or not path.startswith("#"):
            return schema
        found: object = root
        for key in path.strip("#/").split("/") if path != "#" else ():
            found = _object(found).get(key)
        schema = _object(found)
    return {"type": "null"}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}
