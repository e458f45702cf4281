"""The least value of a schema fits it, and a bucket never gives more than its rate."""

from __future__ import annotations

from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.rehearsal.figures import Bucket, Rate
from claude_jobs.rehearsal.schema import instance

Schema = dict[str, Any]


def _like(**fields: Any) -> st.SearchStrategy[Schema]:
    """Schemas with these keywords; a value that is no strategy is always the same."""
    made: dict[str, st.SearchStrategy[Any]] = {}
    for key, value in fields.items():
        made[key] = cast("st.SearchStrategy[Any]", value) if isinstance(value, st.SearchStrategy) else st.just(value)
    return st.fixed_dictionaries(made)


def _with_properties(fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _within(bounds: tuple[int, int]) -> Schema:
    return {"type": "integer", "minimum": min(bounds), "maximum": max(bounds)}


def _nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        _like(type="array", items=inner, minItems=st.integers(0, 3)),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3).map(_with_properties),
        _like(anyOf=st.lists(inner, min_size=1, max_size=3)),
    )


_SMALL = st.integers(-1000, 1000)
_LEAVES: st.SearchStrategy[Schema] = st.one_of(
    _like(type=st.sampled_from(["string", "integer", "number", "boolean", "null"])),
    st.tuples(st.integers(), st.integers()).map(_within),
    _like(type="number", exclusiveMinimum=_SMALL),
    _like(type="integer", exclusiveMaximum=_SMALL),
    _like(type="integer", minimum=_SMALL, multipleOf=st.integers(1, 50)),
    _like(type="string", minLength=st.integers(0, 40), maxLength=st.integers(40, 50)),
    _like(type="string", maxLength=st.integers(1, 5)),
    _like(enum=st.lists(st.integers(), min_size=1)),
    _like(const=st.text()),
    _like(type=["null", "string"]),
)


@given(st.recursive(_LEAVES, _nested, max_leaves=12))
def test_the_least_value_fits(schema: Schema) -> None:
    jsonschema.validate(instance(schema), schema)


_NODE: Schema = _with_properties({"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"type": "integer"}}, **_with_properties({"n": {"$ref": "#/$defs/n"}})},
        {"$defs": {"node": _NODE}, "$ref": "#/$defs/node"},
        {"allOf": [_with_properties({"a": {"type": "string"}})], "type": "object"},
        {"items": {"type": "string"}, "minItems": 1},
        {},
    ],
)
def test_references_and_compositions_are_followed(schema: Schema) -> None:
    jsonschema.validate(instance(schema), schema)


def test_the_upper_case_types_of_gemini_are_understood() -> None:
    schema: Schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}

    assert instance(schema) == {"n": 1}


@given(
    rate=st.builds(Rate, requests=st.integers(1, 20), tokens=st.integers(100, 1000), per_s=st.just(60.0)),
    asks=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_its_rate(rate: Rate, asks: list[tuple[float, int]]) -> None:
    now, bucket = 0.0, Bucket.full(rate, now=0.0)
    taken: list[int] = []
    for pause, tokens in asks:
        now += pause
        wait = bucket.take(tokens, now=now)
        if wait:
            now += wait + 1e-6
            assert bucket.take(tokens, now=now) == 0.0
        taken.append(tokens)

    share = now / rate.per_s
    assert len(taken) <= (rate.requests or 0) * (1 + share) + 1e-3
    assert sum(taken) <= (rate.tokens or 0) * (1 + share) + 1e-3
