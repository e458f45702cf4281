"""Which schemas are taken, what the CLI gets of them, and that no check of ours runs for ever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.errors import InvalidRequest
from claude_jobs.runner.schema import HEAVY, MAX_PARTS, check_schema, compiled
from claude_jobs.runner.structured import errors_of

N = {"type": "integer"}
TREE = {"$ref": "#/$defs/T", "$defs": {"T": {"properties": {"below": {"items": {"$ref": "#/$defs/T"}}}}}}
BOMB = {
    "$ref": "#/$defs/d0",
    "$defs": {**{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}, "d40": N},
}


def for_cli(schema: Any) -> Any:
    return json.loads(compiled(json.dumps(schema)).for_cli)


def errors(schema: Any, answer: Any) -> list[str]:
    return errors_of(compiled(json.dumps(schema)), json.dumps(answer))


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ("true", "must be a JSON object"),
        ('{"maximum": NaN}', "NaN"),
        ('{"a":' * 2_000 + "1" + "}" * 2_000, "deep"),
        ({"description": "x" * 70_000}, "65,536"),
        ({"properties": {f"p{n}": N for n in range(MAX_PARTS)}}, "parts"),
        ({"type": "array", "items": N}, "Wrap it"),
        ({"type": ["string", "null"]}, "Wrap it"),
        ({"properties": {"a/b": {"type": "int"}}}, "/properties/a~1b/type"),
        ({"required": "n"}, "/required"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft-04"),
        ({"properties": {"x": {"$ref": "https://example.com/x.json"}}}, "/properties/x"),
        ({"properties": {"x": {"$ref": "other.json#/a"}}}, "within the schema"),
        ({"properties": {"x": {"$ref": "#/$defs/x"}}}, "no schema"),
        ({"properties": {"x": {"$dynamicRef": "#x"}}}, "$dynamicRef"),
        ({"properties": {"x": {"$id": "x.json"}}}, "$id"),
        ({"properties": {"x": {"pattern": "("}}}, "/properties/x/pattern"),
        ({"patternProperties": {"(": {}}}, "/patternProperties"),
        ({"allOf": [{"$ref": "#"}]}, "no check of it would end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "no check of it would end"),
    ],
)
def test_what_no_attempt_could_run_with_is_refused_with_its_place(schema: Any, complaint: str) -> None:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(InvalidRequest) as refused:
        check_schema(text)

    assert refused.value.field == "output_schema"
    assert complaint in refused.value.message
    assert len(refused.value.message) < 600


@pytest.mark.parametrize(
    ("schema", "copy"),
    [
        ({}, {"type": "object"}),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"n": N}}, {"properties": {"n": N}}),
        ({"$id": "urn:x", "title": "T", "x-order": 1}, {"title": "T"}),
        ({"properties": {"$schema": N, "x-y": N}}, {"properties": {"$schema": N, "x-y": N}}),
        ({"properties": {"t": {"prefixItems": [N]}}}, {"properties": {"t": {"items": [N]}}}),
        (
            {"properties": {"t": {"prefixItems": [N], "items": False}}},
            {"properties": {"t": {"items": [N], "additionalItems": False}}},
        ),
        ({"dependentRequired": {"a": ["b"]}}, {"dependencies": {"a": ["b"]}}),
        ({"properties": {"l": {"contains": N, "minContains": 2}}}, {"properties": {"l": {}}}),
        ({"unevaluatedProperties": False, "not": {"required": ["x"]}}, {}),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {}),
        ({"$ref": "#/$defs/T", "$defs": {"T": {"required": ["a"]}}}, {"required": ["a"], "$defs": {"T": {"required": ["a"]}}}),
        ({"properties": {"u": {"oneOf": [N], "discriminator": {}}}}, {"properties": {"u": {"oneOf": [N]}}}),
    ],
)  # fmt: skip
def test_the_cli_gets_a_copy_in_words_that_it_knows(schema: Any, copy: Any) -> None:
    assert for_cli(schema) == {"type": "object", **copy}


def test_a_reference_that_the_copy_cannot_follow_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="claude cannot follow"):
        check_schema(
            json.dumps({"properties": {"a": {"prefixItems": [N]}, "b": {"$ref": "#/properties/a/prefixItems/0"}}})
        )


@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        ({"properties": {"n": N}}, {"n": 1}, []),
        ({"properties": {"n": N}, "required": ["z"]}, {"n": "x"}, ["At $.n: 'x' is not of type 'integer'", "At $: 'z' is"]),
        ({"properties": {"t": {"prefixItems": [N]}}}, {"t": ["x"]}, ["At $.t[0]: 'x' is not of type 'integer'"]),
        ({"properties": {"t": {"items": [N]}}}, {"t": ["x"]}, ["At $.t[0]: 'x' is not of type 'integer'"]),
        ({"properties": {"n": {"anyOf": [N, {"const": "all"}]}}}, {"n": "some"}, ["At $.n: "]),
        (TREE, {"below": [{"below": [{"below": 1}]}]}, []),
        (TREE | {"type": "object", "required": ["below"]}, {}, ["At $: 'below' is a required property"]),
    ],
)  # fmt: skip
def test_errors_name_their_place_and_cause(schema: Any, answer: Any, expected: list[str]) -> None:
    found = errors(schema, answer)

    assert len(found) == len(expected)
    assert all(error.startswith(start) for error, start in zip(found, expected, strict=True))


def test_errors_are_bounded() -> None:
    found = errors({"additionalProperties": N}, {str(n): "x" * 5_000 for n in range(50)})

    assert len(found) == 10
    assert max(map(len, found)) < 400


def test_what_may_take_long_is_known_beforehand() -> None:
    weights = {
        name: compiled(json.dumps(schema)).weight
        for name, schema in {
            "plain": {"properties": {"n": N, "m": {"items": N}}},
            "shared": {"properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}}, "$defs": {"n": N}},
            "tree": TREE,
            "bomb": BOMB,
            "pattern": {"properties": {"a": {"pattern": "(a+)+$"}}},
            "unique": {"properties": {"a": {"uniqueItems": True}}},
        }.items()
    }

    assert weights == {"plain": 4, "shared": 5, **dict.fromkeys(("tree", "bomb", "pattern", "unique"), HEAVY)}


def test_refusing_takes_no_longer_than_a_moment() -> None:
    """It happens where jobs are submitted, on the worker's own loop."""
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(900)}
    check_schema(json.dumps({"properties": {}}))
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        check_schema(json.dumps({"$ref": "#/$defs/d0", "$defs": {**chain, "d900": {"type": "object", "maximum": "x"}}}))

    assert time.process_time() - began < 10


FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "object": lambda p, q: {"properties": {"a": p}, "required": ["a"]},
    "tuple": lambda p, q: {"prefixItems": [p]},
    "tuple and more": lambda p, q: {"prefixItems": [p], "items": q},
    "any": lambda p, q: {"anyOf": [p, q]},
    "one": lambda p, q: {"oneOf": [p, q]},
    "not": lambda p, q: {"not": p},
    "if": lambda p, q: {"if": p, "then": q},
    "none": lambda p, q: {"contains": p, "minContains": 0},
    "some": lambda p, q: {"contains": p},
    "only": lambda p, q: {"properties": {"a": p}, "unevaluatedProperties": False},
    "needs": lambda p, q: {"dependentSchemas": {"a": p}},
}


def formed(name: str, part: Any, other: Any) -> Any:
    return FORMS[name](part, other)


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"type": "string"}, {"const": 1}, {"enum": ["a", 2]}, {"maximum": 3}]),
    lambda part: st.builds(formed, st.sampled_from(sorted(FORMS)), part, part),
    max_leaves=6,
)
ANSWERS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([1, 2, 5, "a", "b", None]),
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(st.sampled_from("ab"), part, max_size=2)),
    max_leaves=6,
)


@given(schema=SCHEMAS, answer=ANSWERS)
def test_the_copy_is_never_stricter(schema: Any, answer: Any) -> None:
    """Else the model could not give an answer that satisfies both."""
    schema, answer = {"properties": {"x": schema}}, {"x": answer}
    copy = {"$schema": "http://json-schema.org/draft-07/schema#", **for_cli(schema)}
    if not errors(schema, answer):
        assert errors(copy, answer) == []
