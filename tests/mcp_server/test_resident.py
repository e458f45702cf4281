"""One server behind many raw connections."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support_app import ended
from support_mcp import Surface, Wire, connection, surface

from claude_jobs.mcp_server import resident as wire_module
from claude_jobs.mcp_server.resident import MAX_CALLS, MAX_LINE_BYTES, Resident
from claude_jobs.services.caller import Caller

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
SPAWN = {"prompt": "work", "key": "k"}


def structured(answer: dict[str, Any]) -> dict[str, Any]:
    return answer["result"]["structuredContent"]


async def test_a_legacy_client_initializes_and_lists_tools(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        answer = await wire.initialize()
        await wire.send("tools/list", {}, id=1)
        tools = (await wire.answer(1))["result"]["tools"]

    assert answer["result"]["protocolVersion"] == "2025-11-25"
    assert answer["result"]["serverInfo"]["name"] == "claude-jobs"
    assert [t["name"] for t in tools] == [
        "generate",
        "spawn",
        "batch",
        "status",
        "result",
        "cancel",
        "retry",
        "list_models",
    ]


async def test_a_modern_client_discovers_and_calls_without_initialize(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        await wire.send("server/discover", {"_meta": MODERN}, id="d")
        discovered = (await wire.answer("d"))["result"]
        await wire.send("tools/call", {"name": "list_models", "arguments": {}, "_meta": MODERN}, id="c")
        called = await wire.answer("c")

    assert "2026-07-28" in discovered["supportedVersions"]
    assert structured(called)["models"][0]["name"] == "sonnet"


async def test_each_connection_is_asked_by_its_own_caller(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        callers = [
            Caller(cwd=str(f), submitter=f"who:{f.name}", env=here.caller.env, credentials=here.caller.credentials)
            for f in folders
        ]
        async with connection(resident, callers[0]) as one, connection(resident, callers[1]) as two:
            for wire in (one, two):
                await wire.initialize()
            for wire in (one, two):
                await wire.call(1, "spawn", SPAWN)
            ids = [structured(await wire.answer(1))["job_id"] for wire in (one, two)]
        jobs = [await here.app.jobs.get(job_id) for job_id in ids]

    assert [str(folder) for folder in folders] == [job.spec.cwd for job in jobs]
    assert [job.submitter for job in jobs] == ["who:one", "who:two"]


async def test_fifty_connections_at_once_are_served(tmp_path: Path) -> None:
    async def one(here: Surface, resident: Resident) -> int:
        async with connection(resident, here.caller) as wire:
            await wire.initialize()
            await wire.send("tools/list", {}, id=1)
            return len((await wire.answer(1))["result"]["tools"])

    async with surface(tmp_path) as here, Resident(here.server) as resident:
        assert await asyncio.gather(*(one(here, resident) for _ in range(50))) == [8] * 50


async def test_a_lone_surrogate_is_replaced_and_answered(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        await wire.initialize()
        arguments = rb'{"prompt": "lone \ud800, pair \ud83d\ude00, escaped \\ud800", "label": "\udc00"}'
        await wire.send_line(
            rb'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"spawn","arguments":' + arguments + b"}}"
        )
        job = await here.app.jobs.get(structured(await wire.answer(7))["job_id"])

    assert job.spec.prompt == "lone \ufffd, pair \U0001f600, escaped \\ud800"
    assert job.label == "\ufffd"


async def test_bytes_that_are_no_utf8_are_answered(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        await wire.initialize()
        await wire.send_line(
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"spawn","arguments":{"prompt":"a\xff\xed\xa0\x80b"}}}'
        )
        job = await here.app.jobs.get(structured(await wire.answer(7))["job_id"])

    assert job.spec.prompt.strip("\ufffd").startswith("a") and "\ufffd" in job.spec.prompt


@pytest.mark.parametrize(
    ("line", "id", "code"),
    [
        (b"this is no json", None, -32700),
        (b'{"jsonrpc":"2.0","id":9,"method":', None, -32700),
        (b'{"id":9}', 9, -32600),
        (b'[{"jsonrpc":"2.0","id":9,"method":"ping"}]', None, -32600),
        (b"17", None, -32600),
        (b"[" * 100_000, None, -32700),
    ],
)
async def test_a_line_that_is_no_message_is_answered_and_the_next_one_served(
    tmp_path: Path, line: bytes, id: int | None, code: int
) -> None:
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        await wire.send_line(line)
        refused = await wire.answer(id)
        await wire.initialize()

    assert code == refused["error"]["code"]


@pytest.mark.parametrize("id_first", [True, False])
async def test_an_oversized_line_is_answered_with_its_id(tmp_path: Path, id_first: bool) -> None:
    filler = b'"params":{"x":"' + b"y" * (MAX_LINE_BYTES + 100_000) + b'"}'
    parts = [b'"id":"big"', filler] if id_first else [filler, b'"id":"big"']
    async with surface(tmp_path) as here, Resident(here.server) as resident, connection(resident, here.caller) as wire:
        await wire.send_line(b'{"jsonrpc":"2.0","method":"tools/call",' + b",".join(parts) + b"}")
        refused = await wire.answer("big")
        await wire.initialize()

    assert refused["error"]["code"] == -32600
    assert str(MAX_LINE_BYTES) in refused["error"]["message"]


async def test_a_five_megabyte_prompt_arrives_whole(tmp_path: Path) -> None:
    prompt = "ä" * (5 * 1024 * 1024 // 2)
    async with surface(tmp_path, CLAUDE_JOBS_MODEL="haiku") as here, Resident(here.server) as resident:
        async with connection(resident, here.caller) as wire:
            await wire.initialize()
            await wire.call(1, "spawn", {"prompt": prompt})
            job = await here.app.jobs.get(structured(await wire.answer(1))["job_id"])

        assert prompt == job.spec.prompt


async def test_hanging_up_in_the_middle_of_a_wait_leaves_the_job_running(tmp_path: Path) -> None:
    held = 'while [ ! -e "$TMPDIR/go" ]; do sleep 0.02; done'
    async with surface(tmp_path, body=held) as here, Resident(here.server) as resident:
        async with connection(resident, here.caller) as wire:
            await wire.initialize()
            await wire.call(1, "spawn", SPAWN)
            job_id = structured(await wire.answer(1))["job_id"]
            await wire.call(2, "result", {"job_id": job_id, "wait_s": 60}, token="p")
            await progress(wire)
        (tmp_path / "tmp" / "go").touch()
        job = await ended(here.app, job_id)

    assert job.state == "succeeded"
    assert job.read_ms is None


async def test_a_cancelled_call_gets_no_answer_and_its_job_goes_on(tmp_path: Path) -> None:
    async with surface(tmp_path, seconds=1.0) as here, Resident(here.server) as resident:
        async with connection(resident, here.caller) as wire:
            await wire.initialize()
            await wire.call(5, "generate", {"prompt": "q", "key": "g"}, token="p")
            job_id = (await progress(wire))["params"]["message"].split()[0]
            await wire.send("notifications/cancelled", {"requestId": 5})
            await wire.call(6, "generate", {"prompt": "q", "key": "g"})
            answer = await wire.answer(6)
        job = await here.app.jobs.get(job_id)

    assert answer["result"]["content"][0]["text"].startswith("done")
    assert "the existing job of key 'g'" in answer["result"]["content"][0]["text"]
    assert job.attempts == 1


async def test_calls_beyond_the_bound_are_refused_until_others_are_answered(tmp_path: Path) -> None:
    async with (
        surface(tmp_path, seconds=60.0) as here,
        Resident(here.server) as resident,
        connection(resident, here.caller) as wire,
    ):
        await wire.initialize()
        await wire.call(1, "spawn", SPAWN)
        job_id = structured(await wire.answer(1))["job_id"]
        for number in range(MAX_CALLS + 1):
            await wire.call(1_000 + number, "result", {"job_id": job_id, "wait_s": 100})
        refused = await wire.answer(1_000 + MAX_CALLS)
        await wire.send("notifications/cancelled", {"requestId": 1_000})
        await wire.call(2, "list_models", {})
        served = await wire.answer(2)

    assert refused["error"]["code"] == -32600 and str(MAX_CALLS) in refused["error"]["message"]
    assert "result" in served


async def progress(wire: Wire) -> dict[str, Any]:
    while (message := await wire.receive()).get("method") != "notifications/progress":
        assert "result" not in message
    return message


async def test_lines_come_out_of_any_chunking() -> None:
    class Chunks:
        def __init__(self, *chunks: bytes) -> None:
            self._chunks = list(chunks)

        async def read(self, n: int = -1, /) -> bytes:
            return self._chunks.pop(0) if self._chunks else b""

    chunks = Chunks(b'{"a"', b":1}\n\n", b'{"b":2}\n{"c":3}\n{"cut', b" off")
    lines = [line async for line in wire_module._lines(chunks)]  # pyright: ignore[reportPrivateUsage]

    assert [json.loads(line) for line in lines if isinstance(line, bytes)] == [{"a": 1}, {"b": 2}, {"c": 3}]
