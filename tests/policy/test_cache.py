"""What an answer is cached under, and what is cached: every change of a request changes its key, nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from claude_jobs.domain.generation import (
    Completion,
    FinishReason,
    GenerationRequest,
    Image,
    Message,
    Provenance,
    Role,
    Text,
    Thinking,
    Tokens,
    Tool,
    ToolResult,
    ToolUse,
)
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.cache import cache_key, expiry, is_cacheable, is_storable

SECRET = b"s" * 32
TEXTS = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
PARTS = (
    st.builds(Text, text=TEXTS)
    | st.builds(Image, media_type=TEXTS, data=TEXTS)
    | st.builds(ToolUse, id=TEXTS, name=TEXTS, arguments=OBJECTS, signature=TEXTS)
    | st.builds(ToolResult, id=TEXTS, name=TEXTS, text=TEXTS, is_error=st.booleans())
    | st.builds(Thinking, text=TEXTS, signature=TEXTS)
)
MESSAGES = st.builds(Message, role=st.sampled_from(Role), parts=st.lists(PARTS, max_size=3).map(tuple))
TOOLS = st.builds(Tool, name=TEXTS, description=TEXTS, parameters=OBJECTS)
REQUESTS = st.builds(
    GenerationRequest,
    messages=st.lists(MESSAGES, max_size=3).map(tuple),
    provider=TEXTS,
    model=TEXTS,
    system=TEXTS,
    tools=st.lists(TOOLS, max_size=2).map(tuple),
    tool_choice=TEXTS,
    output_schema=st.none() | OBJECTS,
    max_output_tokens=st.none() | st.integers(0, 10**6),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(TEXTS, max_size=2).map(tuple),
    seed=st.none() | st.integers(),
    effort=st.sampled_from(["", "none", "low", "medium", "high"]),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=2),
)
NOT_IN_KEY = {"provider", "model", "metadata"}
HELLO = GenerationRequest(messages=(Message(role=Role.USER, parts=(Text(text="hello"),)),))
PICTURED = replace(HELLO, messages=(Message(role=Role.USER, parts=(Image(media_type="image/png", data="AA=="),)),))
TOKENS = Tokens(input=3, output=2)


def key(request: GenerationRequest, **place: str) -> str:
    where = {"org": "acme", "provider": "openai", "model": "gpt-6.1-sol", "endpoint": ""} | place
    return cache_key(SECRET, request=request, **where)


def completion(*parts: Any, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(parts=parts, finish=finish, tokens=TOKENS, model="m")


def changes(value: Any) -> Iterator[Any]:
    """Values that differ from this one in one place: each place, and more than one way."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, Enum):
        yield from (other for other in type(value) if other is not value)
    elif value is None:
        yield from (0, "", False, [], {})
    elif isinstance(value, int):
        yield from (value + 1, str(value), [value])
    elif isinstance(value, float):
        yield from (0.25 if value != 0.25 else 0.75, str(value), None)
    elif isinstance(value, str):
        yield from (f"{value}x", f"{value}\0", f'{value}"')
    elif isinstance(value, Mapping):
        yield from _changed_members(cast(Mapping[str, Any], value))
    elif isinstance(value, (tuple, list)):
        yield from _changed_items(cast(Sequence[Any], value))
    else:
        for each in fields(value):
            yield from (replace(value, **{each.name: other}) for other in changes(getattr(value, each.name)))


def _changed_items(value: Sequence[Any]) -> Iterator[Any]:
    kind: Any = type(value)
    yield kind([*value, "x"])
    for at, item in enumerate(value):
        yield kind([*value[:at], *value[at + 1 :]])
        yield from (kind([*value[:at], other, *value[at + 1 :]]) for other in changes(item))


def _changed_members(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {**value, "new name": 1}
    for name, item in value.items():
        rest = {other: value[other] for other in value if other != name}
        yield rest
        yield {**rest, f"{name}'": item}
        yield from ({**rest, name: other} for other in changes(item))


def rewritten(value: Any) -> Any:
    """An equal value: members in another order, whole floats as integers and the other way round."""
    if isinstance(value, (bool, Enum, str)) or value is None:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, int):
        return float(value) if abs(value) < 2**50 else value
    if isinstance(value, Mapping):
        members = cast(Mapping[str, Any], value)
        return {name: rewritten(members[name]) for name in reversed(list(members))}
    if isinstance(value, (tuple, list)):
        kind: Any = type(cast(Sequence[Any], value))
        return kind([rewritten(item) for item in cast(Sequence[Any], value)])
    return replace(value, **{each.name: rewritten(getattr(value, each.name)) for each in fields(value)})


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(REQUESTS)
def test_whatever_changes_in_a_request_changes_its_key_and_metadata_does_not(request: GenerationRequest) -> None:
    was = key(request)

    for each in fields(request):
        for other in changes(getattr(request, each.name)):
            changed = key(replace(request, **{each.name: other})) != was
            assert changed is (each.name not in NOT_IN_KEY), (each.name, other)


