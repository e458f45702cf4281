"""The pure parts of reading answers: events, figures, schemas, errors' texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import ValidationError, validate

from claude_jobs.domain.generation import FinishReason, Provenance, Tokens
from claude_jobs.errors import AuthenticationFailed, ContentRefused, ContextTooLong, ProviderError, RateLimited
from claude_jobs.providers.failures import About, clean, heard, of_said
from claude_jobs.providers.figures import less, reported
from claude_jobs.providers.json_schema import closed, is_strict
from claude_jobs.providers.sse import MAX_EVENT_BYTES, Events
from claude_jobs.providers.tool_calls import arguments_of

ABOUT = About(provider="openai", model="m", secret="sk-verysecretkey123")


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 9),
)
def test_events_are_the_same_however_they_are_cut(texts: list[str], end: str, size: int) -> None:
    raw = "".join(f": ping{end}event: x{end}data: {text}{end}id: 7{end}{end}" for text in texts).encode()
    events = Events()

    found = [event for at in range(0, len(raw), size) for event in events.push(raw[at : at + size])]

    assert [event.decode().removesuffix("\r").removeprefix(" ") for event in found] == texts


def test_an_event_of_several_lines_is_one() -> None:
    assert Events().push(b'data: {"a":\ndata: 1}\n\n') == [b' {"a":\n 1}']


def test_an_event_without_end_is_not_held_for_ever() -> None:
    events = Events()
    with pytest.raises(ValueError, match="too large"):
        for _ in range(MAX_EVENT_BYTES // 1_000_000 + 2):
            events.push(b"data: " + b"x" * 1_000_000)


@pytest.mark.parametrize(
    "figures",
    [
        {"input": None, "output": 3},
        {"input": 5, "output": -1},
        {"input": 5, "output": 0},
        {"input": 5, "output": 3.5},
        {"input": True, "output": 3},
        {"input": "5", "output": 3},
        {"input": 5, "output": 99_999_999},
        {"input": 5, "output": 3, "cache_read": -2},
    ],
)
def test_figures_that_cannot_be_true_are_unknown(figures: dict[str, Any]) -> None:
    assert reported(**figures, context=1_000, has_output=True) == Tokens(provenance=Provenance.UNKNOWN)


def test_an_input_of_zero_is_a_figure() -> None:
    assert reported(input=0, output=3, cache_read=None, context=0, has_output=True) == Tokens(output=3)


def test_parts_are_taken_out_of_a_whole() -> None:
    assert less(100, 30, None) == 70
    assert less(None, 30) is None
    assert less(100, "30") is None
    assert reported(input=less(10, 30), output=1, context=0, has_output=True).provenance is Provenance.UNKNOWN


def test_arguments_cut_off_are_left_out_and_broken_ones_are_an_error() -> None:
    assert arguments_of("", FinishReason.TOOL_CALLS) == {}
    assert arguments_of('{"a": ', FinishReason.LENGTH) is None
    with pytest.raises(ValueError):
        arguments_of('{"a": ', FinishReason.TOOL_CALLS)
    with pytest.raises(ValueError, match="no object"):
        arguments_of("[1]", FinishReason.TOOL_CALLS)


def test_a_closed_schema_is_no_wider_and_the_given_one_stays() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"type": {"type": "string"}}}},
        "additionalProperties": True,
    }
    before = json.dumps(schema)

    found = closed(schema)

    assert json.dumps(schema) == before
    assert found["additionalProperties"] is True
    assert found["properties"]["a"]["additionalProperties"] is False
    validate({"a": {"type": "x"}}, found)
    with pytest.raises(ValidationError):
        validate({"a": {"other": 1}}, found)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {}}}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": {}}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        ({"type": "object"}, False),
    ],
)
def test_strict_is_asked_for_where_it_is_taken(schema: dict[str, Any], *, strict: bool) -> None:
    assert is_strict(schema) is strict


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-verysecretkey123.",
        "Incorrect API key provided: sk-very****y123. See https://u:p@x.example/keys?key=sk-verysecretkey123#top",
        "Bearer abcdef0123456789 and xai-abcdefgh12345",
        "key sk-verysecretkey12 cut",
        "GET https://x.example/v1beta/models?key=AIzaSyA1234567890abcdefg failed",
    ],
)
def test_an_excerpt_holds_no_key(text: str) -> None:
    found = clean(text, ABOUT.secret)

    for piece in ("verysecret", "abcdef0", "abcdefgh", "AIzaSy", "u:p@", "?", "y123"):
        assert piece not in found


def test_an_excerpt_is_one_short_line() -> None:
    found = clean("a\n\r\x1b[31mb\u202e" * 500, "")

    assert len(found) <= 200
    assert found.isprintable()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            {"error": {"message": "prompt is too long: 9 tokens > 5 maximum", "type": "invalid_request_error"}},
            ContextTooLong,
        ),
        (
            400,
            {"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}},
            AuthenticationFailed,
        ),
        (402, {"type": "error", "error": {"type": "billing_error", "message": "Pay."}}, AuthenticationFailed),
        (403, {"code": "x", "error": "Content violates usage guidelines."}, ContentRefused),
        (400, {"code": "x", "error": "Incorrect API key provided: xa***y."}, AuthenticationFailed),
        (
            400,
            {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
            AuthenticationFailed,
        ),
        (400, {"error": {"code": "data_inspection_failed", "message": "x"}}, ContentRefused),
        (429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}, RateLimited),
    ],
)
def test_what_apis_say_is_understood(status: int, body: dict[str, Any], kind: type[ProviderError]) -> None:
    error = of_said(heard(status, json.dumps(body).encode(), {}, 0.0), ABOUT)

    assert type(error) is kind
    assert error.status == status


def test_used_up_money_is_no_rate() -> None:
    spent = of_said(heard(429, {"error": {"code": "insufficient_quota"}}, {}, 0.0), ABOUT)
    credit = of_said(heard(429, {"code": "x", "error": "used all available credits"}, {}, 0.0), ABOUT)
    rate = of_said(heard(429, {"error": {"message": "Slow down."}}, {"retry-after": "3"}, 0.0), ABOUT)

    assert isinstance(spent, RateLimited)
    assert spent.is_exhausted
    assert isinstance(credit, RateLimited)
    assert credit.is_exhausted
    assert isinstance(rate, RateLimited)
    assert not rate.is_exhausted
    assert rate.retry_after_s == 3


@given(
    st.integers(300, 599),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.text() | st.integers(),
            lambda each: (
                st.lists(each) | st.dictionaries(st.sampled_from(["error", "code", "message", "type", "details"]), each)
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_any_body_is_an_error_of_ours(status: int, body: bytes) -> None:
    error = of_said(heard(status, body, {}, 0.0), ABOUT)

    assert error.provider == "openai"
    assert error.message
