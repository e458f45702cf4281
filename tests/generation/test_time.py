"""Whose time it is: one that hangs does not take that of the others, nor that of its caller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from support_generation import Place, generating

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import ProviderTimeout
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script

HANGS = Script(rules=(Rule(action=Action(fault=Fault.SILENCE), provider="openai"),))
HANGS_ONCE = Script(rules=(Rule(action=Action(fault=Fault.SILENCE), provider="openai", times=1),))


async def asked(place: Place, *, is_stream: bool, **fields: Any) -> Answer:
    """The answer, whole or at the end of a stream."""
    ask = place.ask(max_tokens=30, **fields)
    if not is_stream:
        return await place.app.generation.generate(ask)
    *_, last = [event async for event in place.app.generation.stream(ask)]
    return cast("Answer", last)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("timeout_s", [None, 4])
async def test_a_provider_that_hangs_leaves_time_to_its_fallback(
    tmp_path: Path, is_stream: bool, timeout_s: float | None
) -> None:
    async with generating(tmp_path, script=HANGS, REQUEST_TIMEOUT="4") as place:
        await asked(place, prompt="Its SDK is loaded.", is_stream=is_stream)
        fields: dict[str, Any] = {"provider": "openai", "fallbacks": ["claude"], "timeout_s": timeout_s}
        answer = await asked(place, is_stream=is_stream, **fields)

    assert answer.route.provider == "claude"
    assert [request.provider for request in place.asked()] == ["claude", "openai", "claude"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_key_that_hangs_leaves_time_to_another_one(tmp_path: Path, is_stream: bool) -> None:
    async with generating(tmp_path, script=HANGS_ONCE, numbers=(1, 2), REQUEST_TIMEOUT="4") as place:
        answer = await asked(place, is_stream=is_stream, provider="openai")

    assert answer.completion.text
    assert len({request.token for request in place.asked()}) == 2


async def test_a_provider_that_hangs_is_passed_by_after_a_while_although_it_has_a_fallback(tmp_path: Path) -> None:
    async with generating(tmp_path, script=HANGS, REQUEST_TIMEOUT="6", CIRCUIT_FAILURE_THRESHOLD="2") as place:
        await asked(place, prompt="Its SDK is loaded.", is_stream=True)
        for n in range(3):
            await asked(place, prompt=f"Question {n}.", is_stream=True, provider="openai", fallbacks=["claude"])

    assert [request.provider for request in place.asked()].count("openai") == 2


@pytest.mark.parametrize("provider", ["openai", "claude", "llama"])  # Gemini's SDK takes none
async def test_signs_of_life_are_no_answer(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path, MAX_RETRIES="0", REQUEST_TIMEOUT="2", TOKEN_QUOTA="100000") as place:
        for limits in ({}, {"timeout_s": 0.5}):
            with pytest.raises(ProviderTimeout):
                await asyncio.wait_for(
                    asked(place, is_stream=True, provider=provider, rehearse={"fault": "keep_alive"}, **limits), 10
                )
        answer = await asked(place, prompt="Another one.", is_stream=True, provider=provider)
        (quota,) = (await place.settled()).values()

    assert answer.completion.text
    assert quota["held"] == 0


async def test_a_stream_that_only_gives_signs_of_life_ends_at_its_deadline_and_is_paid(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000", MAX_CONCURRENT_REQUESTS="1") as place:
        fields: dict[str, Any] = {"rehearse": {"fault": "stall_alive", "chunks": 20}, "timeout_s": 1.5}
        with pytest.raises(ProviderTimeout):
            await asyncio.wait_for(asked(place, is_stream=True, **fields), 10)
        answer = await asked(place, prompt="Another one.", is_stream=True)  # the turn was given back
        (quota,) = (await place.settled()).values()
        late = (await place.app.oversight.calls(limit=2, org=""))[1]

    assert answer.completion.text
    assert quota["held"] == 0
    assert late["outcome"] == "provider_timeout"
    assert cast("int", late["cost_nusd"]) > 0
