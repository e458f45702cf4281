"""Gemini through its SDK against the rehearsal API: what the contract suite of all providers does not ask."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from providers.support_calls import asking, directive, key_of, streamed, user

from claude_jobs.domain.generation import Image, Thinking, Tool
from claude_jobs.errors import ContentRefused, ModelNotFound, RateLimited, RequestRefused
from claude_jobs.providers.base import ProviderCall, ProviderSettings
from claude_jobs.providers.gemini import Gemini
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.server import Rehearsal

MODEL = "gemini-3.8-flash"


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as running:
        yield running


@pytest.fixture
async def gemini(api: Rehearsal) -> AsyncIterator[Gemini]:
    provider = Gemini(ProviderSettings(base_url=f"{api.url}/gemini"))
    yield provider
    await provider.close()


def _call(*messages: str, secret: str = "sk-rehearsal-1", **more: Any) -> ProviderCall:
    return asking(MODEL, *messages, key=key_of("gemini", secret), **more)


async def test_each_request_has_its_own_key(gemini: Gemini, api: Rehearsal) -> None:
    secrets = ("sk-rehearsal-1", "sk-rehearsal-2", "sk-rehearsal-1", "sk-rehearsal-3")

    await asyncio.gather(*(gemini.generate(_call("Hello.", secret=secret)) for secret in secrets))

    assert sorted(request.token for request in api.requests) == ["key-1", "key-1", "key-2", "key-3"]
    assert not any("key" in request.path or "sk-" in request.path for request in api.requests)


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.DROP, Fault.RATE_LIMIT], ids=lambda fault: fault.value)
async def test_the_sdk_does_not_try_again(gemini: Gemini, api: Rehearsal, fault: Fault) -> None:
    for attempt in (
        gemini.generate(_call(directive(fault=fault.value))),
        streamed(gemini, _call("x " + directive(fault=fault.value))),
    ):
        with pytest.raises(Exception, match="gemini"):
            await attempt

    assert len(api.requests) == 2


async def test_nothing_is_taken_from_the_environment(api: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "somebody-else")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "nowhere")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GEMINI_API_KEY", "sk-of-somebody-else")
    gemini = Gemini(ProviderSettings(base_url=f"{api.url}/gemini"))

    answer = await gemini.generate(_call(directive(reply="Hello.")))

    await gemini.close()
    assert answer.text == "Hello."
    assert api.requests[0].token == "key-1"


async def test_thoughts_are_asked_for_with_an_effort(gemini: Gemini) -> None:
    prompt = directive(reply="Four.", thinking="Two and two.", usage={"input": 9, "output": 6, "thinking": 4})

    answer = await gemini.generate(_call(prompt, effort="high"))

    assert Thinking(text="Two and two.") in answer.parts
    assert (answer.tokens.output, answer.tokens.thinking) == (6, 4)


async def test_a_signature_comes_with_a_call(gemini: Gemini) -> None:
    tool = Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string"}}})

    answer = await gemini.generate(_call(directive(tool={"name": "look", "input": {"at": "sky"}}), tools=(tool,)))

    assert answer.tool_calls[0].signature.startswith("gemini:")


@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_a_quota_of_nothing_is_exhausted(gemini: Gemini, *, as_stream: bool) -> None:
    call = _call(directive(fault="insufficient_quota"))

    with pytest.raises(RateLimited) as caught:
        await (streamed(gemini, call) if as_stream else gemini.generate(call))

    assert caught.value.is_exhausted


async def test_the_wait_in_the_body_is_read(gemini: Gemini) -> None:
    with pytest.raises(RateLimited) as caught:
        await gemini.generate(_call(directive(fault="429", retry_after_s=7.5, retry_after_as="retry_info")))

    assert caught.value.retry_after_s == 7.5


@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_a_blocked_prompt_is_refused(gemini: Gemini, *, as_stream: bool) -> None:
    call = _call(directive(fault="blocked"))

    with pytest.raises(ContentRefused, match="PROHIBITED_CONTENT"):
        await (streamed(gemini, call) if as_stream else gemini.generate(call))


async def test_limits_are_in_the_answer(gemini: Gemini) -> None:
    rate = {"limit_requests": 60, "remaining_requests": 59, "reset_requests_s": 1}

    whole = await gemini.generate(_call(directive(reply="x", rate=rate)))
    _, end = await streamed(gemini, _call(directive(reply="y", rate=rate)))

    for answer in (whole, end):
        assert answer.limits is not None
        assert (answer.limits.requests_limit, answer.limits.requests_left) == (60, 59)


async def test_an_image_that_is_none_is_refused_before_it_is_sent(gemini: Gemini, api: Rehearsal) -> None:
    call = asking(MODEL, user(Image(media_type="image/png", data="é")), key=key_of("gemini"))

    with pytest.raises(RequestRefused, match="base64"):
        await gemini.generate(call)

    assert not api.requests


async def test_models_say_what_they_take(gemini: Gemini) -> None:
    cards = {card.id: card for card in await gemini.list_models(key_of("gemini"))}

    assert cards[MODEL].context_tokens == 1_048_576
    assert cards[MODEL].max_output_tokens == 65_536
    assert cards[MODEL].is_default


async def test_system_text_is_counted(gemini: Gemini) -> None:
    call = _call(directive(reply="x"))
    plain = await gemini.count_tokens(call)
    system = await gemini.count_tokens(replace(call, request=replace(call.request, system="word " * 100)))

    assert plain is not None
    assert system is not None
    assert system >= plain + 100


async def test_a_missing_model_is_named(gemini: Gemini) -> None:
    with pytest.raises(ModelNotFound, match=MODEL):
        await gemini.generate(_call(directive(fault="404")))


async def test_leaving_a_stream_gives_its_connection_back(api: Rehearsal) -> None:
    gemini = Gemini(ProviderSettings(base_url=f"{api.url}/gemini", connections=1, per_host=1))

    for number in range(3):
        stream = gemini.stream(_call(f"{number} {directive(reply='a b c d', chunks=40, fault='stall')}"))
        await anext(stream)
        await stream.aclose()

    assert (await gemini.generate(_call(directive(reply="Free.")))).text == "Free."
    await gemini.close()


def test_the_sdk_is_imported_with_the_first_call_only() -> None:
    code = (
        "import sys; from claude_jobs.providers.base import ProviderSettings; "
        "from claude_jobs.providers.gemini import Gemini; from claude_jobs.providers.ollama import Ollama; "
        "Gemini(ProviderSettings()); Ollama(ProviderSettings()); "
        "print([name for name in ('google.genai', 'httpx2', 'aiohttp', 'pydantic') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
