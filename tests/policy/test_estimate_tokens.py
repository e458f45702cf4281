"""Estimated tokens against a real tokenizer's counts, and requests as a whole."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given
from policy.token_texts import REFERENCE, TEXTS

from claude_jobs.domain.generation import (
    GenerationRequest,
    Image,
    Message,
    Role,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from claude_jobs.policy.estimate_tokens import IMAGE_TOKENS, MESSAGE_TOKENS, estimate_request, estimate_tokens


@pytest.mark.parametrize("kind", TEXTS)
def test_an_estimate_is_within_a_fifth(kind: str) -> None:
    text = TEXTS[kind]()
    digest, counted = REFERENCE[kind]

    assert hashlib.sha256(text.encode()).hexdigest()[:8] == digest, "the text is not the one that was counted"
    assert abs(estimate_tokens(text) / counted - 1) <= 0.2


@pytest.mark.parametrize("kind", TEXTS)
def test_parts_add_up_to_the_whole(kind: str) -> None:
    text = TEXTS[kind]()
    parts = [text[at : at + 500] for at in range(0, len(text), 500)]

    assert abs(sum(map(estimate_tokens, parts)) / estimate_tokens(text) - 1) <= 0.05


@given(text=st.text(alphabet=st.characters()))
def test_no_text_breaks_it(text: str) -> None:
    tokens = estimate_tokens(text)

    assert (tokens == 0) == (text == "")
    assert tokens <= 2 * len(text.encode("utf-8", "surrogatepass"))


def test_lone_surrogates_count_as_characters() -> None:
    assert estimate_tokens("\ud800") == 1


def test_one_unbroken_word_is_not_one_token() -> None:
    assert estimate_tokens("a" * 10_000) > 1_000
    assert estimate_tokens("7" * 9_000) > 2_500


def test_a_request_is_all_of_its_parts() -> None:
    question = Message(role=Role.USER, parts=(Text(text="What is in the picture?"),))
    bare = GenerationRequest(messages=(question,))
    picture = Message(role=Role.USER, parts=(Image(media_type="image/png", data="A" * 100_000),))
    full = GenerationRequest(
        messages=(
            question,
            picture,
            Message(
                role=Role.ASSISTANT,
                parts=(Thinking(text="Let me look."), ToolUse(id="1", name="look", arguments={"at": "the picture"})),
            ),
            Message(role=Role.USER, parts=(ToolResult(id="1", name="look", text="a harbour in winter"),)),
        ),
        system="Answer in one sentence.",
        tools=(Tool(name="look", description="Looks closely.", parameters={"type": "object", "properties": {}}),),
        output_schema={"type": "object", "properties": {"place": {"type": "string"}}},
    )

    assert estimate_request(bare) == estimate_tokens("What is in the picture?") + MESSAGE_TOKENS
    assert IMAGE_TOKENS + 60 < estimate_request(full) < IMAGE_TOKENS + 200
