"""The providers' own SDKs believe that they talk to the real thing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types
from rehearsal.dialects import KEY, SCHEMA, directive

from claude_jobs.rehearsal.server import Rehearsal

PREFIXES = ("openai/v1", "xai/v1", "dashscope/compatible-mode/v1")
TOOL = directive(tool={"name": "look", "input": {"at": "it"}})


@pytest.fixture(params=PREFIXES)
async def client(rehearsal: Rehearsal, request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{rehearsal.url}/{request.param}", api_key=KEY, max_retries=0) as running:
        yield running


@pytest.fixture
async def claude(rehearsal: Rehearsal) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=f"{rehearsal.url}/anthropic", api_key=KEY, max_retries=0) as running:
        yield running


# With aiohttp about, google-genai derives a class from its session, which that one does not like.
derives = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


@pytest.fixture(params=["v1", "v1beta"])
async def gemini(rehearsal: Rehearsal, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    options = types.HttpOptions(base_url=f"{rehearsal.url}/gemini", api_version=request.param)
    running = genai.Client(api_key=KEY, http_options=options)
    yield running.aio.models
    await running.aio.aclose()


async def test_chat(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "good morning"}])
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": directive(reply="a b c", chunks=3)}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert whole.choices[0].message.content == "Rehearsed: good morning"
    assert whole.usage is not None
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "a b c"
    assert chunks[-1].usage is not None
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


async def test_chat_calls_tools(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": TOOL}]) as stream:
        final = await stream.get_final_completion()

    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, json.loads(calls[0].function.arguments)) == ("look", {"at": "it"})
    assert final.choices[0].finish_reason == "tool_calls"


async def test_responses(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="m", input="good morning")
    async with client.responses.stream(model="m", input=directive(reply="a b c", chunks=3)) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    async with client.responses.stream(model="m", input=TOOL) as stream:
        called = (await stream.get_final_response()).output[0]

    assert (whole.output_text, whole.status) == ("Rehearsed: good morning", "completed")
    assert (final.output_text, kinds.count("response.output_text.delta")) == ("a b c", 3)
    assert final.usage is not None
    assert called.type == "function_call"
    assert (called.name, json.loads(called.arguments)) == ("look", {"at": "it"})


async def test_reasoning_of_responses(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="m",
        input=directive(reply="so", thinking="let me see"),
        reasoning={"summary": "auto"},
        include=["reasoning.encrypted_content"],
    )

    assert answer.output[0].type == "reasoning"
    assert answer.output[0].summary[0].text == "let me see"
    assert answer.output[0].encrypted_content


async def test_models_and_counts_of_openai(client: openai.AsyncOpenAI) -> None:
    listed = await client.models.list()
    counted = await client.responses.input_tokens.count(model="m", input="hello")

    assert listed.data[0].id
    assert counted.input_tokens > 0


async def test_errors_of_openai(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await client.responses.create(model="m", input=directive(fault="429", retry_after_s=9))
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="m", input=directive(fault="404"))
    with pytest.raises(openai.APIError):
        async for _ in await client.responses.create(model="m", input=directive(fault="stream_error"), stream=True):
            pass

    assert limited.value.response.headers["retry-after"] == "9"


async def test_claude(claude: anthropic.AsyncAnthropic) -> None:
    prompt = directive(reply="a b c", chunks=3, thinking="let me see")
    async with claude.messages.stream(
        model="m",
        max_tokens=2048,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[{"role": "user", "content": prompt}],
    ) as stream:
        final = await stream.get_final_message()
    called = await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": TOOL}])

    thought, text = final.content
    assert thought.type == "thinking"
    assert text.type == "text"
    assert (thought.thinking, bool(thought.signature), text.text) == ("let me see", True, "a b c")
    assert called.content[0].type == "tool_use"
    assert (called.content[0].input, called.stop_reason) == ({"at": "it"}, "tool_use")


async def test_json_models_and_counts_of_claude(claude: anthropic.AsyncAnthropic) -> None:
    answer = await claude.messages.create(
        model="m",
        max_tokens=9,
        messages=[{"role": "user", "content": "json"}],
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    counted = await claude.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hello"}])

    assert answer.content[0].type == "text"
    assert json.loads(answer.content[0].text) == {"n": 1}
    assert counted.input_tokens > 0
    assert "claude-haiku-5-5" in [one.id async for one in claude.models.list()]


async def test_errors_of_claude(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as busy:
        await claude.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": directive(fault="busy")}]
        )
    with pytest.raises(anthropic.APIStatusError) as broken:
        async with claude.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": directive(fault="stream_error")}]
        ) as stream:
            await stream.get_final_message()

    assert (busy.value.status_code, broken.value.status_code) == (529, 200)


@derives
async def test_gemini(gemini: Any) -> None:
    whole = await gemini.generate_content(model="m", contents="good morning")
    stream = await gemini.generate_content_stream(model="m", contents=directive(reply="a b c", chunks=3))
    chunks = [chunk async for chunk in stream]

    assert whole.text == "Rehearsed: good morning"
    assert whole.usage_metadata.prompt_token_count > 0
    assert "".join(chunk.text or "" for chunk in chunks) == "a b c"
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert chunks[-1].usage_metadata.candidates_token_count > 0


@derives
async def test_tools_thoughts_and_json_of_gemini(gemini: Any) -> None:
    called = await gemini.generate_content(model="m", contents=TOOL)
    thinking = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    thought = await gemini.generate_content(model="m", contents=directive(reply="so", thinking="hm"), config=thinking)
    wanted = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=SCHEMA)
    answer = await gemini.generate_content(model="m", contents="json", config=wanted)

    assert (called.function_calls[0].name, called.function_calls[0].args) == ("look", {"at": "it"})
    assert [(part.text, part.thought) for part in thought.candidates[0].content.parts] == [("hm", True), ("so", None)]
    assert json.loads(answer.text) == {"n": 1}


@derives
async def test_models_counts_and_errors_of_gemini(gemini: Any) -> None:
    with pytest.raises(errors.ClientError) as limited:
        await gemini.generate_content(model="m", contents=directive(fault="429", retry_after_s=9))
    with pytest.raises(errors.ServerError) as busy:
        await gemini.generate_content(model="m", contents=directive(fault="busy"))
    safe = await gemini.generate_content(model="m", contents=directive(fault="refusal"))

    assert (limited.value.code, busy.value.code) == (429, 503)
    assert "'retryDelay': '9s'" in str(limited.value)
    assert safe.candidates[0].finish_reason == types.FinishReason.SAFETY
    assert (await gemini.count_tokens(model="m", contents="hello")).total_tokens > 0
    assert [one.name async for one in await gemini.list()]
