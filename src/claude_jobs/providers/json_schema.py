"""JSON Schemas as the providers want them. Pure; the given schema is never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every object closed to properties it does not name.

    Anthropic and OpenAI's strict mode insist on it. What fits the closed schema fits the open one, too.
    """
    return cast("dict[str, Any]", _closed(schema))


def asked_in_words(system: str, schema: Mapping[str, Any]) -> str:
    """The system text with the wish for such JSON added, for a model that gives JSON and is held to no schema."""
    wish = f"Answer with one JSON object that fits this JSON Schema, and nothing else:\n{json.dumps(schema)}"
    return f"{system}\n\n{wish}" if system else wish


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI's strict mode takes it once it is closed: an object whose objects require all that they name."""
    return schema.get("type") == "object" and _is_strict(schema)


def _closed(value: object) -> object:
    if isinstance(value, Mapping):
        found = {key: _closed(each) for key, each in cast("Mapping[str, object]", value).items()}
        if found.get("type") == "object" and isinstance(found.get("properties", {}), dict):
            found.setdefault("additionalProperties", False)
        return found
    if isinstance(value, list | tuple):
        return [_closed(each) for each in cast("Sequence[object]", value)]
    return value


def _is_strict(value: object) -> bool:
    if isinstance(value, Mapping):
        found = cast("Mapping[str, object]", value)
        if found.get("type") == "object":
            properties, required = found.get("properties"), found.get("required")
            if not isinstance(properties, Mapping) or not isinstance(required, list | tuple):
                return False
            if set(cast("Mapping[str, object]", properties)) != set(cast("Sequence[str]", required)):
                return False
            if found.get("additionalProperties", False) is not False:
                return False
        return all(_is_strict(each) for each in found.values())
    if isinstance(value, list | tuple):
        return all(_is_strict(each) for each in cast("Sequence[object]", value))
    return True
