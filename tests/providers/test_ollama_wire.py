"""Ollama's wire without a server: windows, what is known of models, messages, lines."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from providers.support_calls import asking, user

from claude_jobs.domain.generation import (
    FinishReason,
    Image,
    Message,
    Provenance,
    Role,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from claude_jobs.providers.contract import rules_of, shape
from claude_jobs.providers.ollama_wire import Known, Lines, Reader, body_of, known_from, rules_for, window


def _body(*messages: Message | str, **more: Any) -> dict[str, Any]:
    shaped = shape(asking("qwen3:8b", *messages, **more).request, "llama")
    return body_of(shaped, num_ctx=None, is_stream=True)


@pytest.mark.parametrize(
    ("prompt", "output", "known", "expected"),
    [
        (100, 1_000, Known(), None),
        (2_000, 4_000, Known(), 8_192),
        (9_000, 4_000, Known(), 16_384),
        (9_000, 100_000, Known(), 16_384),
        (9_000, 4_000, Known(num_ctx=32_768), None),
        (100_000, 4_000, Known(num_ctx=32_768), 131_072),
        (100_000, 4_000, Known(context=131_072), 131_072),
        (100, None, Known(context=2_048), 2_048),
    ],
)
def test_a_window_fits_prompt_and_answer(prompt: int, output: int | None, known: Known, expected: int | None) -> None:
    assert window(prompt, output, known) == expected


def test_what_the_server_says_of_a_model_goes_before_the_table() -> None:
    shown = {
        "model_info": {"general.architecture": "gemma4", "gemma4.context_length": 131_072},
        "parameters": 'stop "<end>"\nnum_ctx                        16384\ntop_k 64',
        "capabilities": ["completion", "vision"],
    }

    known = known_from(shown)
    rules = rules_for(rules_of("llama", "gemma4:12b"), known)

    assert known == Known(context=131_072, num_ctx=16_384, can=frozenset({"completion", "vision"}))
    assert (rules.context, rules.tools, rules.vision, rules.thinking) == (131_072, False, True, False)
    assert not rules.effort


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    shown=st.dictionaries(st.sampled_from(("model_info", "parameters", "capabilities", "other")), json_values),
)
def test_odd_words_of_the_server_are_unknown(shown: dict[str, Any]) -> None:
    known = known_from(shown)

    assert known.context >= 0
    assert known.num_ctx >= 0


def test_a_whole_conversation_on_the_wire() -> None:
    body = _body(
        user("Look:", Image(media_type="image/png", data="QUJD")),
        Message(
            role=Role.ASSISTANT,
            parts=(Thinking(text="Hm."), Text(text="Wait."), ToolUse(id="a", name="look", arguments={"at": 1})),
        ),
        user(ToolResult(id="a", name="look", text="dark", is_error=True), "And?"),
        system="Be brief.",
        tools=(Tool(name="look", description="Looks."),),
        output_schema={"type": "object"},
        effort="high",
        stop=("END",),
        seed=7,
        temperature=0.5,
    )

    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look:", "images": ["QUJD"]},
        {
            "role": "assistant",
            "content": "Wait.",
            "thinking": "Hm.",
            "tool_calls": [{"id": "a", "function": {"name": "look", "arguments": {"at": 1}}}],
        },
        {"role": "tool", "content": "Error: dark", "tool_name": "look", "tool_call_id": "a"},
        {"role": "user", "content": "And?"},
    ]
    assert body["tools"][0]["function"]["name"] == "look"
    assert body["format"] == {"type": "object"}
    assert body["think"] is True
    assert body["options"] == {"num_predict": 1_000, "stop": ["END"], "seed": 7, "temperature": 0.5}
    assert (body["truncate"], body["shift"]) == (False, False)
    json.dumps(body)


def test_no_tools_are_told_to_one_who_may_not_use_them() -> None:
    assert "tools" not in _body("x", tools=(Tool(name="look"),), tool_choice="none")


@given(text=st.text(max_size=50), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_lines_are_whole_wherever_they_are_cut(text: str, cuts: list[int]) -> None:
    said = [json.dumps({"text": text, "at": at}).encode() for at in range(3)]
    data = b"\n".join(said) + b"\n"
    lines = Lines()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    found = [line for at, to in pairwise(edges) for line in lines.push(data[at:to])]

    assert found == said
    assert lines.rest() == b""


def test_the_last_line_may_lack_its_end() -> None:
    lines = Lines()

    assert lines.push(b'{"a": 1}\n{"b"') == [b'{"a": 1}']
    assert lines.rest() == b'{"b"'


def test_an_endless_line_is_no_answer() -> None:
    lines = Lines()

    with pytest.raises(ValueError, match="too long"):
        for _ in range(20):
            lines.push(b"x" * 1024 * 1024)


def _line(content: str = "", *, done: bool = False, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return json.dumps({"model": "m", "message": message, "done": done, **more}).encode()


def test_an_answer_is_put_together() -> None:
    reader = Reader(shape(asking("m", "x").request, "llama"))
    call = {"function": {"name": "look", "arguments": {"at": 1}}}

    deltas = [*reader.feed(_line("Hal")), *reader.feed(_line("lo", message={"tool_calls": [call]}))]
    reader.feed(_line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2))
    completion = reader.completion(None)

    assert deltas[:2] == [TextDelta(text="Hal"), TextDelta(text="lo")]
    assert completion.text == "Hallo"
    assert completion.tool_calls == (ToolUse(id="call_0", name="look", arguments={"at": 1}),)
    assert completion.finish is FinishReason.TOOL_CALLS
    assert (completion.tokens.input, completion.tokens.output) == (3, 2)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", FinishReason.LENGTH), ("load", FinishReason.OTHER), ("", FinishReason.OTHER)],
)
def test_why_it_ended(reason: str, expected: FinishReason) -> None:
    reader = Reader(shape(asking("m", "x").request, "llama"))
    reader.feed(_line("a", done=True, done_reason=reason))

    completion = reader.completion(None)

    assert completion.finish is expected
    assert completion.tokens.provenance is Provenance.UNKNOWN
