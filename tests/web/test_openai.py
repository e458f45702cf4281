"""The real openai SDK against our endpoints: only its base URL and key are ours."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from support_web import TOKEN, Served, rehearse, serving


@asynccontextmanager
async def sdk(root: Path, retries: str = "3") -> AsyncGenerator[tuple[openai.AsyncOpenAI, Served]]:
    async with (
        serving(root, MAX_RETRIES=retries) as served,
        openai.AsyncOpenAI(base_url=f"{served.http.url}v1", api_key=TOKEN, max_retries=0) as client,
    ):
        yield client, served


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
        },
    }
]


async def test_a_completion_whole_and_in_chunks(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="abcdefghijkl", chunks=3, usage={"input": 100, "output": 10, "cache_read": 20})
    async with sdk(tmp_path) as (client, _):
        whole = await client.chat.completions.create(
            model="openai/gpt-5-mini",
            messages=[{"role": "developer", "content": "Be kind."}, *user(prompt)],
            max_completion_tokens=100,
            temperature=0,
            presence_penalty=0.5,
            user="me",
        )
        stream = await client.chat.completions.create(
            model="claude/claude-sonnet-5",
            messages=user(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        extra: Any = whole.model_extra

    assert whole.choices[0].message.content == "abcdefghijkl"
    assert (whole.choices[0].finish_reason, whole.object) == ("stop", "chat.completion")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (120, 10, 130)
    assert extra["claude_jobs"]["route"]["provider"] == "openai"
    assert any("presence_penalty" in warning for warning in extra["claude_jobs"]["warnings"])
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "abcdefghijkl"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 10


async def test_tools_are_called_and_their_results_taken(tmp_path: Path) -> None:
    prompt = rehearse("q", tools=[[{"name": "look", "input": {"at": "x"}}]], reply="seen")
    async with sdk(tmp_path) as (client, _):
        first = await client.chat.completions.create(model="claude/", messages=user(prompt), tools=TOOLS)
        message = first.choices[0].message
        assert message.tool_calls is not None
        call: Any = message.tool_calls[0]
        stream = await client.chat.completions.create(
            model="openai/gpt-5-mini", messages=user(prompt), tools=TOOLS, tool_choice="required", stream=True
        )
        pieces: list[Any] = [
            piece async for chunk in stream if chunk.choices for piece in chunk.choices[0].delta.tool_calls or ()
        ]
        history: Any = [
            *user(prompt),
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "a cat"},
        ]
        second = await client.chat.completions.create(model="claude/", messages=history, tools=TOOLS)

    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "x"})
    assert first.choices[0].finish_reason == "tool_calls"
    assert pieces[0].function.name == "look" and pieces[0].id
    assert json.loads("".join(piece.function.arguments for piece in pieces)) == {"at": "x"}
    assert second.choices[0].message.content == "seen"


async def test_formats_and_images(tmp_path: Path) -> None:
    schema: Any = {
        "name": "n",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    }
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    content: Any = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": pixel}}]
    async with sdk(tmp_path) as (client, served):
        kept = await client.chat.completions.create(
            model="gpt-5-mini",
            messages=user("q"),
            response_format={"type": "json_schema", "json_schema": schema},
        )
        await client.chat.completions.create(
            model="claude/", messages=user("in json"), response_format={"type": "json_object"}
        )
        seen = await client.chat.completions.create(
            model="openai/gpt-5-mini", messages=[{"role": "user", "content": content}]
        )
        told = str(served.api.requests[1].body)

    assert isinstance(json.loads(kept.choices[0].message.content or "")["n"], int)
    assert "one JSON object" in told
    assert seen.choices[0].message.content


async def test_errors_are_those_of_the_sdk(tmp_path: Path) -> None:
    async with sdk(tmp_path, retries="0") as (client, _):

        async def fails(kind: type[openai.APIStatusError], text: str = "q", **more: Any) -> Any:
            body: dict[str, Any] = {"model": "openai/gpt-5-mini", "messages": user(text), **more}
            with pytest.raises(kind) as caught:
                await client.chat.completions.create(**body)
            return caught.value

        missing = await fails(openai.NotFoundError, rehearse("a", fault="404"), model="openai/none")
        bad = await fails(openai.BadRequestError, messages=user(" "))
        two = await fails(openai.BadRequestError, n=2)
        long = await fails(openai.APIStatusError, rehearse("b", fault="prompt_too_long"))
        down = await fails(openai.InternalServerError, rehearse("c", fault="html"))
        limited = await fails(openai.RateLimitError, rehearse("d", fault="429", retry_after_s=41), stream=True)
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()

    assert (missing.code, bad.code, two.param) == ("model_not_found", "invalid_request", "n")
    assert (long.status_code, long.code) == (413, "context_length_exceeded")
    assert (down.status_code, down.type) == (502, "upstream_error")
    assert limited.type == "rate_limit_error" and int(limited.response.headers["retry-after"]) >= 30


async def test_an_error_in_the_middle_of_a_stream_is_raised(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="abcdefghijkl", chunks=6, fault="truncated")
    async with sdk(tmp_path, retries="0") as (client, _):
        stream = await client.chat.completions.create(model="openai/gpt-5", messages=user(prompt), stream=True)
        last = ""
        with pytest.raises(openai.APIError):
            async for chunk in stream:
                last = chunk.choices[0].delta.content or last

    assert last


async def test_models_are_named_with_their_provider(tmp_path: Path) -> None:
    async with sdk(tmp_path) as (client, _):
        found = [model.id async for model in client.models.list()]
        one = await client.models.retrieve(found[0])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("openai/no-such-model")

    assert any(name.startswith("openai/") for name in found)
    assert any(name.startswith("claude/") for name in found)
    assert one.id == found[0]
