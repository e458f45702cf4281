"""What a model takes of a request, by the rules of models.toml."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from datetime import date
from importlib import resources
from typing import Any, get_args

import pytest
from genai_prices import Usage, calc_price
from providers.support_calls import asking, user

from claude_jobs.domain.generation import Effort, Image, Message, Role, Text, Tool
from claude_jobs.errors import RequestRefused
from claude_jobs.policy.providers import NAMES
from claude_jobs.providers.contract import Rules, card_of, rules_of, shape
from claude_jobs.providers.registry import DEFAULT_MODELS, PROVIDERS

TOOL = Tool(name="look")
TABLE: dict[str, Any] = tomllib.loads(
    resources.files("claude_jobs.providers").joinpath("models.toml").read_text("utf-8")
)
PRICED = {"openai": "openai", "claude": "anthropic", "gemini": "google", "grok": "x-ai"}


def shaped(provider: str, model: str, **more: Any) -> tuple[dict[str, Any], str]:
    """The parameters, and the warnings as one text."""
    found = shape(asking(model, "Hello.", **more).request, provider)
    return found.params, "\n".join(found.warnings)


def test_every_provider_has_a_table_and_a_place() -> None:
    assert set(TABLE) - {"as_of"} == set(NAMES) == set(PROVIDERS) == set(DEFAULT_MODELS)


def test_the_table_is_dated_and_not_from_the_future() -> None:
    assert date(2026, 11, 1) <= date.fromisoformat(TABLE["as_of"])


@pytest.mark.parametrize("provider", NAMES)
def test_the_table_uses_words_that_exist(provider: str) -> None:
    known = {each.name for each in fields(Rules)} - {"provider", "model", "names"}
    table = TABLE[provider]

    for rules in (table["rules"], *table.get("families", ())):
        assert set(rules) - {"match"} <= known
        assert set(rules.get("effort", {})) <= set(get_args(Effort))
    for family in table.get("families", ()):
        for prefix in family["match"]:
            assert prefix == prefix.lower()
            rules_of(provider, prefix)


@pytest.mark.parametrize(("provider", "priced_as"), PRICED.items())
def test_a_default_model_is_known_to_others(provider: str, priced_as: str) -> None:
    price = calc_price(Usage(input_tokens=1, output_tokens=1), DEFAULT_MODELS[provider], provider_id=priced_as)

    assert price.model is not None


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "max_completion_tokens"),
        ("claude", "max_tokens"),
        ("qwen", "max_tokens"),
        ("grok", "max_output_tokens"),
    ],
)
def test_the_output_cap_has_each_apis_name(provider: str, name: str) -> None:
    params, warned = shaped(provider, DEFAULT_MODELS[provider], max_output_tokens=77)

    assert params[name] == 77
    assert warned == ""


def test_a_cap_above_the_models_is_lowered() -> None:
    params, warned = shaped("claude", "claude-haiku-4-5", max_output_tokens=100_000)

    assert params["max_tokens"] == 64_000
    assert "100000 became 64000" in warned


@pytest.mark.parametrize(
    ("provider", "model", "kept"),
    [
        ("claude", "claude-sonnet-5-5", set[str]()),
        ("claude", "claude-opus-4-6", {"temperature"}),
        ("openai", "gpt-4.1", {"temperature", "top_p", "seed", "stop"}),
        ("openai", "o3", {"seed"}),
        ("openai", "gpt-6-luna", {"seed"}),
        ("grok", "grok-4.7", {"temperature", "top_p"}),
        ("qwen", "qwen3.8-max", {"temperature", "top_p", "seed", "stop"}),
    ],
)
def test_what_is_not_taken_is_dropped_and_named(provider: str, model: str, kept: set[str]) -> None:
    params, warned = shaped(provider, model, temperature=0.5, top_p=0.9, seed=1, stop=("a",))

    stop = rules_of(provider, model).names.get("stop", "stop")
    for name in ("temperature", "top_p", "seed"):
        assert (name in params) == (name in kept)
        assert (f"{name} is dropped" in warned) == (name not in kept)
    assert (stop in params) != ("stop is dropped" in warned)


def test_sampling_is_taken_from_a_model_that_does_not_think() -> None:
    params, warned = shaped("openai", "gpt-6-luna", temperature=0.5, stop=("a",), effort="none")

    expected = {"max_completion_tokens": 1_000, "temperature": 0.5, "stop": ["a"], "reasoning_effort": "none"}
    assert params == expected
    assert warned == ""


def test_a_temperature_over_the_highest_is_lowered() -> None:
    params, warned = shaped("claude", "claude-sonnet-4-6", temperature=1.7)

    assert params["temperature"] == 1.0
    assert "1.7 became 1.0" in warned


@pytest.mark.parametrize(
    ("provider", "model", "effort", "added", "warns"),
    [
        ("openai", "gpt-6-luna", "high", {"reasoning_effort": "high"}, False),
        ("openai", "gpt-5-mini", "none", {"reasoning_effort": "minimal"}, False),
        ("openai", "o3", "none", {"reasoning_effort": "low"}, True),
        ("openai", "gpt-4.1", "high", {}, True),
        ("openai", "gpt-4.1", "none", {}, False),
        ("claude", "claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}, False),
        ("claude", "claude-haiku-5-5", "none", {"thinking": {"type": "disabled"}}, False),
        ("claude", "claude-haiku-4-5", "low", {"thinking": {"type": "enabled", "budget_tokens": 2_048}}, False),
        ("grok", "grok-4.7", "none", {"reasoning": {"effort": "low"}}, True),
        ("grok", "grok-4-1-fast-reasoning", "low", {}, True),
        ("qwen", "qwen3.8-flash", "none", {"enable_thinking": False}, False),
        ("llama", "gpt-oss:20b", "medium", {"think": "medium"}, False),
    ],
)
def test_an_effort_becomes_the_models_own(
    provider: str, model: str, effort: str, added: dict[str, Any], *, warns: bool
) -> None:
    params, warned = shaped(provider, model, effort=effort, max_output_tokens=8_000)

    assert {key: value for key, value in params.items() if value != 8_000} == added
    assert ("effort" in warned) == warns


def test_an_always_thinking_model_thinks_little_when_asked_for_nothing() -> None:
    params, warned = shaped("claude", "claude-opus-5-5", effort="none")

    assert params["output_config"] == {"effort": "low"}
    assert "became 'low'" in warned


def test_a_budget_of_thought_leaves_room_for_the_answer() -> None:
    roomy, _ = shaped("claude", "claude-haiku-4-5", effort="high", max_output_tokens=30_000)
    tight, _ = shaped("claude", "claude-haiku-4-5", effort="high", max_output_tokens=4_000)
    none, warned = shaped("claude", "claude-haiku-4-5", effort="high", max_output_tokens=500)

    assert roomy["thinking"]["budget_tokens"] == 15_000
    assert tight["thinking"]["budget_tokens"] == 2_000
    assert "thinking" not in none
    assert "no room to think" in warned


def test_a_budget_of_thought_goes_with_neither_sampling_nor_force() -> None:
    call = asking(
        "claude-haiku-4-5",
        "Hi.",
        effort="low",
        max_output_tokens=9_000,
        temperature=0.3,
        tools=(TOOL,),
        tool_choice="required",
    )

    found = shape(call.request, "claude")

    assert found.request.tool_choice == "auto"
    assert "temperature" not in found.params
    assert len(found.warnings) == 2


def test_the_tables_values_are_never_changed() -> None:
    before = rules_of("claude", "claude-haiku-4-5").effort["high"]["thinking"]["budget_tokens"]
    shaped("claude", "claude-haiku-4-5", effort="high", max_output_tokens=4_000)

    assert rules_of("claude", "claude-haiku-4-5").effort["high"]["thinking"]["budget_tokens"] == before


@pytest.mark.parametrize(
    ("provider", "model", "more", "says"),
    [
        ("claude", "claude-opus-5-5", {"tools": (TOOL,), "tool_choice": "required"}, "tool_choice 'auto'"),
        ("claude", "claude-3-haiku", {"output_schema": {"type": "object"}}, "output_schema"),
        ("openai", "gpt-4.1", {"stop": ("a", "b", "c", "d", "e")}, "at most 4"),
        ("qwen", "qwen3.8-flash", {"messages": "image"}, "images"),
        ("claude", "claude-sonnet-5-5", {"messages": "begun"}, "user's message"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(
    provider: str, model: str, more: dict[str, Any], says: str
) -> None:
    request = asking(model, "Hello.", **{key: value for key, value in more.items() if key != "messages"}).request
    if more.get("messages") == "image":
        request = replace(
            request, messages=(Message(role=Role.USER, parts=(Image(media_type="image/png", data="AA=="),)),)
        )
    if more.get("messages") == "begun":
        begun = Message(role=Role.ASSISTANT, parts=(Text(text="So"),))
        request = replace(request, messages=(user("Go on."), begun))

    with pytest.raises(RequestRefused, match=says) as caught:
        shape(request, provider)

    assert (caught.value.provider, caught.value.model) == (provider, model)
    assert not caught.value.is_provider_fault


def test_qwen_is_not_forced_and_does_not_think_before_json() -> None:
    call = asking(
        "qwen3.8-flash", "Hi.", tools=(TOOL,), tool_choice="look", effort="high", output_schema={"type": "object"}
    )

    found = shape(call.request, "qwen")

    assert found.request.tool_choice == "auto"
    assert found.params["enable_thinking"] is False
    assert len(found.warnings) == 3


@pytest.mark.parametrize("provider", NAMES)
def test_a_model_nobody_knows_has_its_providers_rules(provider: str) -> None:
    params, _ = shaped(provider, "brand-new-model-9")
    card = card_of(provider, "brand-new-model-9")

    assert 1_000 in params.values()
    assert (card.provider, card.id, card.is_default, card.is_live) == (provider, "brand-new-model-9", False, False)


def test_the_longest_prefix_decides() -> None:
    assert rules_of("openai", "gpt-5.4-mini").context == 400_000
    assert rules_of("openai", "gpt-5.4").context == 1_050_000
    assert rules_of("openai", "gpt-5-2025-08-07").context == 400_000
    assert rules_of("gemini", "models/gemini-2.5-pro").effort.get("high") == {
        "thinking_config": {"thinking_budget": 32_768}
    }
