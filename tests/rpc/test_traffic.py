"""What the bridge remembers, and what it says while there is no worker."""

from __future__ import annotations

import json

import pytest
from mcp_types import CallToolResult, DiscoverResult, InitializeResult, ListToolsResult

from claude_jobs.rpc import offline
from claude_jobs.rpc.pipes import LineReader
from claude_jobs.rpc.traffic import REPLAY_ID, Traffic, parse

INITIALIZE: dict[str, object] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25"},
}


def said(traffic: Traffic, message: dict[str, object]) -> bool:
    return traffic.from_client(message, json.dumps(message).encode() + b"\n")


def handshaken() -> Traffic:
    traffic = Traffic()
    said(traffic, INITIALIZE)
    traffic.from_worker({"id": 0, "result": {}})
    said(traffic, {"method": "notifications/initialized"})
    return traffic


def test_a_tool_call_is_answered_and_a_reading_request_asked_again_but_once() -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "tools/call"})
    said(traffic, {"id": "a", "method": "tools/list"})

    answers, again = traffic.lost()
    second_answers, second_again = traffic.lost()

    assert [json.loads(line)["id"] for line in answers] == [1]
    assert again == [b'{"id": "a", "method": "tools/list"}\n']
    assert [json.loads(line)["id"] for line in second_answers] == ["a"]
    assert second_again == []
    assert traffic.is_idle


def test_calls_of_tools_that_only_read_and_calls_with_a_key_are_asked_again() -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "tools/list"})
    listed = b"""[{"name": "status", "annotations": {"readOnlyHint": true}}, {"name": "spawn", "annotations": {}}, {"name": "x"}]"""
    traffic.from_worker({"id": 1, "result": {"tools": json.loads(listed)}})
    said(traffic, {"id": 2, "method": "tools/call", "params": {"name": "status"}})
    said(traffic, {"id": 3, "method": "tools/call", "params": {"name": "spawn", "arguments": {"key": "k"}}})
    said(traffic, {"id": 4, "method": "tools/call", "params": {"name": "spawn", "arguments": {"task": "t"}}})
    said(traffic, {"id": 5, "method": "tools/call", "params": [1]})

    answers, again = traffic.lost()

    assert [json.loads(line)["id"] for line in again] == [2, 3]
    assert [json.loads(line)["id"] for line in answers] == [4, 5]


@pytest.mark.parametrize("result", [None, [], {"tools": 1}, {"tools": [1]}, {"tools": [{"annotations": 1}]}])
def test_a_strange_list_of_tools_teaches_nothing(result: object) -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "tools/list"})

    assert traffic.from_worker({"id": 1, "result": result})
    assert traffic.is_idle


def test_what_was_answered_or_cancelled_is_forgotten() -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "tools/call"})
    said(traffic, {"id": 2, "method": "tools/call"})

    traffic.from_worker({"id": 1, "result": {}})
    said(traffic, {"method": "notifications/cancelled", "params": {"requestId": 2}})

    assert traffic.is_idle
    assert traffic.lost() == ([], [])


def test_ids_one_and_one_as_text_are_two() -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "tools/call"})
    said(traffic, {"id": "1", "method": "tools/call"})

    traffic.from_worker({"id": "1", "result": {}})

    assert not traffic.is_idle


def test_the_handshake_is_replayed_under_an_id_of_our_own_and_its_answer_kept_back() -> None:
    traffic = handshaken()

    first, second = (json.loads(line) for line in traffic.replay())

    assert first == {**INITIALIZE, "id": REPLAY_ID}
    assert second["method"] == "notifications/initialized"
    assert traffic.from_worker({"id": REPLAY_ID, "result": {}}) is False


def test_a_client_of_the_stateless_era_needs_no_replay() -> None:
    traffic = Traffic()
    said(traffic, {"id": 1, "method": "server/discover"})

    assert traffic.replay() == []
    assert not traffic.is_legacy


def test_an_initialize_under_way_is_asked_again_instead_of_replayed() -> None:
    traffic = Traffic()
    said(traffic, INITIALIZE)

    assert len(traffic.lost()[1]) == 1
    assert traffic.replay() == []


def test_an_answer_to_a_worker_that_is_gone_is_kept_back() -> None:
    traffic = handshaken()
    traffic.from_worker({"id": 7, "method": "roots/list"})
    assert said(traffic, {"id": 7, "result": {}})

    traffic.lost()

    assert not said(traffic, {"id": 7, "result": {}})


@pytest.mark.parametrize("line", [b"", b"x", b"1", b"[]", b'"a"', b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_none(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_cut_wherever_the_chunks_end(size: int) -> None:
    text = b"one\n\ntwo\r\nthree four\n  \nfive\nsix"
    reader = LineReader(1_000)

    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    lines = [line for chunk in chunks for line in reader.feed(chunk)]

    assert lines == [b"one", b"two\r", b"three four", b"five"]
    assert reader.feed(b"\n") == [b"six"]


@pytest.mark.parametrize("size", [3, 10, 90])
def test_a_line_beyond_the_limit_is_dropped_and_counted_and_the_next_one_read(size: int) -> None:
    text = b"a\n" + b"x" * 200 + b"\nb\n"
    reader = LineReader(100)

    lines = [line for at in range(0, len(text), size) for line in reader.feed(text[at : at + size])]

    assert lines == [b"a", b"b"]
    assert reader.dropped == 1


def result(method: str, *, is_legacy: bool, **params: object) -> dict[str, object]:
    message = {"id": 1, "method": method, "params": params}
    return json.loads(offline.answer(message, "Because.", is_legacy=is_legacy))["result"]


def test_offline_answers_are_valid_in_both_eras() -> None:
    for is_legacy in (True, False):
        assert ListToolsResult.model_validate(result("tools/list", is_legacy=is_legacy)).tools[0].name == "status"
        called = CallToolResult.model_validate(result("tools/call", is_legacy=is_legacy, name="spawn"))
        assert called.is_error
        assert called.model_dump()["content"][0]["text"] == "Because."
        assert result("prompts/list", is_legacy=is_legacy)["prompts"] == []
    discovered = DiscoverResult.model_validate(result("server/discover", is_legacy=False))
    assert (discovered.supported_versions, discovered.instructions) == (["2026-07-28"], "Because.")
    assert result("ping", is_legacy=True) == {}


@pytest.mark.parametrize(
    ("asked", "given"), [("2025-03-26", "2025-03-26"), ("1999-01-01", "2025-11-25"), (None, "2025-11-25")]
)
def test_the_offline_handshake_agrees_on_a_version(asked: str | None, given: str) -> None:
    answered = InitializeResult.model_validate(result("initialize", is_legacy=True, protocolVersion=asked))

    assert answered.protocol_version == given
    assert answered.instructions == "Because."


def test_what_has_no_offline_answer_is_an_error_with_the_cause() -> None:
    answer = json.loads(offline.answer({"id": 1, "method": "resources/read"}, "Because.", is_legacy=True))

    assert answer["error"]["message"] == "Because."
