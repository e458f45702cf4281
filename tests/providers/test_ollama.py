"""Ollama over a real connection to the rehearsal API."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from providers.support_calls import asking, directive, streamed

from claude_jobs.domain.generation import FinishReason, Provenance, TextDelta, Thinking, ThinkingDelta, Tool, ToolDelta
from claude_jobs.errors import (
    BadResponse,
    ContextTooLong,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.ollama import Ollama
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.script import Action, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal

MODEL = "qwen3:8b"


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal(Script()) as running:
        yield running


@pytest.fixture
async def ollama(api: Rehearsal) -> AsyncIterator[Ollama]:
    provider = Ollama(ProviderSettings(base_url=f"{api.url}/ollama"))
    yield provider
    await provider.close()


async def test_an_answer_with_its_figures(ollama: Ollama) -> None:
    prompt = directive(reply="Hello.", usage={"input": 11, "output": 5})

    answer = await ollama.generate(asking(MODEL, prompt))

    assert answer.text == "Hello."
    assert answer.finish is FinishReason.STOP
    assert (answer.tokens.input, answer.tokens.output) == (11, 5)
    assert answer.tokens.provenance is Provenance.REPORTED
    assert answer.model == MODEL


async def test_a_stream_says_the_same_in_pieces(ollama: Ollama) -> None:
    prompt = directive(reply="one two three four", chunks=4, thinking="Let me see.")

    deltas, answer = await streamed(ollama, asking(MODEL, prompt, effort="high"))

    said = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thought = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    assert said == answer.text
    assert len([delta for delta in deltas if isinstance(delta, TextDelta)]) == 4
    assert answer.parts[0] == Thinking(text=thought)
    assert thought == "Let me see."


async def test_tools_are_called(ollama: Ollama) -> None:
    tool = Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string"}}})
    prompt = directive(tools=[{"name": "look", "input": {"at": "sky"}}])

    deltas, answer = await streamed(ollama, asking(MODEL, prompt, tools=(tool,)))

    assert [call.name for call in answer.tool_calls] == ["look"]
    assert answer.tool_calls[0].arguments == {"at": "sky"}
    assert answer.finish is FinishReason.TOOL_CALLS
    assert any(isinstance(delta, ToolDelta) and delta.name == "look" for delta in deltas)


async def test_the_window_grows_with_the_prompt(ollama: Ollama, api: Rehearsal) -> None:
    await ollama.generate(asking(MODEL, "short"))
    await ollama.generate(asking(MODEL, "1234 " * 3_000))

    short, long = (cast("dict[str, Any]", request.body) for request in api.requests)
    assert "num_ctx" not in short["options"]
    assert long["options"] == {"num_predict": 1_000, "num_ctx": 16_384}
    assert long["truncate"] is False


async def test_what_a_model_can_do_is_asked_once(ollama: Ollama, api: Rehearsal) -> None:
    await ollama.generate(asking(MODEL, "one"))
    await ollama.generate(asking(MODEL, "two"))

    assert [look_up.path for look_up in api.lookups].count("/api/show") == 1


async def test_models_are_listed_with_what_they_can_do(ollama: Ollama) -> None:
    cards = await ollama.list_models(None)

    known = {card.id: (card.context_tokens, card.thinking, card.vision, card.is_live) for card in cards}
    assert known[MODEL] == (131_072, True, False, True)
    assert known["gemma4:12b"] == (131_072, False, True, True)
    assert {card.provider for card in cards} == {"llama"}


async def test_a_missing_model_is_named_with_its_remedy() -> None:
    rule = Rule(path="chat$", action=Action(fault=Fault.NOT_FOUND))
    async with Rehearsal(Script(rules=(rule,))) as api:
        ollama = Ollama(ProviderSettings(base_url=f"{api.url}/ollama"))

        with pytest.raises(ModelNotFound) as caught:
            await ollama.generate(asking("qwen3:80b", "x"))

        await ollama.close()
    assert caught.value.status == 404
    assert "`ollama pull qwen3:80b`" in caught.value.message
    assert "Did you mean 'qwen3:8b'?" in caught.value.message
    assert "llama3.3:latest" in caught.value.message


async def test_nobody_there_says_how_to_start_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    ollama = Ollama(ProviderSettings(base_url=f"http://127.0.0.1:{port}"))

    for attempt in (ollama.generate(asking(MODEL, "x")), ollama.list_models(None)):
        with pytest.raises(ProviderUnavailable) as caught:
            await attempt
        assert f"http://127.0.0.1:{port}" in caught.value.message
        assert "ollama serve" in caught.value.message
        assert "OLLAMA_ENDPOINT" in caught.value.message
        assert caught.value.is_provider_fault
    await ollama.close()


FAILURES: list[tuple[Fault, type[ProviderError]]] = [
    (Fault.RATE_LIMIT, RateLimited),
    (Fault.BUSY, Overloaded),
    (Fault.SERVER_ERROR, ProviderUnavailable),
    (Fault.PROMPT_TOO_LONG, ContextTooLong),
    (Fault.NOT_FOUND, ModelNotFound),
    (Fault.BAD_REQUEST, RequestRefused),
    (Fault.HTML, BadResponse),
    (Fault.HTML_502, ProviderUnavailable),
    (Fault.MALFORMED, BadResponse),
    (Fault.OTHER_JSON, BadResponse),
    (Fault.DROP, ProviderUnavailable),
]


@pytest.mark.parametrize(("fault", "expected"), FAILURES)
async def test_each_failure_has_its_name(ollama: Ollama, fault: Fault, expected: type[ProviderError]) -> None:
    prompt = directive(fault=fault.value)

    with pytest.raises(ProviderError) as whole:
        await ollama.generate(asking(MODEL, prompt))
    with pytest.raises(ProviderError) as pieces:
        await streamed(ollama, asking(MODEL, prompt))

    assert type(whole.value) is expected
    assert type(pieces.value) is expected
    assert (whole.value.provider, whole.value.model) == ("llama", MODEL)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.CUT, ProviderUnavailable),
        (Fault.TRUNCATED, ProviderUnavailable),
        (Fault.STREAM_ERROR, ProviderUnavailable),
        (Fault.BAD_EVENT, BadResponse),
    ],
)
async def test_a_stream_never_ends_in_silence(ollama: Ollama, fault: Fault, expected: type[ProviderError]) -> None:
    with pytest.raises(expected):
        await streamed(ollama, asking(MODEL, directive(fault=fault.value, reply="some words to cut")))


async def test_nothing_in_time(ollama: Ollama) -> None:
    prompt = directive(fault="silence")

    for attempt in (
        ollama.generate(asking(MODEL, prompt, first_s=0.3)),
        streamed(ollama, asking(MODEL, prompt, first_s=0.3)),
    ):
        with pytest.raises(ProviderTimeout):
            await attempt


async def test_nothing_more_in_time(ollama: Ollama) -> None:
    with pytest.raises(ProviderTimeout):
        await streamed(ollama, asking(MODEL, directive(fault="stall", reply="a b c d"), idle_s=0.3))


@pytest.mark.parametrize("fault", [Fault.NO_USAGE, Fault.NEGATIVE_USAGE, Fault.ABSURD_USAGE, Fault.ZERO_USAGE])
async def test_figures_that_cannot_be_true_are_unknown(ollama: Ollama, fault: Fault) -> None:
    answer = await ollama.generate(asking(MODEL, directive(fault=fault.value, reply="Hello.")))

    assert answer.text == "Hello."
    assert answer.tokens.provenance is Provenance.UNKNOWN


async def test_leaving_a_stream_gives_its_connection_back(api: Rehearsal) -> None:
    ollama = Ollama(ProviderSettings(base_url=f"{api.url}/ollama", connections=1, per_host=1))

    stream = ollama.stream(asking(MODEL, directive(fault="stall", reply="a b c d")))
    first = await anext(stream)
    await stream.aclose()
    waiting = asyncio.ensure_future(ollama.generate(asking(MODEL, directive(hold=True))))
    await api.wait_for(count=2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert isinstance(first, TextDelta)
    assert (await ollama.generate(asking(MODEL, directive(reply="Free.")))).text == "Free."
    await ollama.close()


async def test_an_answer_that_was_cut_short_says_so(ollama: Ollama) -> None:
    answer = await ollama.generate(asking(MODEL, directive(fault="max_tokens", reply="Hello.")))

    assert answer.finish is FinishReason.LENGTH


async def test_what_a_model_cannot_do_is_refused_or_said(ollama: Ollama) -> None:
    answer = await ollama.generate(asking(MODEL, "x", tools=(Tool(name="look"),), tool_choice="required"))

    assert any("tool_choice" in warning for warning in answer.warnings)


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.HTML, Fault.NOT_FOUND, Fault.OTHER_JSON])
async def test_a_server_that_tells_nothing_of_its_models_still_answers(fault: Fault) -> None:
    rule = Rule(path="show$", action=Action(fault=fault))
    async with Rehearsal(Script(rules=(rule,))) as api:
        ollama = Ollama(ProviderSettings(base_url=f"{api.url}/ollama"))

        answer = await ollama.generate(asking(MODEL, directive(reply="Hello.")))

        await ollama.close()
    assert answer.text == "Hello."


async def test_a_server_that_hangs_is_not_waited_for_twice() -> None:
    rule = Rule(path="show$", action=Action(fault=Fault.SILENCE))
    async with Rehearsal(Script(rules=(rule,))) as api:
        ollama = Ollama(ProviderSettings(base_url=f"{api.url}/ollama"))

        with pytest.raises(ProviderTimeout):
            await ollama.generate(asking(MODEL, "x", first_s=0.3))

        await ollama.close()
    assert not api.requests
