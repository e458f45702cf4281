"""The API on the wire, met by a plain HTTP client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from claude_jobs.rehearsal.script import DEFAULT_TOKENS, Fault, parse_script
from claude_jobs.rehearsal.server import Rehearsal

BEARER = {"authorization": f"Bearer {DEFAULT_TOKENS[0].secret}"}
UNIFIED = "anthropic-ratelimit-unified-"


def body(prompt: str, *, stream: bool = False) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "stream": stream, "messages": [{"role": "user", "content": prompt}]}


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as running:
        yield running


@pytest.fixture
async def client(api: Rehearsal) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=api.url, headers=BEARER, timeout=10, trust_env=False) as running:
        yield running


async def post(client: httpx2.AsyncClient, prompt: str, **options: Any) -> httpx2.Response:
    return await client.post("/v1/messages", json=body(prompt, **options))


def stream_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_an_answer_in_one_piece(client: httpx2.AsyncClient) -> None:
    answer = await post(client, "good morning")

    assert answer.status_code == 200
    assert answer.json()["content"] == [{"type": "text", "text": "Rehearsed: good morning"}]
    assert answer.json()["stop_reason"] == "end_turn"
    assert answer.json()["usage"]["input_tokens"] > 0
    assert answer.headers[UNIFIED + "status"] == "allowed"
    assert float(answer.headers[UNIFIED + "5h-utilization"]) == 0.1


async def test_a_streamed_answer(client: httpx2.AsyncClient) -> None:
    answer = await post(client, "good morning", stream=True)

    events = stream_events(answer.text)
    deltas = [one["delta"]["text"] for one in events if one["type"] == "content_block_delta"]
    assert answer.headers["content-type"] == "text/event-stream"
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    assert len(deltas) > 1
    assert "".join(deltas) == "Rehearsed: good morning"
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


async def test_a_streamed_tool_call(client: httpx2.AsyncClient) -> None:
    answer = await post(client, 'rehearse: {"tool": {"name": "Bash", "input": {"command": "true"}}}', stream=True)

    events = stream_events(answer.text)
    started = next(one["content_block"] for one in events if one["type"] == "content_block_start")
    given = "".join(one["delta"]["partial_json"] for one in events if one["type"] == "content_block_delta")
    assert (started["type"], started["name"], started["input"]) == ("tool_use", "Bash", {})
    assert json.loads(given) == {"command": "true"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("429", 429, "rate_limit_error"),
        ("529", 529, "overloaded_error"),
        ("500", 500, "api_error"),
        ("503", 503, "api_error"),
        ("401", 401, "authentication_error"),
        ("403", 403, "permission_error"),
        ("400", 400, "invalid_request_error"),
        ("404", 404, "not_found_error"),
        ("413", 413, "request_too_large"),
        ("prompt_too_long", 400, "invalid_request_error"),
        ("credit", 400, "invalid_request_error"),
    ],
)
async def test_faults_with_a_status(client: httpx2.AsyncClient, fault: str, status: int, kind: str) -> None:
    answer = await post(client, f'rehearse: {{"fault": "{fault}", "retry_after_s": 7}}')

    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers["retry-after"] == "7"
    assert UNIFIED + "status" not in answer.headers


@pytest.mark.parametrize(("window", "short"), [("five_hour", "5h"), ("seven_day", "7d"), ("seven_day_opus", None)])
async def test_a_usage_limit_tells_its_window_and_reset(window: str, short: str | None) -> None:
    async with Rehearsal(clock=lambda: 1000.0) as api, httpx2.AsyncClient(base_url=api.url, headers=BEARER) as client:
        directive = json.dumps({"fault": "usage_limit", "window": window, "resets_in_s": 500})
        answer = await post(client, f"rehearse: {directive}")

    assert answer.status_code == 429
    assert answer.headers[UNIFIED + "status"] == "rejected"
    assert answer.headers[UNIFIED + "representative-claim"] == window
    assert answer.headers[UNIFIED + "reset"] == "1500"
    assert answer.headers["retry-after"] == "500"
    assert short is None or answer.headers[f"{UNIFIED}{short}-status"] == "rejected"


async def test_a_limited_api_key_gets_a_plain_429() -> None:
    script = parse_script({"tokens": [{"name": "k", "secret": "sk-ant-api03-k", "quota": {"requests": 0}}]})
    async with Rehearsal(script) as api, httpx2.AsyncClient(base_url=api.url) as client:
        answer = await client.post("/v1/messages", json=body("x"), headers={"x-api-key": "sk-ant-api03-k"})

    assert (answer.status_code, int(answer.headers["retry-after"])) == (429, 18000)
    assert not [name for name in answer.headers if name.startswith(UNIFIED)]


@pytest.mark.parametrize("headers", [{"authorization": "Bearer sk-ant-oat01-mine"}, {"x-api-key": "sk"}, {}])
async def test_unknown_credentials_are_refused(api: Rehearsal, headers: dict[str, str]) -> None:
    async with httpx2.AsyncClient(base_url=api.url, headers=headers, trust_env=False) as client:
        answers = [await post(client, "x"), await client.get("/v1/models")]

    assert [one.status_code for one in answers] == [401, 401]
    assert [one.token for one in api.requests] == [""]


@pytest.mark.parametrize("prompt", ['rehearse: {"fault": "drop"}', 'rehearse: {"fault": "cut", "reply": "one two"}'])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_connection(client: httpx2.AsyncClient, prompt: str, *, stream: bool) -> None:
    with pytest.raises(httpx2.TransportError):
        await post(client, prompt, stream=stream)


@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_silence_lasts_until_the_client_leaves(client: httpx2.AsyncClient, fault: str) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await client.post(
            "/v1/messages",
            json=body(f'rehearse: {{"fault": "{fault}"}}', stream=True),
            timeout=httpx2.Timeout(60, read=0.2),
        )


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("html", "text/html", "<html>"),
        ("malformed", "application/json", '[{"ty'),
        ("stream_error", "text/event-stream", "overloaded_error"),
    ],
)
async def test_answers_that_make_no_sense(client: httpx2.AsyncClient, fault: str, kind: str, text: str) -> None:
    answer = await post(client, f'rehearse: {{"fault": "{fault}"}}', stream=True)

    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert text in answer.text


@pytest.mark.parametrize(
    ("fault", "reason"), [("refusal", "refusal"), ("max_tokens", "max_tokens"), ("empty", "end_turn")]
)
async def test_answers_that_are_not_what_was_hoped_for(client: httpx2.AsyncClient, fault: str, reason: str) -> None:
    answer = (await post(client, f'rehearse: {{"fault": "{fault}"}}')).json()

    assert (answer["stop_reason"], bool(answer["content"])) == (reason, fault != "empty")


async def test_delay_and_duration_are_kept(client: httpx2.AsyncClient) -> None:
    started = asyncio.get_running_loop().time()

    await post(client, 'rehearse: {"delay_s": 0.1, "duration_s": 0.3, "reply": "a b c d e f g h"}', stream=True)

    assert asyncio.get_running_loop().time() - started > 0.35


async def test_held_requests_wait_for_their_release(api: Rehearsal, client: httpx2.AsyncClient) -> None:
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(post(client, 'rehearse: {"hold": true, "reply": "free"}')) for _ in range(3)]
        await api.wait_for(count=3)
        released = (await client.post("/rehearsal/release")).json()["released"]

    assert released == 3
    assert [task.result().json()["content"][0]["text"] for task in held] == ["free"] * 3


async def test_the_log_says_what_was_asked_and_how_it_ended(api: Rehearsal, client: httpx2.AsyncClient) -> None:
    await post(client, "one")
    await post(client, 'rehearse: {"fault": 529}')

    first, second = await api.wait_for(count=2)
    assert (first.prompt, first.token, first.status, first.fault, first.n_messages) == (
        "one",
        "rehearsal-1",
        200,
        None,
        1,
    )
    assert (second.status, second.fault) == (529, Fault.OVERLOADED)
    logged = (await client.get("/rehearsal/requests")).json()["requests"]
    assert [one["status"] for one in logged] == [200, 529]
    assert "sk-ant" not in json.dumps(logged)


async def test_waiting_for_requests_ends(api: Rehearsal) -> None:
    with pytest.raises(TimeoutError):
        await api.wait_for(timeout_s=0.01)


async def test_a_wrong_directive_is_answered_with_its_mistake(api: Rehearsal, client: httpx2.AsyncClient) -> None:
    answer = await post(client, 'rehearse: {"replay": "x"}')

    assert answer.status_code == 400
    assert "replay" in answer.json()["error"]["message"]
    assert api.requests[0].status == 400


async def test_the_other_endpoints(client: httpx2.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200
    assert (await client.post("/v1/messages/count_tokens", json=body("x" * 400))).json()["input_tokens"] > 100
    assert "claude-sonnet-5-5" in [one["id"] for one in (await client.get("/v1/models?limit=5")).json()["data"]]
    assert (await client.get("/v1/nothing")).status_code == 404


async def test_a_chunked_request_is_read(client: httpx2.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        text = json.dumps(body("in parts")).encode()
        yield text[:20]
        yield text[20:]

    answer = await client.post("/v1/messages", content=parts())

    assert answer.json()["content"][0]["text"] == "Rehearsed: in parts"


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTT",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000,
    ],
)
async def test_what_is_no_http_is_hung_up_on(api: Rehearsal, raw: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_a_large_answer_arrives_whole(client: httpx2.AsyncClient) -> None:
    answer = await post(client, 'rehearse: {"reply": "x", "reply_kb": 512}', stream=True)

    deltas = [one["delta"]["text"] for one in stream_events(answer.text) if one["type"] == "content_block_delta"]
    assert sum(map(len, deltas)) == 512 * 1024


async def test_it_stops_while_clients_wait() -> None:
    async with Rehearsal() as api:
        waiting = asyncio.create_task(_is_hung_up_on(api.url))
        await api.wait_for()

    assert await waiting


async def _is_hung_up_on(url: str) -> bool:
    async with httpx2.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client:
        with pytest.raises(httpx2.TransportError):
            await post(client, 'rehearse: {"fault": "silence"}')
    return True


async def test_as_a_child_it_serves_until_its_stdin_ends(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"default": {"reply": "from the file"}}')
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "claude_jobs.rehearsal", "--port", "0", "--script", str(script)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    url = (await child.stdout.readline()).decode().strip()
    async with httpx2.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client:
        answer = await post(client, "x")
    child.stdin.close()
    async with asyncio.timeout(10):
        returncode = await child.wait()

    assert (returncode, answer.json()["content"][0]["text"]) == (0, "from the file")


async def test_as_a_child_it_stops_on_sigterm_and_needs_no_stdin() -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "claude_jobs.rehearsal", "--demo"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    url = (await child.stdout.readline()).decode()
    child.terminate()
    async with asyncio.timeout(10):
        returncode = await child.wait()

    assert (returncode, url.startswith("http://127.0.0.1:")) == (0, True)


async def test_as_a_child_it_names_what_is_wrong_with_its_script(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "claude_jobs.rehearsal", "--script", str(tmp_path / "none.json")),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await child.communicate()

    assert child.returncode == 2
    assert b"none.json" in said


async def test_many_clients_at_once_are_served_side_by_side(api: Rehearsal) -> None:
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(base_url=api.url, headers=BEARER, limits=limits, timeout=30, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        prompt = 'rehearse: {"hold": true, "reply": "{prompt}"}'
        tasks = [group.create_task(post(client, prompt, stream=True)) for _ in range(200)]
        await api.wait_for(count=200)
        api.release()

    assert [task.result().status_code for task in tasks] == [200] * 200
