"""The tool generate with a provider: the answer, how it came and what it cost, in bounded text; errors name the next step."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from support_generation import Place, generating

from claude_jobs.front_desk import mcp_of


def client(place: Place, mode: str = "auto") -> Client[Any]:
    return Client(mcp_of(place.app, place.caller), mode=mode)


async def said(connected: Client[Any], **arguments: Any) -> str:
    result = await connected.call_tool("generate", arguments)
    return "\n".join(block.text for block in result.content)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_provider_answers_with_route_and_cost(tmp_path: Path, mode: str) -> None:
    async with generating(tmp_path) as place, client(place, mode) as connected:
        first = await said(connected, prompt="Say hello.", provider="openai")
        again = await said(connected, prompt="Say hello.", provider="openai")

    assert first.startswith("Rehearsed: Say hello.")
    assert "openai/gpt" in first
    assert "$0.0" in first
    assert ", hit (" in again
    assert len(place.asked()) == 1


async def test_the_models_name_is_enough(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        answer = await said(connected, prompt="Say hello.", model="gemini-3.8-flash")

    assert "gemini/gemini-3.8-flash" in answer


async def test_options_reach_the_path(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0") as place, client(place) as connected:
        answer = await said(
            connected,
            prompt='Try. rehearse: {"fault": "503", "times": 1}',
            provider="openai",
            options={"fallbacks": ["claude"], "max_tokens": 50},
        )

    assert "claude/claude" in answer
    assert "2 attempts" in answer


async def test_a_long_answer_is_bounded(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        answer = await said(connected, prompt='Much. rehearse: {"reply_kb": 60}', provider="claude")

    assert len(answer) < 21_000
    assert "characters shown" in answer


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"provider": "opnai"}, "openai"),
        ({"provider": "openai", "key": "k"}, "Leave it out"),
        ({"provider": "openai", "options": {"tempature": 1}}, "temperature"),
        ({"provider": "openai", "options": {"fallbacks": ["nobody"]}}, "nobody"),
    ],
)
async def test_bad_input_names_the_next_step(tmp_path: Path, arguments: dict[str, Any], advice: str) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        with pytest.raises(ToolError, match=advice):
            await said(connected, prompt="Say hello.", **arguments)


async def test_while_it_streams_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with generating(tmp_path) as place, client(place) as connected:
        prompt = 'Slowly. rehearse: {"chunks": 20, "duration_s": 3}'
        arguments = {"prompt": prompt, "provider": "claude"}
        await connected.call_tool("generate", arguments, progress_handler=note)

    assert any("characters" in message for message in told)


async def test_the_same_question_asked_at_once_is_one_call(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        prompt = 'The same. rehearse: {"delay_s": 3}'
        told = await asyncio.gather(*(said(connected, prompt=prompt, provider="openai") for _ in range(5)))

    assert len(place.asked()) == 1
    assert sum(", coalesced (" in text for text in told) == 4
