"""Bodies of generation requests: what is taken, and what is refused with the field and the next step."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.domain.generation import Image, Message, Role, Text, Thinking, ToolResult, ToolUse
from claude_jobs.errors import InvalidRequest
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import Ask
from claude_jobs.services.generation_messages import MAX_IMAGE_BYTES, MAX_IMAGES
from claude_jobs.services.generation_request import GenerateRequest, parse_batch

CALLER = Caller(cwd="/", submitter="uid:1")
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ask(**body: Any) -> Ask:
    return GenerateRequest.parse(body).ask(CALLER)


def said(*messages: Any) -> tuple[Message, ...]:
    return ask(messages=list(messages)).request.messages


def test_everything_that_can_be_said_arrives() -> None:
    asked = ask(
        prompt="p",
        provider="Anthropic",
        model="m",
        system="s",
        tools=[{"name": "f", "description": "d", "parameters": {"type": "object"}}, {"name": "g"}],
        tool_choice="f",
        output_schema={"type": "object", "properties": {}},
        max_tokens=7,
        temperature=1,
        top_p=0.5,
        stop="END",
        seed=3,
        effort="low",
        metadata={"a": "b"},
        org="acme",
        fallbacks=["openai", "qwen/qwen-plus", {"provider": "google", "model": "g"}, {"provider": "ollama"}],
        timeout_s=5,
        cache="refresh",
        cache_stream=True,
        priority=-3,
        hedge=True,
    )
    request = asked.request

    assert (request.provider, request.model, request.system) == ("claude", "m", "s")
    assert request.messages == (Message(role=Role.USER, parts=(Text(text="p"),)),)
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.tools[1].parameters == {"type": "object", "properties": {}}
    assert (request.tool_choice, request.max_output_tokens, request.stop) == ("f", 7, ("END",))
    assert (request.temperature, request.top_p, request.seed, request.effort) == (1, 0.5, 3, "low")
    assert asked.fallbacks == (("openai", ""), ("qwen", "qwen-plus"), ("gemini", "g"), ("llama", ""))
    assert (asked.org, asked.timeout_s, asked.cache, asked.cache_stream) == ("acme", 5, "refresh", True)
    assert (asked.priority, asked.hedge, asked.caller) == (-3, True, CALLER)


def test_a_conversation_arrives_with_all_its_parts() -> None:
    asked = ask(
        system="a",
        messages=[
            {"role": "system", "content": "b"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "media_type": "image/png", "data": b64(PNG)},
                    {"type": "image", "url": f"data:image/png;base64,{b64(PNG)}"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "text": "hm", "signature": "x"},
                    {"type": "tool_use", "id": "1", "name": "f", "arguments": {"a": [1, None]}},
                    {"type": "tool_use", "id": "2", "name": "g", "arguments": {}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": "two", "is_error": True},
        ],
    )
    picture = Image(media_type="image/png", data=b64(PNG))

    assert asked.request.system == "a\n\nb"
    assert asked.request.messages == (
        Message(role=Role.USER, parts=(Text(text="look"), picture, picture)),
        Message(
            role=Role.ASSISTANT,
            parts=(
                Thinking(text="hm", signature="x"),
                ToolUse(id="1", name="f", arguments={"a": [1, None]}),
                ToolUse(id="2", name="g", arguments={}),
            ),
        ),
        Message(
            role=Role.USER,
            parts=(
                ToolResult(id="1", name="f", text="one"),
                ToolResult(id="2", name="g", text="two", is_error=True),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("model", "provider", "found"),
    [
        ("openai/gpt-5", "", ("openai", "gpt-5")),
        ("ollama/qwen3:8b", "", ("llama", "qwen3:8b")),
        ("hf.co/some/model", "", ("", "hf.co/some/model")),
        ("openai/gpt-oss", "llama", ("llama", "openai/gpt-oss")),
        ("gpt-5", "", ("", "gpt-5")),
    ],
)
def test_a_model_may_name_its_provider(model: str, provider: str, found: tuple[str, str]) -> None:
    request = ask(prompt="p", model=model, provider=provider).request

    assert (request.provider, request.model) == found


UNUSABLE: list[tuple[dict[str, Any], str, str]] = [
    ({}, "prompt", "either"),
    ({"prompt": "p", "messages": [{"role": "user", "content": "x"}]}, "prompt", "either"),
    ({"prompt": "  "}, "prompt", "empty"),
    ({"prompt": 1}, "prompt", "string"),
    ({"prompt": "p", "promt": 1}, "promt", "'prompt'"),
    ({"prompt": "p", "provider": "opneai"}, "provider", "'openai'"),
    ({"prompt": "p", "provider": "gogle"}, "provider", "'google'"),
    ({"prompt": "p", "fallbacks": ["nobody"]}, "fallbacks.0", "Known are: openai"),
    ({"prompt": "p", "fallbacks": ["/x"]}, "fallbacks.0", "names no provider"),
    ({"prompt": "p", "temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"prompt": "p", "temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"prompt": "p", "temperature": "1"}, "temperature", "valid number"),
    ({"prompt": "p", "temperature": float("nan")}, "body", "NaN"),
    ({"prompt": "p", "top_p": 1.5}, "top_p", "less than"),
    ({"prompt": "p", "max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"prompt": "p", "max_tokens": -5}, "max_tokens", "greater than or equal to 1"),
    ({"prompt": "p", "max_tokens": 10**9}, "max_tokens", "less than"),
    ({"prompt": "p", "max_tokens": 5, "max_output_tokens": 6}, "max_tokens", "another name"),
    ({"prompt": "p", "max_tokens": True}, "max_tokens", "integer"),
    ({"prompt": "p", "timeout_s": 0}, "timeout_s", "greater than 0"),
    ({"prompt": "p", "priority": 10**6}, "priority", "less than"),
    ({"prompt": "p", "seed": -1}, "seed", "greater than"),
    ({"prompt": "p", "effort": "huge"}, "effort", "'low'"),
    ({"prompt": "p", "cache": "maybe"}, "cache", "'refresh'"),
    ({"prompt": "p", "metadata": {"a": 1}}, "metadata.a", "string"),
    ({"prompt": "p", "stop": ["x"] * 17}, "stop", "17"),
    (
        {"prompt": "p", "output_schema": {"properties": {"a": {"type": "nothing"}}}},
        "output_schema",
        "no JSON Schema",
    ),
    ({"prompt": "p", "output_schema": {"type": "array"}}, "output_schema", "object"),
    ({"prompt": "p", "output_schema": "x"}, "output_schema", "dictionary"),
    ({"prompt": "p", "tool_choice": "f"}, "tool_choice", "no `tools`"),
    ({"prompt": "p", "tools": [{"name": "ff"}], "tool_choice": "f"}, "tool_choice", "'ff'"),
    ({"prompt": "p", "tools": [{"name": "f"}, {"name": "f"}]}, "tools.1.name", "Two tools"),
    ({"prompt": "p", "tools": [{"name": "a b"}]}, "tools.0.name", "pattern"),
    ({"prompt": "p", "tools": [{"name": "f", "params": {}}]}, "tools.0.params", "'parameters'"),
    ({"prompt": "p", "tools": [{"name": "f", "parameters": {"type": "string"}}]}, "tools.0.parameters", "object"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "no message of the user"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'user'"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content", "empty"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "list"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages.0.content.0", "one of text"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text", "missing"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "txt": 1}]}]},
        "messages.0.content.0.txt",
        "'text'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "thinking", "text": "a"}]}]},
        "messages.0.content.0.type",
        "'thinking'",
    ),
    ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages.0.content.0.id", "tool_use"),
    ({"messages": [{"role": "user", "content": "x", "is_error": True}]}, "messages.0.content", "tool"),
]


@pytest.mark.parametrize(("body", "field", "word"), UNUSABLE)
def test_a_body_that_is_not_usable_is_refused_by_field(body: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(**body)

    assert caught.value.field == field
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ({"media_type": "image/jpeg", "data": b64(PNG)}, "image/png"),
        ({"media_type": "image/png", "data": b64(b"GIF89a....")}, "image/gif"),
        ({"media_type": "image/png", "data": b64(b"hello world")}, "b'hello wo'"),
        ({"media_type": "image/bmp", "data": b64(PNG)}, "image/webp"),
        ({"media_type": "image/png", "data": "%%%"}, "base64"),
        ({"media_type": "image/png", "data": "é"}, "base64"),
        ({"media_type": "image/png"}, "data URL"),
        ({"url": "https://example.com/a.png"}, "not fetched"),
        ({"url": "data:image/png;base64," + b64(PNG), "data": "x"}, "not both"),
        ({"media_type": "image/png", "data": b64(PNG + b"\0" * MAX_IMAGE_BYTES)}, "5,242,880"),
        ({"media_type": "image/png", "data": b64(b"\0" * (2 * MAX_IMAGE_BYTES))}, "Scale it down"),
    ],
)
def test_an_image_that_is_none_or_too_large_is_refused(part: dict[str, str], word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        said({"role": "user", "content": [{"type": "image", **part}]})

    assert word in caught.value.message
    assert caught.value.field.startswith("messages.0.content.0")


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("image/jpg", b"\xff\xd8\xff\xe0"),
        ("image/gif", b"GIF87a"),
        ("IMAGE/WEBP", b"RIFF\0\0\0\0WEBPVP8 "),
        ("image/png", PNG[:8] + b"\0" * (MAX_IMAGE_BYTES - 8)),
    ],
)
def test_images_of_each_kind_are_taken_up_to_the_limit(media_type: str, content: bytes) -> None:
    parts = said({"role": "user", "content": [{"type": "image", "media_type": media_type, "data": b64(content)}]})

    assert isinstance(parts[0].parts[0], Image)


def test_there_may_not_be_too_many_images() -> None:
    picture = {"type": "image", "media_type": "image/png", "data": b64(PNG)}

    assert len(said({"role": "user", "content": [picture] * MAX_IMAGES})[0].parts) == MAX_IMAGES
    with pytest.raises(InvalidRequest, match="more than 20 images"):
        said({"role": "user", "content": [picture] * MAX_IMAGES}, {"role": "user", "content": [picture]})


def test_half_characters_become_whole_ones_everywhere() -> None:
    asked = ask(prompt="a\ud800", metadata={"k\udfff": "\udfff"}, output_schema={"title": "\ud800"})

    json.dumps([asked.request.output_schema, dict(asked.request.metadata)], ensure_ascii=False).encode()
    assert asked.request.messages[0].parts == (Text(text="a\ufffd"),)


def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]

    with pytest.raises(InvalidRequest, match="nested"):
        ask(prompt="p", output_schema={"const": deep})


def test_a_batch_shares_its_settings_and_items_go_before() -> None:
    batch = parse_batch(
        {
            "provider": "openai",
            "max_tokens": 9,
            "temperature": 0,
            "items": [{"prompt": "a"}, {"prompt": "b", "key": "x", "provider": "qwen", "max_output_tokens": 3}],
            "max_parallel": 2,
            "batch_key": "mine",
            "stream": True,
        },
        CALLER,
    )
    requests = [entry.ask.request for entry in batch.entries]

    assert [entry.key for entry in batch.entries] == ["0", "x"]
    assert [(one.provider, one.max_output_tokens, one.temperature) for one in requests] == [
        ("openai", 9, 0),
        ("qwen", 3, 0),
    ]
    assert (batch.max_parallel, batch.batch_key, batch.stream) == (2, "mine", True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": [{"prompt": "a"}, {"prompt": " "}]}, "items.1.prompt"),
        ({"items": [{"prompt": "a", "temprature": 1}]}, "items.0.temprature"),
        ({"items": [{"prompt": "a", "stream": True}]}, "items.0.stream"),
        ({"items": [{"prompt": "a", "key": "1"}, {"prompt": "b"}]}, "items.1.key"),
        ({"items": [{"prompt": "a"}], "prompt": "b"}, "prompt"),
        ({"items": [{"prompt": "a"}], "provider": "x"}, "items.0.provider"),
        ({"items": [{"prompt": "a"}], "max_parallel": -1}, "max_parallel"),
    ],
)
def test_a_batch_is_taken_whole_or_not_at_all(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(body, CALLER)

    assert caught.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.sampled_from([*GenerateRequest.model_fields, "unknown"])


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_json_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    """Nothing else comes out than an Ask or an InvalidRequest."""
    try:
        ask(**{"prompt": "p", **body})
    except InvalidRequest as error:
        assert error.field and error.message
