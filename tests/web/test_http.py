"""The HTTP surface as a client meets it: who may come in, and the same tools as over MCP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from support_app import ended
from support_mcp import Surface, surface
from support_web import TOKEN, http_app, outside

from claude_jobs.web.guard import MAX_BODY_BYTES
from claude_jobs.web.serve import RunningHttp, serve_http

BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def inside(client: tuple[str, int], port: int) -> bool:
    return True


@asynccontextmanager
async def served(
    here: Surface, *, auth: str = "token", who: Callable[[tuple[str, int], int], Awaitable[bool | None]] = outside
) -> AsyncGenerator[tuple[RunningHttp, httpx2.AsyncClient]]:
    running = await serve_http(http_app(here, token=TOKEN, auth=auth, is_of_a_job=who), 0)
    try:
        async with httpx2.AsyncClient(base_url=running.url, timeout=90, trust_env=False) as client:
            yield running, client
    finally:
        await running.close()


async def test_a_job_does_not_get_around_its_limits_over_http(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here, who=inside) as (_, client):
        answer = await client.post("/tools/spawn", headers=BEARER, json={"prompt": "x"})

    assert answer.status_code == 403
    assert "given" in answer.json()["error"]["message"]


async def test_answers_are_sent_without_waiting_for_an_acknowledgement(tmp_path: Path) -> None:
    """Without TCP_NODELAY the kernel holds an answer's second segment back for 40 ms."""
    async with surface(tmp_path) as here, served(here) as (running, client):
        await client.get("/health", headers=BEARER)
        sockets = [one.transport.get_extra_info("socket") for one in _connections(running)]
        flags = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets]

    assert flags and all(flags)


def _connections(running: RunningHttp) -> list[Any]:
    return list(running._server.server_state.connections)  # pyright: ignore[reportPrivateUsage]


async def test_a_connection_is_looked_at_once_and_only_while_jobs_run(tmp_path: Path) -> None:
    verdicts: list[bool | None] = [None, None, False]
    looked: list[tuple[str, int]] = []

    async def look(client: tuple[str, int], port: int) -> bool | None:
        looked.append(client)
        return verdicts[len(looked) - 1] if len(looked) <= len(verdicts) else True

    async with surface(tmp_path) as here, served(here, who=look) as (_, client):
        answers = [(await client.get("/health", headers=BEARER)).status_code for _ in range(5)]
        other = await client.get("/health", headers={**BEARER, "Connection": "close"})
        fresh = await client.get("/health", headers=BEARER)

    assert answers == [200] * 5
    assert (len(set(looked)), len(looked)) == (2, 4)
    assert (other.status_code, fresh.status_code) == (200, 403)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/tools"),
        ("GET", "/tools/status"),
        ("POST", "/tools/spawn"),
        ("POST", "/tools/generate"),
        ("POST", "/mcp"),
        ("GET", "/mcp"),
        ("GET", "/nothing"),
    ],
)
async def test_every_endpoint_needs_the_token(tmp_path: Path, method: str, path: str) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}):
            answer = await client.request(method, path, headers=headers)

            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert TOKEN not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""])
async def test_a_foreign_host_is_refused(tmp_path: Path, host: str) -> None:
    async with surface(tmp_path) as here, served(here) as (running, client):
        for path in ("/health", "/mcp", "/tools/status"):
            answer = await client.get(path, headers={**BEARER, "Host": host.format(port=running.port)})

            assert answer.status_code == 421


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
async def test_loopback_names_are_served(tmp_path: Path, name: str) -> None:
    async with surface(tmp_path) as here, served(here) as (running, client):
        own = {"Host": f"{name}:{running.port}", "Origin": f"http://{name}:{running.port}"}
        answer = await client.get("/health", headers={**BEARER, **own})

    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1"])
async def test_a_foreign_origin_is_refused(tmp_path: Path, origin: str) -> None:
    async with surface(tmp_path) as here, served(here) as (running, client):
        for path in ("/health", "/mcp"):
            answer = await client.get(path, headers={**BEARER, "Origin": origin.format(port=running.port)})

            assert answer.status_code == 403


