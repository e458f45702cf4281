"""Batches through the SDKs: made, waited for, read, cancelled, refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from rehearsal.dialects import KEY, directive

from claude_jobs.rehearsal.script import Action, Fault, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal

SLOW_S = 100.0


class Clock:
    """Epoch seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(clock: Clock) -> AsyncIterator[Rehearsal]:
    async with Rehearsal(clock=clock) as running:
        yield running


@pytest.fixture
async def claude(api: Rehearsal) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=f"{api.url}/anthropic", api_key=KEY, max_retries=0) as running:
        yield running


@pytest.fixture
async def client(api: Rehearsal) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/openai/v1", api_key=KEY, max_retries=0) as running:
        yield running


def asked(prompt: str) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}]}


async def made(claude: anthropic.AsyncAnthropic, *prompts: str) -> str:
    requests: Any = [{"custom_id": f"r{n}", "params": asked(prompt)} for n, prompt in enumerate(prompts)]
    batch = await claude.messages.batches.create(requests=requests)
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", len(prompts))
    return batch.id


async def test_a_message_batch_ends_with_its_slowest_item(
    api: Rehearsal, clock: Clock, claude: anthropic.AsyncAnthropic
) -> None:
    batch_id = await made(claude, directive(reply="one", delay_s=SLOW_S), directive(fault="400"))
    clock.now += SLOW_S - 1
    early = await claude.messages.batches.retrieve(batch_id)
    clock.now += 1
    late = await claude.messages.batches.retrieve(batch_id)
    results = [one async for one in await claude.messages.batches.results(batch_id)]

    assert (early.processing_status, late.processing_status) == ("in_progress", "ended")
    assert (late.request_counts.succeeded, late.request_counts.errored) == (1, 1)
    assert [one.custom_id for one in results] == ["r0", "r1"]
    assert results[0].result.type == "succeeded"
    assert results[0].result.message.content[0].to_dict()["text"] == "one"
    assert results[1].result.type == "errored"
    assert [(one.path, one.status) for one in api.requests] == [
        ("/v1/messages/batches", 200),
        ("/v1/messages/batches", 400),
    ]
    assert [one.id async for one in claude.messages.batches.list()] == [batch_id]


async def test_a_message_batch_is_cancelled(claude: anthropic.AsyncAnthropic) -> None:
    batch_id = await made(claude, directive(reply="one", delay_s=SLOW_S))
    cancelled = await claude.messages.batches.cancel(batch_id)

    assert cancelled.request_counts.canceled == 1
    assert [one.result.type async for one in await claude.messages.batches.results(batch_id)] == ["canceled"]


async def uploaded(client: openai.AsyncOpenAI, *prompts: str) -> str:
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": asked(prompt)}
        for n, prompt in enumerate(prompts)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    return (await client.files.create(file=("in.jsonl", content), purpose="batch")).id


async def test_a_batch_of_openai_gives_files(api: Rehearsal, clock: Clock, client: openai.AsyncOpenAI) -> None:
    file_id = await uploaded(client, directive(reply="ünö", duration_s=SLOW_S), directive(fault="429"))
    batch = await client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    early = await client.batches.retrieve(batch.id)
    clock.now += SLOW_S
    late = await client.batches.retrieve(batch.id)
    assert late.output_file_id
    assert late.error_file_id
    good = json.loads((await client.files.content(late.output_file_id)).text)
    bad = json.loads((await client.files.content(late.error_file_id)).text)

    assert (early.status, early.output_file_id, late.status) == ("in_progress", None, "completed")
    assert late.request_counts is not None
    assert (late.request_counts.completed, late.request_counts.failed) == (1, 1)
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "ünö"
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r1", 429)
    assert [one.provider for one in api.requests] == ["openai", "openai"]
    assert (await client.files.delete(file_id)).deleted


async def test_a_batch_of_openai_is_cancelled(client: openai.AsyncOpenAI) -> None:
    file_id = await uploaded(client, directive(reply="x", duration_s=SLOW_S))
    batch = await client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    cancelled = await client.batches.cancel(batch.id)

    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)
    with pytest.raises(openai.BadRequestError):
        await client.batches.create(input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve("batch_none")


async def test_batches_want_a_key_and_may_fail() -> None:
    script = Script(rules=(Rule(path="/batches$", times=1, action=Action(fault=Fault.SERVER_ERROR)),))
    async with (
        Rehearsal(script) as api,
        anthropic.AsyncAnthropic(base_url=f"{api.url}/anthropic", api_key="sk-unknown", max_retries=0) as nobody,
        anthropic.AsyncAnthropic(base_url=f"{api.url}/anthropic", api_key=KEY, max_retries=0) as claude,
    ):
        with pytest.raises(anthropic.AuthenticationError):
            await made(nobody, "x")
        with pytest.raises(anthropic.InternalServerError):
            await made(claude, "x")
        assert not api.requests
        await made(claude, directive(delay_s=SLOW_S))

        assert [one.status for one in api.lookups] == [401, 500, 200]
        assert len(api.requests) == 1
