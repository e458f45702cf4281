"""A file of YAML, JSON or JSON lines as plain values that remember their lines. Knows nothing of jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import cast

import click

MAX_BYTES = 5_000_000
"""Longest YAML or JSON document: it is read as a whole. JSON lines have no such bound, only each job has."""

Place = tuple[str | int, ...]
"""The way to a value: ("jobs", 2, "model")."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says.

    Attributes:
        value: None, bool, int, float, str, list, or dict with str keys.
        lines: Where values stand, from 1; empty where that is not known (JSON).
    """

    value: object
    lines: Mapping[Place, int] = field(default_factory=dict[Place, int])

    def line(self, *place: str | int) -> int | None:
        """The line of a value, or of the nearest thing around it whose line is known."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place)


def parse(text: str, name: str) -> Document:
    """The document in `text`, by the ending of its name; for stdin and other names by how it begins.

    Raises:
        click.UsageError: It is none, is too long, or says a key twice; the message names the line.
    """
    match PurePath(name).suffix.lower():
        case ".jsonl" | ".ndjson":
            return _lines(text)
        case ".json":
            return _json(text)
        case ".yaml" | ".yml":
            return _yaml(text)
        case _:
            return _guessed(text)


def _guessed(text: str) -> Document:
    beginning = text.lstrip()
    if beginning[:1] not in ("{", "[", '"'):
        return _yaml(text)
    if not _is_json(beginning) and _is_json(beginning.split("\n", 1)[0]):
        return _lines(text)
    return _yaml(text) if beginning[0] == '"' and not _is_json(beginning) else _json(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(text: str) -> Document:
    # Not splitlines: a prompt may hold other line separators than this one.
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(numbered) == 1 and numbered[0][1].lstrip().startswith("["):
        return _json(text)
    values = [_value(line, f"Line {number}", "Write one JSON object or string a line.") for number, line in numbered]
    return Document(values, {(at,): number for at, (number, _) in enumerate(numbered)})


def _json(text: str) -> Document:
    check_size(text)
    return Document(_value(text, "The file", "Check it with a JSON tool, or write the plan as YAML."))


def _yaml(text: str) -> Document:
    check_size(text)
    from claude_jobs.cli.plan_yaml import parse_yaml  # only YAML pays for its parser

    return parse_yaml(text)


def check_size(text: str) -> None:
    """Raises click.UsageError if a document is longer than MAX_BYTES."""
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        advice = "Split it, put long material into files that the prompts name, or use JSON lines (.jsonl)."
        raise click.UsageError(f"The plan has {size} bytes; at most {MAX_BYTES} are read. {advice}")


def _value(text: str, what: str, advice: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except _Unusable as error:
        raise click.UsageError(f"{what}: {error}") from error
    except RecursionError as error:
        raise click.UsageError(f"{what} is nested too deeply.") from error
    except ValueError as error:
        raise click.UsageError(f"{what} is not JSON: {error}. {advice}") from error


class _Unusable(Exception):
    """JSON that says something we do not take."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _Unusable(f"the key {key!r} stands twice in one object. Remove one.")
        found[key] = value
    return found


def _refused(constant: str) -> object:
    raise _Unusable(f"{constant} is not JSON. Write a number.")


def mapping(value: object) -> dict[str, object] | None:
    """`value` if it is a mapping. All keys of a document are text."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def sequence(value: object) -> list[object] | None:
    """`value` if it is a list."""
    return cast("list[object]", value) if isinstance(value, list) else None
