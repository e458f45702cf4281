"""Framing and parsing, with lines as the real CLI writes them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.domain.token import Window
from claude_jobs.runner.stream import (
    Assistant,
    Denied,
    Init,
    LineFramer,
    Other,
    RateLimit,
    Result,
    ToolResults,
    ToolUse,
    parse,
    phrase,
)

RESULT = (
    b'{"duration_api_ms":20,"stop_reason":"end_turn","session_id":"88d3","total_cost_usd":0.00004,"usage":{"input_tokens":5,'
    b'"cache_creation_input_tokens":2,"cache_read_input_tokens":1,"output_tokens":3,"service_tier":"standard"},"modelUsage":'
    b'{"claude-sonnet-5-5":{"inputTokens":5,"outputTokens":3,"costUSD":0.00004}},"permission_denials":[{"tool_name":"Bash",'
    b'"tool_use_id":"t","tool_input":{}}],"terminal_reason":"completed","is_error":false,"num_turns":1,"subtype":"success",'
    b'"api_error_status":null,"result":"ok","type":"result","duration_ms":90,"uuid":"91b4"}'
)
LIMIT = (
    b'{"type":"rate_limit_event","rate_limit_info":{"status":"allowed","resetsAt":1795248971,"rateLimitType":"five_hour",'
    b'"overageStatus":"rejected","isUsingOverage":false,"unifiedWindows":{"five_hour":{"utilization":0.2,"resetsAt":1795248971,'
    b'"status":"allowed"},"seven_day":{"utilization":0.3,"resetsAt":1795677371,"status":"allowed"}}},"uuid":"4","session_id":"8"}'
)


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_survive_any_chunking(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines)
    framer = LineFramer()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += framer.push(stream[:size])
        stream = stream[size:]

    assert [*found, *framer.close()] == [line for line in lines if line]


def test_a_line_over_the_cap_is_skipped_and_the_next_is_whole() -> None:
    framer = LineFramer(10)
    found = [
        line for chunk in (b"12345", b"67890x", b"yz\nnext\n", b"0123456789ab\nlast\n") for line in framer.push(chunk)
    ]

    assert found == [b"next", b"last"]
    assert framer.skipped == 2


def test_a_result_is_read_whatever_the_order_of_its_keys() -> None:
    event = parse(RESULT)

    assert isinstance(event, Result)
    assert (event.text, event.is_error, event.turns, event.cost_nusd) == ("ok", False, 1, 40_000)
    assert (event.usage.input_tokens, event.usage.output_tokens, event.usage.cache_write_tokens) == (5, 3, 2)
    assert event.denied == ("Bash",)
    assert event.model == "claude-sonnet-5-5"


def test_utilisation_is_read_per_window() -> None:
    event = parse(LIMIT)

    assert isinstance(event, RateLimit)
    assert event.windows["seven_day"] == Window(utilization=0.3, resets_at_ms=1_795_677_371_000)
    assert (event.status, event.window, event.resets_at_ms) == ("allowed", "five_hour", 1_795_248_971_000)


def test_tools_are_told_in_a_phrase() -> None:
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "make\n test", "timeout": 5}}
    line = json.dumps(
        {"type": "assistant", "message": {"id": "m", "model": "x", "content": [block]}, "parent_tool_use_id": None}
    )
    event = parse(line.encode())

    assert isinstance(event, Assistant)
    assert event.tool_uses == (ToolUse(id="t1", name="Bash", what="make test"),)
    assert not event.is_nested


def test_tool_results_denials_and_init_are_known() -> None:
    results = parse(b'{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}')
    denied = parse(b'{"type":"system","subtype":"permission_denied","tool_name":"Write","tool_use_id":"t"}')
    init = parse(
        b'{"type":"system","subtype":"init","session_id":"s","model":"m","tools":["Bash",3],"claude_code_version":"2"}'
    )

    assert results == ToolResults(ids=("t1",))
    assert denied == Denied(tool="Write")
    assert init == Init(session_id="s", model="m", version="2", tools=("Bash",))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "subtype", "message", "content", "usage", "result", "event", "rate_limit_info", "id"]
                )
                | st.text(max_size=3),
                inner
                | st.sampled_from(
                    ["assistant", "user", "result", "system", "init", "stream_event", "rate_limit_event"]
                ),
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_nothing_that_is_json_is_an_error(value: object) -> None:
    parse(json.dumps(value).encode())


def test_what_is_not_json_is_a_sign_of_life_only() -> None:
    assert [parse(line) for line in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000)] == [Other(type="unparsable")] * 5


def test_a_phrase_is_one_short_line() -> None:
    assert phrase(" a\n b ") == "a b"
    assert len(phrase("word " * 10_000)) == 120