@settings(max_examples=50, deadline=None)
@given(REQUESTS)
def test_equal_requests_have_equal_keys(request: GenerationRequest) -> None:
    assert key(rewritten(request)) == key(request)


@settings(max_examples=50, deadline=None)
@given(REQUESTS, REQUESTS)
def test_two_requests_share_a_key_only_if_they_are_equal(one: GenerationRequest, other: GenerationRequest) -> None:
    def bare(request: GenerationRequest) -> GenerationRequest:
        return replace(request, provider="", model="", metadata={})

    if key(one) == key(other):
        assert bare(one) == bare(other)


PLACES = st.tuples(*[st.text(alphabet="0123456789:|a", max_size=4)] * 4)


@given(PLACES, PLACES)
def test_no_two_places_read_as_one(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    def at(place: tuple[str, ...]) -> str:
        return key(HELLO, **dict(zip(("org", "provider", "model", "endpoint"), place, strict=True)))

    def meant(place: tuple[str, ...]) -> tuple[str, ...]:
        return place[0] or "default", *place[1:]

    assert (at(one) == at(other)) is (meant(one) == meant(other))


def test_orgs_providers_models_endpoints_and_installations_are_apart() -> None:
    keys = [
        key(HELLO),
        key(HELLO, org="other"),
        key(HELLO, provider="grok"),
        key(HELLO, model="other"),
        key(HELLO, endpoint="https://eu.example.com"),
        cache_key(b"t" * 32, org="acme", provider="openai", model="gpt-6.1-sol", endpoint="", request=HELLO),
    ]

    assert len(set(keys)) == len(keys)
    assert all(len(each) == 64 and int(each, 16) for each in keys)


def test_no_org_is_the_default_org() -> None:
    assert key(HELLO, org="") == key(HELLO, org="default")


def test_a_field_added_tomorrow_is_in_the_key_by_itself() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Later(GenerationRequest):
        service_tier: str = ""
        safety: Mapping[str, object] = field(default_factory=dict[str, object])

    request = Later(messages=HELLO.messages)

    assert key(replace(request, service_tier="flex")) != key(request)
    assert key(replace(request, safety={"harm": "low"})) != key(request)
    assert key(replace(request, metadata={"trace": "1"}, provider="x", model="y")) == key(request)


def test_numbers_that_json_takes_for_equal_are_and_true_is_not_one() -> None:
    def schema(value: object) -> str:
        return key(replace(HELLO, output_schema={"const": value}))

    assert schema(1) == schema(1.0)
    assert schema(0) == schema(-0.0) == schema(0.0)
    assert schema(1e300) == schema(int(1e300))
    assert len({schema(value) for value in (1, True, "1", [1], None, 1.5, float("inf"))}) == 7


def test_unicode_counts_as_it_is() -> None:
    def say(text: str) -> str:
        return key(replace(HELLO, system=text))

    texts = ["\u00e9", "e\u0301", "😀", "\ud83d\ude00", "\ud83d", "\\ud83d"]

    assert len({say(text) for text in texts}) == len(texts)


def test_the_order_of_members_does_not_count_and_that_of_a_list_does() -> None:
    def schema(document: dict[str, object]) -> str:
        return key(replace(HELLO, output_schema=document))

    assert schema({"a": 1, "b": 2}) == schema({"b": 2, "a": 1})
    assert schema({"enum": ["a", "b"]}) != schema({"enum": ["b", "a"]})


def test_json_that_is_nested_too_deep_is_refused_in_words() -> None:
    deep: dict[str, object] = {}
    for _ in range(5_000):
        deep = {"items": deep}

    with pytest.raises(InvalidRequest, match="nested too deep"):
        key(replace(HELLO, output_schema=deep))


def test_what_has_no_place_in_a_key_is_said_and_not_left_out() -> None:
    with pytest.raises(TypeError, match="set has no place"):
        key(replace(HELLO, output_schema={"a": {1, 2}}))
    with pytest.raises(TypeError, match="JSON has texts there"):
        key(replace(HELLO, output_schema={"a": {1: 2}}))
    with pytest.raises(ValueError, match="needs a secret"):
        cache_key(b"", org="", provider="", model="", endpoint="", request=HELLO)


@pytest.mark.parametrize(
    ("request_", "stream", "cache_stream", "why"),
    [
        (HELLO, False, False, ""),
        (HELLO, True, True, ""),
        (HELLO, True, False, "streams"),
        (replace(HELLO, provider="grok"), False, False, "grok"),
        (replace(HELLO, temperature=0.7), False, False, ""),
        (replace(HELLO, temperature=0), False, False, ""),
        (replace(HELLO, temperature=0.71), False, False, "temperature 0.71 is over 0.7"),
        (replace(HELLO, temperature=float("nan")), False, False, "temperature"),
        (replace(HELLO, tools=(Tool(name="look"),)), False, False, ""),
        (PICTURED, False, False, ""),
    ],
)
def test_which_requests_are_cached(request_: GenerationRequest, stream: bool, cache_stream: bool, why: str) -> None:
    said = is_cacheable(request_, is_stream=stream, cache_stream=cache_stream, skipped_providers={"grok"})

    assert said.startswith(why) if why.startswith("temp") else (why in said and bool(said) is bool(why))


LOOK = Tool(
    name="look",
    parameters={
        "type": "object",
        "properties": {"at": {"type": "string"}, "n": {"type": ["integer", "null"]}, "any": {}, "odd": {"type": "x"}},
        "required": ["at"],
    },
)
TOOLED = replace(HELLO, tools=(LOOK,))


def call(name: str = "look", **arguments: object) -> ToolUse:
    return ToolUse(id="1", name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("answer", "request_", "why"),
    [
        (completion(Text(text="yes")), HELLO, ""),
        (completion(Text(text="cut"), finish=FinishReason.LENGTH), HELLO, "length"),
        (completion(Text(text="no"), finish=FinishReason.CONTENT_FILTER), HELLO, "content_filter"),
        (completion(Text(text="?"), finish=FinishReason.OTHER), HELLO, "other"),
        (completion(), HELLO, "empty"),
        (completion(Text(text=" \n")), HELLO, "empty"),
        (completion(Thinking(text="hm")), HELLO, "empty"),
        (completion(Text(text="so:"), finish=FinishReason.TOOL_CALLS), TOOLED, "has none"),
        (completion(call(at="x"), finish=FinishReason.TOOL_CALLS), TOOLED, ""),
        (completion(call(at="x", n=2.0, any=[1], odd=1, more=True)), TOOLED, ""),
        (completion(call(at="x", n=None)), TOOLED, ""),
        (completion(call(at="x", n=True)), TOOLED, "'n' of another type"),
        (completion(call(at="x", n=2.5)), TOOLED, "'n' of another type"),
        (completion(call(at=1)), TOOLED, "'at' of another type"),
        (completion(call(n=1)), TOOLED, "lacks 'at'"),
        (completion(call("touch")), TOOLED, "was not given"),
        (completion(call("")), None, "malformed"),
        (completion(ToolUse(id="1", name="look", arguments=["x"])), None, "malformed"),  # type: ignore[arg-type]
        (completion(call("touch")), None, ""),
        (completion(Text(text='{"a": 1}')), replace(HELLO, output_schema={}), ""),
        (completion(Text(text="Sure: {")), replace(HELLO, output_schema={}), "JSON"),
        (completion(Text(text="[" * 100_000)), replace(HELLO, output_schema={}), "JSON"),
    ],
)
def test_which_answers_are_kept(answer: Completion, request_: GenerationRequest | None, why: str) -> None:
    said = is_storable(answer, request_)

    assert why in said
    assert bool(said) is bool(why)


def test_an_answer_of_unknown_tokens_is_kept() -> None:
    answer = replace(completion(Text(text="yes")), tokens=Tokens(provenance=Provenance.UNKNOWN))

    assert is_storable(answer) == ""


@given(st.integers(0, 2**42), st.floats(0.1, 1e7), st.floats(0, 1, exclude_max=True), st.none() | st.floats(-1, 1e7))
def test_entries_live_for_the_ttl_give_or_take_a_tenth(
    now_ms: int, ttl_s: float, rnd: float, most_s: float | None
) -> None:
    fresh, stale = expiry(now_ms, ttl_s, rnd, max_stale_s=most_s)

    assert now_ms + ttl_s * 900 - 1 <= fresh <= now_ms + ttl_s * 1_100 + 1
    window_s = ttl_s if most_s is None else min(ttl_s, max(most_s, 0))
    assert abs(stale - fresh - window_s * 1000) <= 1


def test_a_ttl_of_nothing_keeps_nothing() -> None:
    assert expiry(5, 0, 0.5) == (5, 5)
    assert expiry(5, -1, 0.5) == (5, 5)
