"""The name that was meant."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.policy.providers import NAMES
from claude_jobs.policy.similar import did_you_mean, nearest

MODELS = ("gpt-5", "gpt-6.1-sol", "gpt-6-luna", "gemini-3.8-flash", "gemini-4-argon", "claude-sonnet-5-5", "qwen3:8b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("opanai", "openai"),
        ("OpenAI ", "openai"),
        ("gemeni", "gemini"),
        ("lama", "llama"),
        ("mistral", ""),
        ("", ""),
        ("q", "qwen"),
    ],
)
def test_a_provider_that_was_meant(name: str, expected: str) -> None:
    assert nearest(name, NAMES) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-6", "gpt-6-luna"),
        ("gpt6-luna", "gpt-6-luna"),
        ("claude-sonet-5-5", "claude-sonnet-5-5"),
        ("gemini-3.8-flsh", "gemini-3.8-flash"),
        ("qwen3", "qwen3:8b"),
        ("llama3.1", ""),
    ],
)
def test_a_model_that_was_meant(name: str, expected: str) -> None:
    assert nearest(name, MODELS) == expected


def test_a_message_ends_with_it() -> None:
    assert did_you_mean("opanai", NAMES) == " Did you mean 'openai'?"
    assert did_you_mean("zzz", NAMES) == ""


@given(name=st.text(), known=st.lists(st.text(max_size=12), max_size=8))
def test_what_is_meant_is_known(name: str, known: list[str]) -> None:
    near = nearest(name, known)

    assert near == "" or near in known


def test_an_endless_list_and_a_huge_name_are_bounded() -> None:
    assert nearest("x" * 10**6, (f"model-{number}" for number in range(10**6))) == ""
