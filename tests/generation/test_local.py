"""USE_LOCAL_LLM: what names no provider is asked of Ollama, unless its model says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_generation import generating

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
