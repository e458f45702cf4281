"""Generation over HTTP against the rehearsal API: answers, streams, statuses, batches, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support_app import until
from support_web import Served, rehearse, serving

from claude_jobs.rehearsal.script import Action, Rule, Script
from claude_jobs.web import streams


def events(text: str) -> list[tuple[str, Any]]:
    """(event, data) of server-sent events; comments are left out."""
    found: list[tuple[str, Any]] = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_an_answer_says_all_about_itself_and_is_free_the_second_time(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="Hello.", usage={"input": 100, "output": 10})
    async with serving(tmp_path) as served:
        first = (await served.post("/tools/generate", prompt=prompt, model="openai/gpt-5-mini", org="acme")).json()
        again = (await served.post("/tools/generate", prompt=prompt, model="gpt-5-mini", org="acme")).json()
        other = (await served.post("/tools/generate", prompt=prompt, provider="openai", model="gpt-5-mini")).json()
        anew = await served.post(
            "/tools/generate", prompt=prompt, provider="openai", model="gpt-5-mini", org="acme", cache="refresh"
        )
        refreshed = anew.json()

    assert (first["text"], first["finish_reason"], first["provider"]) == ("Hello.", "stop", "openai")
    assert first["parts"] == [{"type": "text", "text": "Hello."}]
    assert (first["usage"]["input_tokens"], first["usage"]["output_tokens"]) == (100, 10)
    assert first["usage"]["provenance"] == "reported"
    assert first["cost_usd"] == first["cost_nusd"] / 1e9 > 0
    assert first["price"] and first["org"] == "acme" and first["route"]["key"]
    assert [step["what"] for step in first["explain"]][-1] in ("attempt", "settle")
    assert (again["cached"], again["cost_usd"], again["text"]) == ("hit", 0, "Hello.")
    assert other["cached"] == ""
    assert refreshed["cached"] == "" and refreshed["id"] != first["id"]
    assert len(served.api.requests) == 3


async def test_a_stream_is_deltas_and_the_answer(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="abcdefghijkl", chunks=3)
    async with serving(tmp_path) as served:
        asked = await served.post("/tools/generate", prompt=prompt, provider="claude", stream=True)
        wanted = await served.client.post(
            "/tools/generate",
            json={"prompt": prompt, "provider": "openai"},
            headers={"Accept": "text/event-stream"},
        )

    for answer in (asked, wanted):
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer.text)
        assert [name for name, _ in told] == ["delta"] * (len(told) - 1) + ["done"]
        assert "".join(data["text"] for name, data in told if name == "delta") == "abcdefghijkl"
        assert told[-1][1]["text"] == "abcdefghijkl"
        assert told[-1][1]["usage"]["output_tokens"] > 0


async def test_tools_and_thinking_come_and_go_back(tmp_path: Path) -> None:
    prompt = rehearse("q", tools=[[{"name": "look", "input": {"at": "x"}}]], reply="seen")
    tools = [{"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}]
    async with serving(tmp_path) as served:
        first = (await served.post("/tools/generate", prompt=prompt, provider="claude", tools=tools)).json()
        streamed = await served.post("/tools/generate", prompt=prompt, provider="openai", tools=tools, stream=True)
        call = first["tool_calls"][0]
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": first["parts"]},
            {"role": "tool", "tool_call_id": call["id"], "content": "a cat"},
        ]
        second = (await served.post("/tools/generate", messages=messages, provider="claude", tools=tools)).json()

    assert (call["name"], call["arguments"], first["finish_reason"]) == ("look", {"at": "x"}, "tool_calls")
    pieces = [data for name, data in events(streamed.text) if name == "delta" and data["type"] == "tool"]
    assert json.loads("".join(piece["arguments"] for piece in pieces)) == {"at": "x"}
    assert pieces[0]["name"] == "look"
    assert second["text"] == "seen"


FAULTS = [
    ("404", 404, "model_not_found"),
    ("prompt_too_long", 413, "context_too_long"),
    ("blocked", 422, "content_refused"),
    ("400", 400, "request_refused"),
    ("html", 502, "bad_response"),
    ("malformed", 502, "bad_response"),
    ("drop", 502, "provider_unavailable"),
    ("502", 502, "provider_unavailable"),
    ("busy", 503, "overloaded"),
    ("504", 504, "provider_timeout"),
]


async def test_each_fault_of_a_provider_has_its_status_whole_and_streamed(tmp_path: Path) -> None:
    found: list[tuple[str, int, int, str]] = []
    async with serving(tmp_path, MAX_RETRIES="0", CIRCUIT_FAILURE_THRESHOLD="1000") as served:
        for fault, _, _ in FAULTS:
            # A model each: what is learned of one does not stop the next.
            body = {"prompt": rehearse(f"q {fault}", fault=fault), "provider": "openai", "model": f"gpt-{fault}"}
            whole = await served.client.post("/tools/generate", json=body)
            streamed = await served.client.post("/tools/generate", json={**body, "model": "gpt-s", "stream": True})
            error = whole.json()["error"]
            found.append((fault, whole.status_code, streamed.status_code, error["code"]))
            assert error["message"] and error["call_id"].startswith("g-")
            assert whole.headers["X-Should-Retry"] == str(error["retryable"]).lower()

    assert found == [(fault, status, status, code) for fault, status, code in FAULTS]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("429", 429, "rate_limited"),
        ("insufficient_quota", 429, "rate_limited"),
        ("bad_key", 502, "authentication_failed"),
    ],
)
async def test_what_is_wrong_with_a_key_is_told_without_it(tmp_path: Path, fault: str, status: int, code: str) -> None:
    prompt = rehearse("q", fault=fault, **({"retry_after_s": 37} if fault == "429" else {}))
    async with serving(tmp_path, MAX_RETRIES="0") as served:
        answer = await served.post("/tools/generate", prompt=prompt, provider="openai")

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "sk-rehearsal" not in answer.text
    if fault == "429":
        assert 30 <= int(answer.headers["Retry-After"]) <= 60


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="abcdefghijkl", chunks=6, fault="truncated")
    async with serving(tmp_path, MAX_RETRIES="0") as served:
        answer = await served.post("/tools/generate", prompt=prompt, provider="openai", stream=True)

    told = events(answer.text)
    assert answer.status_code == 200
    assert [told[0][0], told[-1][0]] == ["delta", "error"]
    assert told[-1][1]["error"]["code"] in ("provider_unavailable", "bad_response")


async def test_our_own_limits_say_when_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, TOKEN_QUOTA="1") as served:
        for stream in (False, True):
            answer = await served.post("/tools/generate", prompt="q", provider="openai", stream=stream)
            error = answer.json()["error"]

            assert (answer.status_code, error["code"], error["limit"]) == (429, "quota_exceeded", 1)
            assert {"used", "asked", "resets_at", "retry_after_s"} <= error.keys()
    assert not served.api.requests


async def test_bad_requests_name_what_is_wrong(tmp_path: Path) -> None:
    async with serving(tmp_path, keys=()) as served:
        wrong = await served.post("/tools/generate", prompt="p", provider="opneai")
        unknown = await served.post("/tools/generate", prompt="p", temprature=1)
        keyless = await served.post("/tools/generate", prompt="p", provider="openai")
        no_json = await served.client.post("/tools/generate", content=b"{")
        count = await served.post("/tools/count_tokens", prompt=1)
        batch = await served.post("/tools/batch_generate", items=[{"prompt": "a"}, {"prompt": "b", "seed": -1}])
        models = await served.client.get("/tools/list_models", params={"provider": "gemni"})
        got = [await served.client.get(f"/tools/{name}") for name in ("generate", "batch_generate", "count_tokens")]

    for answer, word in ((wrong, "'openai'"), (unknown, "'temperature'"), (no_json, "JSON"), (models, "'gemini'")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert word in answer.json()["error"]["message"]
    assert "OPENAI_API_KEY" in keyless.json()["error"]["message"]
    assert (count.status_code, count.json()["error"]["field"]) == (400, "prompt")
    assert (batch.status_code, batch.json()["error"]["field"]) == (400, "items.1.seed")
    assert keyless.status_code == 400
    assert {(one.status_code, one.headers["Allow"]) for one in got} == {(405, "POST")}


async def test_without_a_provider_a_job_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        answer = (await served.post("/tools/generate", prompt="q")).json()
        named = (await served.post("/tools/generate", prompt="q", key="k")).json()
        same = (await served.post("/tools/generate", prompt="q", key="k")).json()
        mixed = await served.post("/tools/generate", prompt="q", key="k", provider="openai")

    assert (answer["text"], answer["provider"], answer["state"]) == ("done", "claude-cli", "succeeded")
    assert answer["job_id"].startswith("j-") and answer["cost_usd"] == 0.01
    assert named["job_id"] == same["job_id"] != answer["job_id"]
    assert not same.get("is_new") and "text" in same
    assert (mixed.status_code, mixed.json()["error"]["field"]) == (400, "key")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_call(tmp_path: Path, stream: bool) -> None:
    script = Script(rules=(Rule(prompt="hold me", action=Action(hold=True)),))
    async with serving(tmp_path, script) as served:
        body = {"prompt": "hold me", "provider": "openai", "stream": stream}
        leaving = asyncio.create_task(served.client.post("/tools/generate", json=body))
        await until(lambda: len(served.api.requests) == 1)
        leaving.cancel()
        calls: list[dict[str, Any]] = []
        end = time.monotonic() + 20
        while not calls and time.monotonic() < end:
            await asyncio.sleep(0.05)
            calls = [dict(one) for one in await served.here.app.oversight.calls(limit=5, org="")]
        served.api.release()
        again = await served.post("/tools/generate", prompt="more", provider="openai")

    assert [call["outcome"] for call in calls] == ["cancelled"]
    assert again.status_code == 200


async def test_a_silent_stream_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.05)
    script = Script(rules=(Rule(prompt="hold me", action=Action(hold=True, reply="late")),))
    async with serving(tmp_path, script) as served:
        body = {"prompt": "hold me", "provider": "openai", "stream": True}
        async with served.client.stream("POST", "/tools/generate", json=body) as answer:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if text.count(": keep-alive") >= 2:
                    served.api.release()

    assert text.startswith(": keep-alive\n\n: keep-alive\n\n")
    assert events(text)[-1][1]["text"] == "late"


async def _batch(served: Served, **body: Any) -> dict[str, Any]:
    return (await served.post("/tools/batch_generate", **body)).json()


async def test_a_batch_comes_whole_in_order_with_its_errors(tmp_path: Path) -> None:
    items = [
        {"prompt": rehearse("a", reply="A"), "key": "first"},
        {"prompt": rehearse("b", fault="400"), "provider": "qwen"},
        {"prompt": rehearse("c", reply="C"), "provider": "llama", "model": "tiny"},
    ]
    async with serving(tmp_path, MAX_RETRIES="0") as served:
        told = await _batch(served, items=items, provider="openai", max_parallel=2)

    assert [(item["index"], item["key"]) for item in told["items"]] == [(0, "first"), (1, "1"), (2, "2")]
    assert told["items"][0]["answer"]["text"] == "A"
    assert told["items"][1]["error"]["code"] == "request_refused"
    assert told["items"][2]["answer"]["provider"] == "llama"
    assert (told["summary"]["answered"], told["summary"]["failed"]) == (2, 1)


@pytest.mark.parametrize("form", ["application/x-ndjson", "text/event-stream"])
async def test_a_batch_streams_its_answers_as_they_come(tmp_path: Path, form: str) -> None:
    script = Script(rules=(Rule(prompt="slow", action=Action(hold=True, reply="late")),))
    body = {"items": [{"prompt": "slow"}, {"prompt": "fast"}], "provider": "openai"}
    async with serving(tmp_path, script) as served:
        text, was_released = "", False
        headers = {"Accept": form}
        async with served.client.stream("POST", "/tools/batch_generate", json=body, headers=headers) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if "Rehearsed" in text and not was_released:
                    was_released = True
                    served.api.release()

    if form == "text/event-stream":
        lines = [data for name, data in events(text) if name == "item"]
        summary = dict(events(text))["done"]
    else:
        *lines, last = [json.loads(line) for line in text.splitlines()]
        summary = last["done"]
    assert [line["index"] for line in lines] == [1, 0]
    assert lines[1]["answer"]["text"] == "late"
    assert (summary["items"], summary["answered"]) == (2, 2)


async def test_a_batch_with_a_key_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    """Answers that no cache would keep are not asked for twice; what failed, changed or is new is asked for."""
    hot = {"temperature": 1.5, "provider": "openai", "batch_key": "mine"}
    flaky = rehearse("b", fault="400", times=1, reply="B")
    async with serving(tmp_path, MAX_RETRIES="0") as served:
        first = await _batch(served, items=[{"prompt": "a"}, {"prompt": flaky}], **hot)
        asked = len(served.api.requests)
    async with serving(tmp_path, MAX_RETRIES="0") as served:
        items = [{"prompt": "a"}, {"prompt": flaky}, {"prompt": "c"}]
        second = await _batch(served, items=items, **hot)
        third = await _batch(served, items=[*items[:2], {"prompt": "changed"}], **hot)
        asked_again = len(served.api.requests)
        other = await _batch(served, items=items[:1], **{**hot, "batch_key": "another"})
        files = list((tmp_path / "jobs").rglob("*.jsonl"))

    assert asked == 2 and first["summary"]["failed"] == 1
    assert [item.get("resumed", False) for item in second["items"]] == [True, False, False]
    assert second["items"][0]["answer"]["text"] == first["items"][0]["answer"]["text"]
    assert (second["items"][0]["answer"]["cost_usd"], second["items"][0]["answer"]["cached"]) == (0, "batch")
    assert [item.get("resumed", False) for item in third["items"]] == [True, "answer" in second["items"][1], False]
    assert asked_again in (3, 4)
    assert not other["items"][0].get("resumed")
    assert files and all(path.stat().st_mode & 0o777 == 0o600 for path in files)


async def test_tokens_are_counted_and_models_listed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        counted = (await served.post("/tools/count_tokens", prompt="one two three", provider="claude")).json()
        all_models = (await served.client.get("/tools/list_models")).json()
        some = (await served.client.get("/tools/list_models", params={"provider": "anthropic"})).json()
        posted = (await served.post("/tools/list_models", provider="claude")).json()

    assert counted["provider"] == "claude" and counted["input_tokens"] > 0
    assert counted["provenance"] == "reported"
    assert {"openai", "claude"} <= {model["provider"] for model in all_models["models"]}
    assert {model["provider"] for model in some["models"]} == {"claude"}
    assert posted["models"] == some["models"]


async def test_auth_none_opens_what_answers_and_nothing_else(tmp_path: Path) -> None:
    chat = {"model": "openai/gpt-5", "messages": [{"role": "user", "content": "q"}]}
    async with serving(tmp_path, auth="none") as served:
        opened: list[httpx2.Response] = [
            await served.post("/tools/generate", prompt="q", provider="openai"),
            await served.client.get("/tools/list_models"),
            await served.client.get("/v1/models"),
            await served.post("/v1/chat/completions", **chat),
        ]
        closed = [
            await served.post("/tools/batch_generate", items=[{"prompt": "q"}]),
            await served.post("/tools/count_tokens", prompt="q"),
            await served.client.get("/openapi.json"),
        ]

    assert [answer.status_code for answer in opened] == [200] * 4
    assert [answer.status_code for answer in closed] == [401] * 3
