"""Providers by name, by model, and whose keys an environment holds."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.policy.providers import (
    ALIASES,
    CLAUDE_CLI,
    KEY_NAMES,
    NAMES,
    canonical,
    of_model,
    pick_keys,
    provider_of_key,
)


def test_names_and_what_callers_also_call_them() -> None:
    assert [canonical(name) for name in NAMES] == list(NAMES)
    assert [canonical(f" {name.upper()} ") for name in ALIASES] == list(ALIASES.values())
    assert canonical("claude-cli") == CLAUDE_CLI
    assert canonical("mistral") == canonical("") == ""


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-6.1-sol", "openai"),
        ("GPT-6-luna", "openai"),
        ("o3", "openai"),
        ("ft:gpt-4o-mini:acme::abc", "openai"),
        ("gemini-4-argon", "gemini"),
        ("grok-4.7", "grok"),
        ("qwen3.8-max", "qwen"),
        ("qwen3:8b", "llama"),
        ("gpt-oss:20b-cloud", "llama"),
        ("claude-opus-5-5", CLAUDE_CLI),
        ("sonnet", CLAUDE_CLI),
        ("us.anthropic.claude-sonnet-4-5-v1:0", CLAUDE_CLI),
        ("llama3.1", ""),
        ("", ""),
    ],
)
def test_whose_model_that_is_by_its_name(model: str, provider: str) -> None:
    assert of_model(model) == provider


def test_keys_come_in_their_order_without_repeats_and_without_subscriptions() -> None:
    environ = {
        "OPENAI_API_KEY10": "ten",
        "OPENAI_API_KEY2": "two",
        "OPENAI_API_KEY": " bare ",
        "OPENAI_API_KEY3": "two",
        "OPENAI_API_KEY4": " ",
        "ANTHROPIC_API_KEY": "sk-ant-oat01-subscription",
        "ANTHROPIC_API_KEY1": "sk-ant-api03-x",
        "MY_OPENAI_API_KEY": "no",
        "OPENAI_API_KEY_OLD": "no",
    }

    assert pick_keys(environ) == [
        ("ANTHROPIC_API_KEY1", "sk-ant-api03-x"),
        ("OPENAI_API_KEY", "bare"),
        ("OPENAI_API_KEY2", "two"),
        ("OPENAI_API_KEY10", "ten"),
    ]


@pytest.mark.parametrize("digits", ["9" * 5_000, "²", "x"])
def test_a_number_that_is_none_names_no_key(digits: str) -> None:
    assert pick_keys({f"OPENAI_API_KEY{digits}": "x"}) == []
    assert provider_of_key(f"OPENAI_API_KEY{digits}") == ""


@given(st.sampled_from(sorted(KEY_NAMES)), st.none() | st.integers(0, 10**9 - 1))
def test_every_numbered_name_is_its_providers(provider: str, number: int | None) -> None:
    name = KEY_NAMES[provider] + ("" if number is None else str(number))

    assert provider_of_key(name) == provider
    assert pick_keys({name: "secret"}) == [(name, "secret")]
