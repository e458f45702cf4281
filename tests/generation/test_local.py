"""Ollama: asked for what names no provider (USE_LOCAL_LLM), and a fallback that is in nobody's way while it is absent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support_generation import generating

from claude_jobs.rehearsal.script import Action, Fault, Rule, Script
from claude_jobs.services.generation_request import GenerateRequest


@pytest.mark.parametrize("model", ["", "llama3.1", "qwen3:8b"])
async def test_what_names_no_provider_is_asked_of_ollama(tmp_path: Path, model: str) -> None:
    async with generating(tmp_path, USE_LOCAL_LLM="true") as place:
        ask = GenerateRequest.parse({"prompt": "Say hello.", "model": model}).ask(place.caller)
        answer = await place.app.generation.generate(ask)

    assert answer.route.provider == "llama"
    assert answer.paid.nusd == 0
    assert [request.provider for request in place.asked()] == ["llama"]


async def test_a_model_of_another_provider_is_asked_there(tmp_path: Path) -> None:
    async with generating(tmp_path, USE_LOCAL_LLM="true") as place:
        ask = GenerateRequest.parse({"prompt": "Say hello.", "model": "gpt-6-luna"}).ask(place.caller)
        answer = await place.app.generation.generate(ask)

    assert answer.route.provider == "openai"


async def test_a_fallback_to_ollama_that_is_absent_is_in_nobodys_way(tmp_path: Path) -> None:
    async with generating(tmp_path, OLLAMA_ENDPOINT="http://127.0.0.1:9", MAX_RETRIES="0") as place:
        answer = await place.generate(provider="openai", fallbacks=["llama"])
        failed = await place.fails(provider="openai", fallbacks=["llama"], rehearse={"fault": "500"})
        alone = await place.fails(provider="llama")
        between = await place.generate(provider="llama", fallbacks=["openai"])

    assert answer.route.provider == "openai"
    assert (failed.code, failed.provider) == ("provider_unavailable", "openai")  # type: ignore[attr-defined]
    assert (alone.code, alone.provider) == ("provider_unavailable", "llama")  # type: ignore[attr-defined]
    assert "ollama serve" in alone.message
    assert between.route.provider == "openai"


async def test_an_ollama_that_hangs_is_asked_for_its_model_only_when_its_turn_has_come(tmp_path: Path) -> None:
    hangs = Script(rules=(Rule(action=Action(fault=Fault.SILENCE), provider="llama", path="/api/"),))
    async with generating(tmp_path, script=hangs) as place:
        answer = await asyncio.wait_for(place.generate(provider="openai", fallbacks=["llama"]), 4)

    assert answer.route.provider == "openai"
    assert [request.provider for request in place.api.requests] == ["openai"]


async def test_a_fallback_without_a_model_is_answered_by_the_one_ollama_has(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0") as place:
        given: dict[str, Any] = {"provider": "openai", "fallbacks": ["llama"], "cache": "off"}
        answers = [await place.generate(rehearse={"fault": "500", "times": 1}, **given) for _ in range(2)]

    assert [answer.route.provider for answer in answers] == ["llama", "openai"]
    assert answers[0].route.model
