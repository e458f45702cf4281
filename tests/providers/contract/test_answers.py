"""What every provider makes of one and the same request."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping

import pytest
from providers.conftest import Desk
from providers.support_calls import directive, streamed, user

from claude_jobs.domain.generation import (
    Completion,
    FinishReason,
    Image,
    Message,
    ModelCard,
    Provenance,
    Role,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolDelta,
    ToolResult,
)
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.providers.base import ProviderCall
from claude_jobs.providers.contract import rules_of
from claude_jobs.rehearsal.faults import Fault

PIXEL = base64.b64encode(bytes.fromhex("89504e470d0a1a0a0000000d49484452")).decode()
WEATHER = Tool(
    name="get_weather",
    description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
}


async def both_ways(desk: Desk, call: ProviderCall) -> tuple[Completion, Completion]:
    """The whole answer, and the end of the stream, after a look at its deltas."""
    whole = await desk.provider.generate(call)
    deltas, end = await streamed(desk.provider, call)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == end.text
    return whole, end


async def test_it_answers(desk: Desk) -> None:
    for answer in await both_ways(desk, desk.call(directive(reply="Good morning."))):
        assert answer.text == "Good morning."
        assert answer.finish is FinishReason.STOP
        assert answer.tokens.provenance is Provenance.REPORTED
        assert answer.tokens.input > 0
        assert answer.tokens.output > 0
        assert answer.model == desk.model
        assert answer.warnings == ()


async def test_a_long_stream_loses_nothing(desk: Desk) -> None:
    deltas, answer = await streamed(desk.provider, desk.call(directive(reply="ünï “çödé” 漢字 ", chunks=300)))

    assert len([delta for delta in deltas if isinstance(delta, TextDelta)]) >= 300
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == answer.text
    assert "漢字" in answer.text


async def test_figures_are_disjoint(desk: Desk) -> None:
    usage = {"input": 100, "output": 40, "cache_read": 30}
    for answer in await both_ways(desk, desk.call(directive(reply="x", usage=usage))):
        assert answer.tokens.output == 40
        assert answer.tokens.input + answer.tokens.cache_read == 130
        assert answer.tokens.cache_read == (0 if desk.name == "llama" else 30)


@pytest.mark.parametrize(
    "fault", [Fault.NO_USAGE, Fault.ZERO_USAGE, Fault.NEGATIVE_USAGE, Fault.ABSURD_USAGE], ids=lambda fault: fault.value
)
async def test_figures_that_cannot_be_true_are_unknown(desk: Desk, fault: Fault) -> None:
    for answer in await both_ways(desk, desk.call(directive(reply="Hello.", fault=fault.value))):
        assert answer.text == "Hello."
        assert answer.tokens.provenance is Provenance.UNKNOWN
        assert answer.tokens.total == 0


async def test_it_tells_that_it_was_cut_off(desk: Desk) -> None:
    for answer in await both_ways(desk, desk.call(directive(reply="One two three four.", fault="max_tokens"))):
        assert answer.finish is FinishReason.LENGTH


@pytest.mark.parametrize("name", sorted(KEY_NAMES))
async def test_it_tells_that_it_was_filtered(desk: Desk) -> None:
    for answer in await both_ways(desk, desk.call(directive(reply="One two three four.", fault="content_filter"))):
        assert answer.finish is FinishReason.CONTENT_FILTER


async def test_system_text_and_sampling_reach_the_model(desk: Desk) -> None:
    call = desk.call("Say hello.", system="You are terse.", temperature=0.25, seed=7, stop=("END",), effort="none")

    answer = await desk.provider.generate(call)

    sent = json.dumps(desk.api.requests[-1].body)
    warned = " ".join(answer.warnings)
    assert "You are terse." in sent
    assert ("0.25" in sent) != ("temperature is dropped" in warned)
    assert ('"END"' in sent) != ("stop is dropped" in warned)
    assert ("seed" in sent) != ("seed is dropped" in warned)


async def test_a_tool_is_called_and_its_result_goes_back(desk: Desk) -> None:
    prompt = directive(tool={"name": "get_weather", "input": {"city": "Oslo"}}, reply="Cold: {result}")
    call = desk.call(prompt, tools=(WEATHER,))

    whole = await desk.provider.generate(call)
    deltas, asked = await streamed(desk.provider, call)

    for answer in (whole, asked):
        assert answer.finish is FinishReason.TOOL_CALLS
        assert [(use.name, dict(use.arguments)) for use in answer.tool_calls] == [("get_weather", {"city": "Oslo"})]
    pieces = [delta for delta in deltas if isinstance(delta, ToolDelta)]
    assert [piece.name for piece in pieces if piece.name] == ["get_weather"]
    assert json.loads("".join(piece.arguments for piece in pieces)) == {"city": "Oslo"}
    use = asked.tool_calls[0]
    back = Message(role=Role.USER, parts=(ToolResult(id=use.id, name=use.name, text="minus 3"),))
    history = (user(prompt), Message(role=Role.ASSISTANT, parts=asked.parts), back)
    after = await desk.provider.generate(desk.call(*history, tools=(WEATHER,)))
    assert "minus 3" in after.text
    assert after.finish is FinishReason.STOP


async def test_several_tools_at_once_keep_apart(desk: Desk) -> None:
    calls = [{"name": "get_weather", "input": {"city": city}} for city in ("Oslo", "Rome")]
    deltas, answer = await streamed(desk.provider, desk.call(directive(tools=[calls]), tools=(WEATHER,)))

    assert [use.arguments["city"] for use in answer.tool_calls] == ["Oslo", "Rome"]
    assert len({use.id for use in answer.tool_calls}) == 2
    assert {delta.index for delta in deltas if isinstance(delta, ToolDelta)} == {0, 1}


async def test_a_tool_can_be_forced_or_the_wish_is_named(desk: Desk) -> None:
    model = "claude-haiku-5-5" if desk.name == "claude" else desk.model
    call = desk.call("What is the weather?", model=model, tools=(WEATHER,), tool_choice="get_weather")

    answer = await desk.provider.generate(call)

    if rules_of(desk.name, model).forced_tools == "auto":
        assert "tool_choice" in " ".join(answer.warnings)
    else:
        assert [use.name for use in answer.tool_calls] == ["get_weather"]


async def test_it_sees_a_picture(desk: Desk) -> None:
    model = {"qwen": "qwen3-vl-plus", "llama": "gemma4:12b"}.get(desk.name, desk.model)
    parts = (Text(text="What is this?"), Image(media_type="image/png", data=PIXEL))

    await desk.provider.generate(desk.call(Message(role=Role.USER, parts=parts), model=model))

    assert PIXEL in json.dumps(desk.api.requests[-1].body)


async def test_json_is_held_to_a_schema(desk: Desk) -> None:
    for answer in await both_ways(desk, desk.call("Name it.", output_schema=SCHEMA)):
        found = json.loads(answer.text)
        assert isinstance(found["name"], str)
        assert isinstance(found["tags"], list)


async def test_thoughts_come_back_as_they_went(desk: Desk) -> None:
    call = desk.call(directive(reply="Four.", thinking="Two and two."), effort="medium")
    for answer in await both_ways(desk, call):
        assert answer.text == "Four."
        history = (*call.request.messages, Message(role=Role.ASSISTANT, parts=answer.parts), user("And five?"))
        assert (await desk.provider.generate(desk.call(*history, effort="medium"))).finish is FinishReason.STOP
        signed = [part.signature for part in answer.parts if isinstance(part, Thinking) and part.signature]
        sent = json.dumps(desk.api.requests[-1].body)
        assert all(signature.rpartition(":")[2] in sent for signature in signed)


async def test_anothers_thoughts_are_left_out(desk: Desk) -> None:
    thought = Thinking(text="Hm.", signature="somebody-else:x:c2lnbmVk")
    said = Message(role=Role.ASSISTANT, parts=(thought, Text(text="Four.")))

    await desk.provider.generate(desk.call(user("Two and two?"), said, user("And five?")))

    assert "c2lnbmVk" not in json.dumps(desk.api.requests[-1].body)


async def test_models_are_listed_live(desk: Desk) -> None:
    cards = await desk.provider.list_models(desk.key)

    assert cards
    for card in cards:
        assert isinstance(card, ModelCard)
        assert card.provider == desk.name
        assert card.is_live


async def test_tokens_are_counted_or_not(desk: Desk) -> None:
    few = await desk.provider.count_tokens(desk.call("Hello."))
    many = await desk.provider.count_tokens(desk.call("Hello. " * 500))

    assert (few is None) == (many is None)
    if few is not None and many is not None:
        assert 0 < few < many


async def test_many_at_once(desk: Desk) -> None:
    prompts = [directive(reply=f"Answer {n}.") for n in range(40)]

    answers = await asyncio.gather(*(desk.provider.generate(desk.call(prompt)) for prompt in prompts))

    assert [answer.text for answer in answers] == [f"Answer {n}." for n in range(40)]
    assert desk.relay.opened <= 20


async def test_connections_are_used_again(desk: Desk) -> None:
    for _ in range(3):
        await desk.provider.generate(desk.call("Hello."))
        await streamed(desk.provider, desk.call("Hello."))

    assert desk.relay.opened == 1


async def test_it_opens_again_after_close(desk: Desk) -> None:
    await desk.provider.generate(desk.call("Hello."))
    await desk.provider.close()
    await desk.relay.is_quiet()

    assert (await desk.provider.generate(desk.call("Hello."))).text
