"""Gemini's wire without a server: what becomes of messages, signatures and schemas, and of the SDK's responses."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from google.genai import types
from providers.support_calls import asking, user

from claude_jobs.domain.generation import (
    FinishReason,
    Image,
    Message,
    Provenance,
    Role,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolResult,
    ToolUse,
)
from claude_jobs.providers.contract import Shaped, shape
from claude_jobs.providers.failures import Refusal
from claude_jobs.providers.gemini_wire import Reader, config_of, contents_of, countable_of

MODEL = "gemini-3.8-flash"
SIGNED = "gemini:" + base64.b64encode(b"signed").decode()


def _shaped(*messages: Message | str, **more: Any) -> Shaped:
    return shape(asking(MODEL, *messages, **more).request, "gemini")


def _response(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> types.GenerateContentResponse:
    content = {"role": "model", "parts": list(parts)}
    return types.GenerateContentResponse.model_validate(
        {"candidates": [{"content": content, **({"finish_reason": finish} if finish else {})}], **more}
    )


def _read(*responses: types.GenerateContentResponse) -> Reader:
    reader = Reader(_shaped("x"))
    for response in responses:
        reader.feed(response)
    return reader


def test_a_conversation_with_tools_and_signatures() -> None:
    said = (
        Thinking(text="Hm.", signature=SIGNED),
        Thinking(text="Not ours.", signature="anthropic's"),
        Text(text="Wait."),
        ToolUse(id="a", name="look", arguments={"at": 1}, signature=SIGNED),
        ToolUse(id="b", name="look", arguments={}),
    )
    results = (ToolResult(id="a", name="look", text="dark"), ToolResult(id="b", name="look", text="no", is_error=True))

    contents = contents_of(_shaped("Look.", Message(role=Role.ASSISTANT, parts=said), user(*results)).request)

    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[1]["parts"] == [
        {"text": "Hm.", "thought": True, "thought_signature": b"signed"},
        {"text": "Wait."},
        {"function_call": {"id": "a", "name": "look", "args": {"at": 1}}, "thought_signature": b"signed"},
        {"function_call": {"id": "b", "name": "look", "args": {}}},
    ]
    assert contents[2]["parts"] == [
        {"function_response": {"id": "a", "name": "look", "response": {"result": "dark"}}},
        {"function_response": {"id": "b", "name": "look", "response": {"error": "no"}}},
    ]


def test_the_first_call_of_anothers_history_is_excused() -> None:
    use = ToolUse(id="a", name="look", arguments={}, signature="sig")

    part = contents_of(_shaped(Message(role=Role.ASSISTANT, parts=(use, use)), "And?").request)[0]["parts"][0]

    assert base64.urlsafe_b64encode(part["thought_signature"]) == b"skip_thought_signature_validator"


def test_a_turn_of_anothers_thoughts_is_left_out() -> None:
    thought = Message(role=Role.ASSISTANT, parts=(Thinking(text="Hm.", signature="x"),))

    assert [each["role"] for each in contents_of(_shaped("One.", thought, "Two.").request)] == ["user", "user"]


def test_pictures_go_as_bytes() -> None:
    picture = Image(media_type="image/png", data=base64.b64encode(b"PNG").decode())

    assert contents_of(_shaped(user(picture)).request)[0]["parts"] == [
        {"inline_data": {"mime_type": "image/png", "data": b"PNG"}}
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("look", {"mode": "ANY", "allowed_function_names": ["look"]}),
    ],
)
def test_a_choice_of_tools(choice: str, expected: dict[str, Any]) -> None:
    config = config_of(_shaped("x", tools=(Tool(name="look", parameters={"type": "object"}),), tool_choice=choice))

    assert config["tool_config"] == {"function_calling_config": expected}
    assert config["tools"][0]["function_declarations"] == [
        {"name": "look", "description": "", "parameters_json_schema": {"type": "object"}}
    ]


def test_the_sdk_takes_every_field_and_asks_only_once() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    config: Any = types.GenerateContentConfig(
        **config_of(
            _shaped(
                "x",
                system="Be brief.",
                output_schema=schema,
                effort="high",
                temperature=0.5,
                top_p=0.9,
                stop=("END",),
                seed=7,
            )
        )
    )

    assert config.system_instruction == "Be brief."
    assert (config.response_mime_type, config.response_json_schema) == ("application/json", schema)
    assert config.thinking_config is not None
    assert config.thinking_config.include_thoughts
    assert (config.temperature, config.top_p, config.stop_sequences, config.seed) == (0.5, 0.9, ["END"], 7)
    assert config.max_output_tokens == 1_000
    assert config.automatic_continuation is False
    assert config.automatic_function_calling is not None
    assert config.automatic_function_calling.disable


def test_counting_takes_system_and_tools_as_text() -> None:
    request = _shaped("Hi.", system="Be brief.", tools=(Tool(name="look"),)).request

    head, message = countable_of(request)

    assert head["parts"][0]["text"].startswith("Be brief.\n")
    assert "look" in head["parts"][0]["text"]
    assert [message] == contents_of(request)


def test_thoughts_and_text_are_joined_up_to_a_signature() -> None:
    reader = Reader(_shaped("x"))

    deltas = [
        *reader.feed(_response({"text": "Let me ", "thought": True})),
        *reader.feed(_response({"text": "see.", "thought": True, "thought_signature": b"signed"})),
        *reader.feed(_response({"text": "Fo"})),
        *reader.feed(_response({"text": "ur."}, {"text": "", "thought_signature": b"signed"}, finish="STOP")),
    ]
    answer = reader.completion(None)

    assert deltas == [
        ThinkingDelta(text="Let me "),
        ThinkingDelta(text="see."),
        TextDelta(text="Fo"),
        TextDelta(text="ur."),
    ]
    assert answer.parts == (
        Thinking(text="Let me see.", signature=SIGNED),
        Text(text="Four."),
        Thinking(text="", signature=SIGNED),
    )
    back = contents_of(_shaped("Two and two?", Message(role=Role.ASSISTANT, parts=answer.parts), "And?").request)
    assert back[1]["parts"][-1] == {"text": "", "thought_signature": b"signed"}


def test_calls_keep_their_signature_and_get_an_id() -> None:
    call = {"function_call": {"name": "look", "args": {"at": 1}}, "thought_signature": b"signed"}

    answer = _read(_response(call, finish="STOP")).completion(None)

    assert answer.tool_calls == (ToolUse(id="call_0", name="look", arguments={"at": 1}, signature=SIGNED),)
    assert answer.finish is FinishReason.TOOL_CALLS


def test_cached_tokens_are_part_of_the_prompt_and_thoughts_not_of_the_candidates() -> None:
    usage = {
        "prompt_token_count": 100,
        "cached_content_token_count": 60,
        "candidates_token_count": 7,
        "thoughts_token_count": 5,
    }

    tokens = _read(_response({"text": "a"}, finish="STOP", usage_metadata=usage)).completion(None).tokens

    assert (tokens.input, tokens.cache_read, tokens.output, tokens.thinking) == (40, 60, 12, 5)


def test_what_was_used_so_far_is_known_before_the_end() -> None:
    usage = {"prompt_token_count": 100, "candidates_token_count": 7}

    assert _read(_response({"text": "a"}, usage_metadata=usage)).used() == (100, 7)
    assert _read(_response({"text": "a"})).used() == (0, 0)


@pytest.mark.parametrize(
    "usage",
    [
        {"candidates_token_count": 7},
        {"prompt_token_count": 5, "cached_content_token_count": 9, "candidates_token_count": 7},
        {"prompt_token_count": 5, "candidates_token_count": -7, "thoughts_token_count": 9},
        {"prompt_token_count": 5},
    ],
)
def test_figures_that_cannot_be_true_are_unknown(usage: dict[str, int]) -> None:
    tokens = _read(_response({"text": "a"}, finish="STOP", usage_metadata=usage)).completion(None).tokens

    assert tokens.provenance is Provenance.UNKNOWN


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("CONTINUATION", FinishReason.LENGTH),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("RECITATION", FinishReason.CONTENT_FILTER),
        ("LANGUAGE", FinishReason.OTHER),
        ("MALFORMED_FUNCTION_CALL", FinishReason.OTHER),
    ],
)
def test_why_it_stopped(finish: str, expected: FinishReason) -> None:
    assert _read(_response({"text": "a"}, finish=finish)).completion(None).finish is expected


def test_a_filter_that_lets_nothing_through_is_a_refusal() -> None:
    with pytest.raises(Refusal):
        _read(_response(finish="SAFETY")).completion(None)


@pytest.mark.parametrize("finish", ["MALFORMED_FUNCTION_CALL", None])
def test_no_answer_is_nonsense(finish: str | None) -> None:
    with pytest.raises(ValueError):
        _read(_response(finish=finish)).completion(None)


def test_a_blocked_prompt_is_a_refusal() -> None:
    response = types.GenerateContentResponse.model_validate({"prompt_feedback": {"block_reason": "SAFETY"}})

    with pytest.raises(Refusal):
        _read(response)
