"""Stored answers and explain records: exact there and back, and a miss when damaged."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support_generation import generating

from claude_jobs.domain.generation import (
    Completion,
    Cost,
    FinishReason,
    Image,
    Part,
    Provenance,
    RateHeaders,
    Route,
    Step,
    Text,
    Thinking,
    Tokens,
    ToolResult,
    ToolUse,
)
from claude_jobs.services.answers import decode, encode, steps_json, steps_of

TEXTS = st.text(st.characters(), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PARTS: dict[type, st.SearchStrategy[Part]] = {
    Text: st.builds(Text, text=TEXTS),
    Image: st.builds(Image, media_type=TEXTS, data=TEXTS),
    ToolUse: st.builds(
        ToolUse, id=TEXTS, name=TEXTS, arguments=st.dictionaries(TEXTS, JSON, max_size=3), signature=TEXTS
    ),
    ToolResult: st.builds(ToolResult, id=TEXTS, name=TEXTS, text=TEXTS, is_error=st.booleans()),
    Thinking: st.builds(Thinking, text=TEXTS, signature=TEXTS),
}
COUNTS = st.integers(0, 10**12)
ROUTES = st.builds(Route, provider=TEXTS, model=TEXTS, key=TEXTS)
COSTS = st.builds(Cost, nusd=st.none() | st.integers(0, 10**18), price=TEXTS)
COMPLETIONS = st.builds(
    Completion,
    parts=st.lists(st.one_of(*PARTS.values()), max_size=5).map(tuple),
    finish=st.sampled_from(FinishReason),
    tokens=st.builds(
        Tokens,
        **{each.name: COUNTS for each in fields(Tokens) if each.name != "provenance"},
        provenance=st.sampled_from(Provenance),
    ),
    model=TEXTS,
    warnings=st.lists(TEXTS, max_size=3).map(tuple),
    response_id=TEXTS,
)
STEPS = st.builds(
    Step,
    what=TEXTS,
    outcome=TEXTS,
    at_ms=st.integers(0, 10**9).map(lambda us: us / 1000),
    took_ms=st.integers(0, 10**9).map(lambda us: us / 1000),
    route=st.none() | ROUTES,
    why=TEXTS,
    cost=st.none() | COSTS,
)
ANSWER = Completion(parts=(Text(text="yes"),), finish=FinishReason.STOP, tokens=Tokens(input=3, output=1), model="m")
ROUTE = Route(provider="openai", model="m", key="ab12")
COST = Cost(nusd=7, price="own")


def test_every_kind_of_part_is_among_those_tried() -> None:
    assert set(PARTS) == set(get_args(Part))


@given(COMPLETIONS, ROUTES, COSTS)
def test_an_answer_reads_back_as_it_was(completion: Completion, route: Route, cost: Cost) -> None:
    assert decode(encode(completion, route, cost)) == (completion, route, cost)


def test_lone_surrogates_and_signatures_survive() -> None:
    odd = replace(ANSWER, parts=(Text(text="\ud83d\ude00 \ud83d"), Thinking(text="hm", signature="EqQB\0/+=")))

    assert decode(encode(odd, ROUTE, COST)) == (odd, ROUTE, COST)


def test_limits_of_that_moment_are_not_kept() -> None:
    limited = replace(ANSWER, limits=RateHeaders(requests_left=0))

    assert decode(encode(limited, ROUTE, COST)) == (ANSWER, ROUTE, COST)


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\x01" + data))
def test_garbage_is_a_miss(data: bytes) -> None:
    assert decode(data) is None


def test_a_damaged_or_shortened_answer_is_a_miss_wherever_it_is_hit() -> None:
    whole = encode(ANSWER, ROUTE, COST)

    for at in range(len(whole)):
        assert decode(whole[:at]) is None
        assert decode(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]) is None
    assert decode(whole + b" ") is None


def test_an_answer_of_another_version_is_a_miss() -> None:
    whole = encode(ANSWER, ROUTE, COST)

    assert decode(b"\x02" + whole[1:]) is None


@given(st.lists(STEPS, max_size=5).map(tuple))
def test_an_explain_record_reads_back_as_it_was(steps: tuple[Step, ...]) -> None:
    assert steps_of(steps_json(steps)) == steps


def test_an_explain_record_can_be_read_by_people_and_by_earlier_versions() -> None:
    steps = (
        Step(what="cache", outcome="miss", at_ms=0.12345),
        Step(what="attempt", outcome="ok", at_ms=0.5, took_ms=12.25, route=ROUTE, why="first", cost=COST),
    )

    record = json.loads(steps_json(steps))

    assert record == [
        {"what": "cache", "outcome": "miss", "at_ms": 0.123},
        {
            "what": "attempt",
            "outcome": "ok",
            "at_ms": 0.5,
            "took_ms": 12.25,
            "route": {"provider": "openai", "model": "m", "key": "ab12"},
            "why": "first",
            "cost": {"nusd": 7, "price": "own"},
        },
    ]
    record[1]["weather"] = "fine"
    assert steps_of(json.dumps(record))[1] == steps[1]


def test_no_explain_record_is_no_steps() -> None:
    for text in (
        "",
        "[]",
        "{}",
        "null",
        "[1]",
        '[{"what": "x"}]',
        "[" * 100_000,
        '[{"what":"a","outcome":"b","at_ms":1,"route":3}]',
    ):
        assert steps_of(text) == ()


@pytest.mark.parametrize("set_", ["fresh_until_ms = fresh_until_ms", "fresh_until_ms = 0"])
async def test_a_stored_answer_that_cannot_be_read_is_asked_for_anew(tmp_path: Path, set_: str) -> None:
    """It may be of a later version, or damaged; fresh or stale, it must not keep anyone waiting."""
    async with generating(tmp_path) as place:
        first = await place.generate()
        (path,) = tmp_path.rglob("gate.db")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE bodies SET value = x'ff00'")
            connection.execute(f"UPDATE entries SET {set_}")
        again = await place.generate()
        third = await place.generate()

    assert (first.cached, again.cached, third.cached) == ("", "", "hit")
    assert len(place.asked()) == 2