async def test_auth_none_opens_generate_models_and_health_only(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here, auth="none") as (_, client):
        opened = [
            await client.get("/health"),
            await client.get("/tools/list_models"),
            await client.post("/tools/generate", json={"prompt": "q"}),
        ]
        closed = [
            await client.get("/"),
            await client.get("/tools/status"),
            await client.post("/tools/spawn", json={"prompt": "q"}),
            await client.post("/tools/generate/", json={"prompt": "q"}),
            await client.post("/mcp", json={}),
        ]
        foreign = await client.get("/health", headers={"Host": "evil.example"})

    assert [answer.status_code for answer in opened] == [200, 200, 200]
    assert [answer.status_code for answer in closed] == [401] * 5
    assert foreign.status_code == 421


async def test_post_answers_as_tools_call_does(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client), Client(here.server) as mcp:
        client.headers.update(BEARER)
        spawned = (await client.post("/tools/spawn", json={"prompt": "p", "key": "k"})).json()
        await ended(here.app, spawned["job_id"])
        again = await mcp.call_tool("spawn", {"prompt": "p", "key": "k"})
        calls: list[tuple[str, dict[str, Any]]] = [
            ("status", {}),
            ("status", {"job_ids": [spawned["job_id"]]}),
            ("result", {"job_id": spawned["job_id"], "detail": "full"}),
            ("cancel", {"job_ids": [spawned["job_id"]]}),
        ]
        pairs = [
            ((await client.post(f"/tools/{name}", json=arguments)).json(), await mcp.call_tool(name, arguments))
            for name, arguments in calls
        ]

    assert spawned["is_new"] and spawned["payer"] == "3 tokens: your Claude subscription"
    assert again.structured_content is not None
    assert again.structured_content["job_id"] == spawned["job_id"] and not again.structured_content["is_new"]
    for posted, called in pairs:
        assert _timeless(posted) == _timeless(called.structured_content)


def _timeless(view: Mapping[str, Any] | None) -> object:
    """Without what the first reading of a result changes."""
    return json.loads(json.dumps(view), object_hook=lambda o: {k: v for k, v in o.items() if k != "unread"})


async def test_looking_works_by_get_with_a_query(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        client.headers.update(BEARER)
        ids = [
            (await client.post("/tools/spawn", json={"prompt": "p", "label": name})).json()["job_id"] for name in "ab"
        ]
        listed = await client.get("/tools/status", params={"job_ids": ids, "limit": 5})
        one = await client.get("/tools/status", params={"job_ids": ids[0]})
        result = await client.get("/tools/result", params={"job_id": ids[0], "wait_s": "20"})

    assert sorted(job["job_id"] for job in listed.json()["jobs"]) == sorted(ids)
    assert [job["job_id"] for job in one.json()["jobs"]] == ids[:1]
    assert (result.json()["text"], result.json()["state"]) == ("done", "succeeded")


async def test_get_on_a_tool_that_acts_is_refused(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        answers = [
            await client.get(f"/tools/{name}", headers=BEARER) for name in ("spawn", "cancel", "generate", "batch")
        ]

    assert [answer.status_code for answer in answers] == [405] * 4
    assert {answer.headers["Allow"] for answer in answers} == {"POST"}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/tools/nothing", b"{}", 404, "unknown_tool"),
        ("/tools/result", b'{"job_id": "j-none"}', 404, "job_not_found"),
        ("/tools/spawn", b"{}", 400, "invalid_arguments"),
        ("/tools/spawn", b'{"prompt": " "}', 400, "invalid_request"),
        ("/tools/spawn", b'{"prompt": "p", "options": {"project": "full"}}', 403, "not_permitted"),
        ("/tools/spawn", b"no json", 400, "invalid_json"),
        ("/tools/spawn", b"[1]", 400, "invalid_json"),
        ("/tools/spawn", b"\xff\xfe", 400, "invalid_json"),
        ("/tools/spawn", b"[" * 100_000, 400, "invalid_json"),
    ],
)
async def test_a_refusal_is_json_with_code_and_message(
    tmp_path: Path, path: str, body: bytes, status: int, code: str
) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        answer = await client.post(path, content=body, headers=BEARER)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


