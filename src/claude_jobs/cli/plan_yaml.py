"""YAML into plain values: nothing is constructed but text, numbers, booleans, null, lists and mappings, and all of it is bounded.

Scalars are those of YAML 1.2's core schema. YAML 1.1, PyYAML's default, would read `on:` as true and 10:30 as 630.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import click
import yaml

from claude_jobs.cli.documents import MAX_BYTES, Document, Place

MAX_EXPANDED = 4 * MAX_BYTES
"""Characters and values with every alias written out. No document without aliases comes near."""
DEEPEST_LINE = 3
"""Lines are remembered down to the fields of a job."""

_TAG = "tag:yaml.org,2002:"
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
)
"""What an unquoted scalar is, the first that matches; anything else is text."""


def parse_yaml(text: str) -> Document:
    """The one document in `text`.

    Raises:
        click.UsageError: It is not YAML, holds something else than plain values, a key twice, or aliases that grow without
            bound. The message names the line.
    """
    try:
        # BaseLoader takes every scalar for text, so that `_PLAIN` decides.
        node = cast("yaml.Node | None", yaml.compose(text, Loader=yaml.BaseLoader))  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refused(mark.line + 1 if mark else None, f"{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise _refused(None, str(error)) from error
    except RecursionError as error:
        raise _refused(None, "it is nested too deeply") from error
    if node is None:
        return Document(None)
    reader = _Reader()
    reader.measure(node)
    return Document(reader.read(node, ()), reader.lines)


def _refused(line: int | None, problem: str) -> click.UsageError:
    where = "The plan" if line is None else f"Line {line}"
    return click.UsageError(f"{where} is not YAML that can be used: {' '.join(problem.split())}.")


class _Reader:
    """Nodes into values. An alias is the very node it stands for."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def measure(self, node: yaml.Node) -> int:
        """Characters and values of a node, aliases written out; each node is looked at once, however often it is named."""
        known = self._sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise _refused(_line(node), "an alias names something that it is part of")
        self._open.add(id(node))
        size = 1 + sum(map(self.measure, _inner(node)))
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
        if size > MAX_EXPANDED:
            raise _refused(_line(node), f"written out, its aliases make more than {MAX_EXPANDED} characters")
        self._open.discard(id(node))
        self._sizes[id(node)] = size
        return size

    def read(self, node: yaml.Node, place: Place) -> object:
        """The value of a node at `place`."""
        self.lines.setdefault(place, _line(node))
        match node:
            case yaml.ScalarNode() if node.tag == f"{_TAG}str":
                return _scalar(node)
            case yaml.SequenceNode() if node.tag == f"{_TAG}seq":
                return [self.read(inner, _below(place, at)) for at, inner in enumerate(node.value)]
            case yaml.MappingNode() if node.tag == f"{_TAG}map":
                return self._mapping(node, place)
            case _:
                raise _refused(_line(node), f"the tag {node.tag!r} is not taken; plain values only")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(_line(key), "a key must be a word")
            if key.value in found:
                raise _refused(_line(key), f"the key {key.value!r} stands twice in one mapping")
            below = _below(place, key.value)
            self.lines.setdefault(below, _line(key))
            found[key.value] = self.read(value, below)
        return found


def _scalar(node: yaml.ScalarNode) -> object:
    if node.style is not None:
        return node.value
    meaning = next((meaning for pattern, meaning in _PLAIN if pattern.fullmatch(node.value)), str)
    try:
        return meaning(node.value)
    except ValueError as error:  # Python bounds the digits of a number
        raise _refused(_line(node), f"a number with {len(node.value)} digits") from error


def _inner(node: yaml.Node) -> list[yaml.Node]:
    match node:
        case yaml.SequenceNode():
            return list(node.value)
        case yaml.MappingNode():
            return [one for pair in node.value for one in pair]
        case _:
            return []


def _below(place: Place, step: str | int) -> Place:
    """Deeper places share the line of what is around them."""
    return (*place, step) if len(place) < DEEPEST_LINE else place


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
