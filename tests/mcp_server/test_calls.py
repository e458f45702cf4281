"""What a model sees of providers beside their answers: the models it may name, and the explanation of a call."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from mcp_types import TextResourceContents
from support_generation import Place, generating

from claude_jobs.domain.generation import ModelCard
from claude_jobs.front_desk import mcp_of
from claude_jobs.mcp_server.tools.model_lists import FEW_MODELS, MOST_MODELS, model_lists, models_text
from claude_jobs.policy.providers import NAMES
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.script import Action, Rule, Script
from claude_jobs.services.generation_api import ModelList


def client(place: Place) -> Client[Any]:
    return Client(mcp_of(place.app, place.caller))


async def listed(connected: Client[Any], **arguments: str) -> dict[str, Any]:
    result = await connected.call_tool("list_models", arguments)
    assert result.structured_content is not None
    return result.structured_content


async def explained(connected: Client[Any], call_id: str) -> str:
    (content,) = await connected.read_resource(f"call://{call_id}/explain")
    assert isinstance(content, TextResourceContents)
    return content.text


async def test_the_models_of_jobs_come_first_then_some_of_each_provider(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        found = await listed(connected)

    assert list(found) == ["models", "providers"]
    assert [model["name"] for model in found["models"] if model.get("is_default")] == ["sonnet"]
    assert [one["provider"] for one in found["providers"]] == list(NAMES)
    assert all(len(one["models"]) <= FEW_MODELS for one in found["providers"])


async def test_providers_without_a_key_or_away_are_named_with_what_is_known_of_them(tmp_path: Path) -> None:
    broken = Rule(path="models|tags", action=Action(fault=Fault.SERVER_ERROR))
    async with generating(tmp_path, script=Script(rules=(broken,))) as place:
        keyless = replace(place.caller, keys=())
        async with Client(mcp_of(place.app, keyless)) as connected:
            providers = {one["provider"]: one for one in (await listed(connected))["providers"]}

    assert providers["openai"]["note"] == "not live: set OPENAI_API_KEY"
    assert providers["openai"]["models"][0] == providers["openai"]["default"]
    assert providers["llama"]["note"].startswith("not live: ")


async def test_one_provider_tells_all_of_its_models(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        by_alias = await listed(connected, provider="xai")
        by_name = await listed(connected, provider="grok")
        jobs = await listed(connected, provider="claude-cli")
        with pytest.raises(ToolError, match=r"Unknown provider 'gork'\. Did you mean 'grok'"):
            await listed(connected, provider="gork")

    assert list(by_name) == ["providers"]
    assert [one["provider"] for one in by_name["providers"]] == ["grok"]
    assert len(by_name["providers"][0]["models"]) >= 3
    assert by_alias == by_name
    assert "providers" not in jobs
    assert {model["name"] for model in jobs["models"]} >= {"haiku", "sonnet", "opus"}


def test_however_many_models_there_are_the_list_is_bounded() -> None:
    cards = [ModelCard(id=f"model-{n}", provider="openai", is_default=n == 900) for n in range(1_000)]
    found = ModelList(models=(*cards, ModelCard(id="x" * 999, provider="qwen")), notes={"llama": "away " * 999})
    few, most = (model_lists(found, per_provider=count) for count in (FEW_MODELS, MOST_MODELS))

    assert [one["provider"] for one in few] == ["openai", "qwen", "llama"]
    assert few[0]["models"][:2] == ["model-900", "model-0"]
    assert few[0]["more"] == 1_000 - FEW_MODELS
    assert len(models_text(few)) < 600
    assert len(most[0]["models"]) == MOST_MODELS
    assert models_text(few).splitlines()[0].endswith("model-3 and 995 more")


async def test_a_call_is_explained_step_by_step(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0") as place, client(place) as connected:
        answer = await connected.call_tool(
            "generate",
            {
                "prompt": 'Try. rehearse: {"fault": "503", "times": 1}',
                "provider": "openai",
                "options": {"fallbacks": ["claude"]},
            },
        )
        call_id = re.findall(r"\[(g-\w+): ", answer.content[0].text)[0]  # type: ignore[union-attr]
        told = (await explained(connected, call_id)).splitlines()

    assert told[0].startswith(f"{call_id} ok, claude/claude-")
    assert "org default" in told[0] and "$0.0" in told[0]
    kinds = [line.split()[2:4] for line in told[1:]]
    assert ["fallback", "next"] in kinds
    assert [outcome for what, outcome in kinds if what == "attempt"] == ["overloaded", "ok"]
    assert "sk-rehearsal" not in "".join(told)


async def test_a_call_that_nobody_knows_says_what_lists_them(tmp_path: Path) -> None:
    async with generating(tmp_path) as place, client(place) as connected:
        with pytest.raises(Exception, match="No call 'g-none' is on record"):
            await explained(connected, "g-none")