async def test_a_lone_surrogate_in_a_body_is_taken(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        answer = await client.post("/tools/spawn", content=b'{"prompt": "a\\ud800b"}', headers=BEARER)
        job = await here.app.jobs.get(answer.json()["job_id"])

    assert job.spec.prompt == "a\ufffdb"


async def test_a_full_queue_and_a_taken_key_have_their_status(tmp_path: Path) -> None:
    async with surface(tmp_path, CLAUDE_QUEUE_SIZE="1", seconds=30.0) as here, served(here) as (_, client):
        client.headers.update(BEARER)
        full = await client.post("/tools/batch", json={"items": [{"prompt": "p"}, {"prompt": "q"}]})
        await client.post("/tools/spawn", json={"prompt": "p", "key": "k"})
        taken = await client.post("/tools/spawn", json={"prompt": "other", "key": "k"})

    assert (full.status_code, full.json()["error"]["retryable"]) == (429, True)
    assert taken.status_code == 409


async def test_a_body_is_bounded_with_and_without_a_length(tmp_path: Path) -> None:
    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1_000_000 + 2):
            yield b" " * 1_000_000

    async with surface(tmp_path) as here, served(here) as (running, client):
        streamed = await client.post("/tools/spawn", headers=BEARER, content=endless())
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        head = [f"POST /tools/spawn HTTP/1.1\r\nHost: localhost:{running.port}", f"Authorization: Bearer {TOKEN}"]
        writer.write("\r\n".join([*head, f"Content-Length: {MAX_BODY_BYTES + 1}", "", ""]).encode())
        declared = await reader.readline()
        writer.close()
        await writer.wait_closed()

    assert streamed.status_code == 413
    assert declared.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_remote_mcp_works_with_the_token(tmp_path: Path, mode: Any) -> None:
    async with surface(tmp_path, text="remote") as here, served(here) as (running, _):
        transport = StreamableHttpTransport(f"{running.url}mcp", headers=BEARER)
        async with Client(transport, mode=mode) as mcp:
            tools = await mcp.list_tools()
            answer = await mcp.call_tool("generate", {"prompt": "q"})

    assert len(tools) == 8
    assert "remote" in str(answer.content[0])


async def test_the_next_port_is_taken_if_the_asked_one_is_not_free(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        async with surface(tmp_path) as here:
            running = await serve_http(http_app(here, token=TOKEN), taken)
            await running.close()

    assert taken < running.port < taken + 50


async def test_closing_frees_the_port_and_ends_open_answers(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=60.0) as here, served(here) as (running, client):
        client.headers.update(BEARER)
        job_id = (await client.post("/tools/spawn", json={"prompt": "p"})).json()["job_id"]
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_broken(client, job_id))
            await asyncio.sleep(0.2)
            await running.close()
            await running.close()
        again = await serve_http(http_app(here, token=TOKEN), running.port)
        await again.close()

    assert waiting.result()
    assert again.port == running.port


async def _broken(client: httpx2.AsyncClient, job_id: str) -> bool:
    try:
        answer = await client.get("/tools/result", params={"job_id": job_id, "wait_s": 60})
    except httpx2.TransportError:
        return True
    return answer.status_code >= 500


async def test_health_counts_jobs_and_the_index_names_the_tools(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, served(here) as (_, client):
        client.headers.update(BEARER)
        job_id = (await client.post("/tools/spawn", json={"prompt": "p"})).json()["job_id"]
        await ended(here.app, job_id)
        health = (await client.get("/health")).json()
        index = (await client.get("/")).json()
        tools = (await client.get("/tools")).json()["tools"]

    assert (health["status"], health["jobs"]["succeeded"], health["unread"]) == ("ok", 1, 1)
    assert index["tools"]["status"] == "GET, POST /tools/status"
    assert index["tools"]["spawn"] == "POST /tools/spawn"
    assert [tool["name"] for tool in tools] == list(index["tools"])
