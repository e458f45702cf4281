"""Reading a request's parameters: each raises InvalidRequest that names the one that is not what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from claude_jobs.errors import InvalidRequest

Params = Mapping[str, object]


def string(params: Params, name: str) -> str:
    """Text, "" if it is not there."""
    value = params.get(name, "")
    if not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be text.", field=name)
    return value


def strings(params: Params, name: str) -> tuple[str, ...]:
    """A list of texts, () if it is not there."""
    value = params.get(name) or ()
    items = cast("list[object]", value) if isinstance(value, list) else [] if value == () else [None]
    if not all(isinstance(item, str) for item in items):
        raise InvalidRequest(f"`{name}` must be a list of texts.", field=name)
    return tuple(cast("list[str]", items))


def whole(params: Params, name: str) -> int | None:
    """A whole number, None if it is not there."""
    value = params.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidRequest(f"`{name}` must be a whole number.", field=name)


def number(params: Params, name: str, default: float) -> float:
    """A number, zero or more."""
    value = params.get(name, default)
    if isinstance(value, (int, float)) and value >= 0:
        return float(value)
    raise InvalidRequest(f"`{name}` must be a number, zero or more.", field=name)
