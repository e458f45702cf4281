"""What only some of the providers do: their own parameters on the wire, and what they must not say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from providers.conftest import PATHS, Desk
from providers.support_calls import directive, streamed, user

from claude_jobs.domain.generation import FinishReason, Message, Provenance, Role, Thinking, Tool
from claude_jobs.errors import AuthenticationFailed, BadResponse, ProviderUnavailable
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.registry import PROVIDERS
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.script import Action, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal

LOOK = Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string"}}})
LAZY = """
import sys
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.registry import PROVIDERS
for make in PROVIDERS.values():
    make(ProviderSettings())
print(*sorted({"anthropic", "openai", "google.genai", "httpx2", "aiohttp"} & set(sys.modules)))
"""


def only(*names: str) -> pytest.MarkDecorator:
    """For these providers."""
    return pytest.mark.parametrize("name", names)


def sent(desk: Desk) -> dict[str, Any]:
    return desk.api.requests[-1].body


def test_making_the_providers_imports_no_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout.strip() == ""


@only("openai")
async def test_a_model_that_thinks_and_has_tools_is_asked_by_responses(desk: Desk) -> None:
    call = desk.call(directive(tool={"name": "look", "input": {"at": "it"}}), tools=(LOOK,), effort="high", seed=3)

    _, answer = await streamed(desk.provider, call)

    assert desk.api.requests[-1].path.endswith("/responses")
    assert sent(desk)["reasoning"] == {"effort": "high"}
    assert sent(desk)["store"] is False
    assert sent(desk)["max_output_tokens"] == 1_000
    assert answer.finish is FinishReason.TOOL_CALLS
    assert answer.warnings == ("seed is dropped: gpt-6.1-sol takes none.",)


@only("openai")
@pytest.mark.parametrize(("model", "effort"), [("gpt-6.1-sol", "none"), ("gpt-4.1", "")])
async def test_other_models_with_tools_are_asked_by_chat(desk: Desk, model: str, effort: str) -> None:
    await desk.provider.generate(desk.call("Hello.", model=model, tools=(LOOK,), effort=effort))

    assert desk.api.requests[-1].path.endswith("/chat/completions")


@only("openai")
async def test_a_schema_is_strict_where_it_can_be(desk: Desk) -> None:
    for required, strict in (["a"], True), ([], False):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": required}
        await desk.provider.generate(desk.call("Hello.", output_schema=schema))
        assert sent(desk)["response_format"]["json_schema"]["strict"] is strict


@only("qwen")
async def test_qwen_thinks_when_asked_and_shows_it(desk: Desk) -> None:
    call = desk.call(directive(reply="Four.", thinking="Two and two."), effort="low")

    _, answer = await streamed(desk.provider, call)

    assert (sent(desk)["enable_thinking"], sent(desk)["thinking_budget"]) == (True, 2_048)
    assert answer.parts[0] == Thinking(text="Two and two.")


@only("qwen")
async def test_a_model_held_to_no_schema_is_asked_in_words(desk: Desk) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}

    answer = await desk.provider.generate(desk.call("Hello.", model="qwen3.8-flash", output_schema=schema))

    assert sent(desk)["response_format"] == {"type": "json_object"}
    assert sent(desk)["enable_thinking"] is False
    assert "JSON Schema" in sent(desk)["messages"][0]["content"]
    assert "only asked for in words" in answer.warnings[0]


@only("grok")
async def test_a_stranger_is_not_told_the_account_at_openai(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-private")

    await desk.provider.generate(desk.call("Hello."))

    assert b"private" not in bytes(desk.relay.said)


@only("claude")
async def test_no_other_credential_of_the_environment_is_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-ant-oat01-private")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api-private")

    await desk.provider.generate(desk.call("Hello."))

    assert b"private" not in bytes(desk.relay.said)
    assert b"sk-rehearsal-1" in bytes(desk.relay.said)


@only("claude")
async def test_claude_thinks_and_its_signed_thoughts_go_back(desk: Desk) -> None:
    call = desk.call(directive(reply="Four.", thinking="Two and two."), effort="medium")
    whole = await desk.provider.generate(call)
    _, answer = await streamed(desk.provider, call)

    assert sent(desk)["thinking"] == {"type": "adaptive", "display": "summarized"}
    for each in (whole, answer):
        assert isinstance(each.parts[0], Thinking)
        assert each.parts[0].text == "Two and two."
    back = Message(role=Role.ASSISTANT, parts=answer.parts)
    await desk.provider.generate(desk.call(*call.request.messages, back, user("More.")))
    signature = answer.parts[0].signature if isinstance(answer.parts[0], Thinking) else ""
    thought = {"type": "thinking", "thinking": "Two and two.", "signature": signature}
    assert thought in sent(desk)["messages"][1]["content"]


@only("claude")
async def test_a_schema_and_an_effort_go_together(desk: Desk) -> None:
    await desk.provider.generate(desk.call("Hi.", effort="low", output_schema={"type": "object", "properties": {}}))

    assert sent(desk)["output_config"]["effort"] == "low"
    assert sent(desk)["output_config"]["format"]["schema"]["additionalProperties"] is False


@only("claude", "openai", "grok", "qwen")
async def test_limits_of_the_key_come_with_the_answer(desk: Desk) -> None:
    rate = {"limit_requests": 60, "remaining_requests": 58, "limit_tokens": 9_000, "remaining_tokens": 8_000}
    prompt = directive(reply="x", rate=rate)

    for answer in (
        await desk.provider.generate(desk.call(prompt)),
        (await streamed(desk.provider, desk.call(prompt)))[1],
    ):
        assert answer.limits is not None
        assert (answer.limits.requests_limit, answer.limits.requests_left) == (60, 58)
        assert (answer.limits.tokens_limit, answer.limits.tokens_left) == (9_000, 8_000)


@only("claude")
async def test_what_a_broken_stream_had_used_is_told(desk: Desk) -> None:
    usage = {"input": 123, "output": 45, "cache_read": 0, "cache_write": 0}
    prompt = directive(reply="One two three.", chunks=30, fault="cut", usage=usage)

    with pytest.raises(ProviderUnavailable) as caught:
        await streamed(desk.provider, desk.call(prompt))

    assert caught.value.input_tokens == 123


@only("claude")
async def test_cache_writes_are_told_apart(desk: Desk) -> None:
    usage = {"input": 10, "output": 5, "cache_read": 20, "cache_write": 30}

    answer = await desk.provider.generate(desk.call(directive(reply="x", usage=usage)))

    tokens = answer.tokens
    assert (tokens.input, tokens.cache_read, tokens.cache_write, tokens.output) == (10, 20, 30, 5)
    assert tokens.provenance is Provenance.REPORTED


@only("openai", "grok", "claude")
async def test_an_api_that_does_not_count_is_no_error(desk: Desk) -> None:
    script = Script(rules=(Rule(path="token", action=Action(fault=Fault.NOT_FOUND)),))
    async with Rehearsal(script) as api:
        provider = PROVIDERS[desk.name](ProviderSettings(base_url=api.url + PATHS[desk.name]))
        assert await provider.count_tokens(desk.call("Hello.")) is None
        await provider.close()


@only("openai")
async def test_only_models_that_chat_are_listed(desk: Desk) -> None:
    names = [card.id for card in await desk.provider.list_models(desk.key)]

    assert "gpt-6.1" in names
    assert not any("embedding" in name for name in names)


@only("openai")
async def test_the_last_keys_used_have_a_client(desk: Desk) -> None:
    for n in range(70):
        with pytest.raises(AuthenticationFailed):
            await desk.provider.generate(desk.call("Hello.", secret=f"sk-unknown-{n:03}"))

    assert (await desk.provider.generate(desk.call("Hello."))).text
    assert desk.relay.opened == 1


@only("claude", "openai")
async def test_a_redirect_is_not_followed_with_the_key(desk: Desk) -> None:
    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = (desk.relay.url + "/v1/messages").encode()
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: " + where + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = PROVIDERS[desk.name](ProviderSettings(base_url=url))
        with pytest.raises(BadResponse, match="base URL"):
            await provider.generate(desk.call("Hello."))
        await provider.close()

    assert desk.relay.opened == 0


@only("claude", "openai")
@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_close_ends_what_still_runs(desk: Desk, *, as_stream: bool) -> None:
    call = desk.call(directive(reply="One two three.", chunks=20, fault="stall"))
    read = asyncio.ensure_future(streamed(desk.provider, call) if as_stream else desk.provider.generate(call))
    await desk.api.wait_for()

    while not read.done():
        await desk.provider.close()
        await asyncio.wait([read], timeout=0.05)

    with pytest.raises(ProviderUnavailable):
        read.result()
