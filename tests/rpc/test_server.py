"""The worker's side of the socket, over a real one."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support_processes import PATIENCE_S

from claude_jobs.errors import JobNotFound
from claude_jobs.rpc import offer
from claude_jobs.rpc import server as servers
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import MAX_IN_FLIGHT, Emit, Method
from claude_jobs.rpc.server import Server
from claude_jobs.runner.paths import Home

HELLO = offer.build({"CLAUDE_CODE_TOKEN": "t"}, "rpc")


class Wire:
    """A client in the same loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, **message: object) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        await self.writer.drain()

    async def read(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            return json.loads(await self.reader.readline())

    async def at_end(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:  # the server hung up without reading all that we sent
                return True

    def close(self) -> None:
        self.writer.transport.abort()


class Bench:
    """Methods that tell what happens to them."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.running = 0

    def methods(self) -> dict[str, Method]:
        return {
            "echo": self.echo,
            "count": self.count,
            "hang": self.hang,
            "fail": self.fail,
            "bug": self.bug,
            "odd": self.odd,
        }

    async def echo(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        return {"params": params, "credentials": hello.credentials, "peer": hello.peer_pid}

    async def count(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        for number in range(3):
            await emit({"number": number})
        return 3

    async def hang(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        self.running += 1
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("hang")
            raise

    async def fail(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        raise JobNotFound("j9")

    async def bug(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        raise ZeroDivisionError("with a secret in it")

    async def odd(self, params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        return {1, 2}


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
    while line := await reader.readline():
        if line == b"bug\n":
            raise ZeroDivisionError
        writer.write(line.upper())
        await writer.drain()


async def outside(hello: Hello) -> str:
    return ""


@pytest.fixture
def bench() -> Bench:
    return Bench()


@asynccontextmanager
async def running(home: Home, bench: Bench, uid: int | None = None) -> AsyncGenerator[Server]:
    server = Server(
        home=home, version="1.2.3", worker="w1", methods=bench.methods(), mcp=shout, identify=outside, uid=uid
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await server.listening()
        yield server
        server.abort()


@asynccontextmanager
async def connected(home: Home, hello: bytes = HELLO) -> AsyncGenerator[Wire]:
    wire = Wire(*await asyncio.open_unix_connection(str(home.socket)))
    wire.writer.write(hello)
    try:
        yield wire
    finally:
        wire.close()


async def until(fact: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not fact():
            await asyncio.sleep(0.005)


async def test_a_front_is_welcomed_and_answered(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home) as wire:
        assert await wire.read() == {"ok": True, "version": "1.2.3", "worker": "w1", "pid": os.getpid()}

        await wire.send(id=1, method="echo", params={"a": 1})

        expected = {"params": {"a": 1}, "credentials": [["CLAUDE_CODE_TOKEN", "oauth", "t"]], "peer": os.getpid()}
        assert await wire.read() == {"id": 1, "result": expected}


async def test_the_socket_is_private_and_its_place_written_down(home: Home, bench: Bench) -> None:
    async with running(home, bench):
        assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
        assert home.socket_note.read_text() == str(home.socket)

    assert not home.socket.exists()


async def test_requests_of_one_connection_run_at_once(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        await wire.send(id=1, method="hang", params={})
        await wire.send(id=2, method="count", params={})

        answers = [await wire.read() for _ in range(4)]

        assert [{"id": 2, "event": {"number": n}} for n in range(3)] + [{"id": 2, "result": 3}] == answers


async def test_errors_of_ours_keep_code_and_fields(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        await wire.send(id=1, method="fail", params={})

        error = (await wire.read())["error"]

        assert (error["code"], error["job_id"], error["retryable"]) == ("job_not_found", "j9", False)


@pytest.mark.parametrize("method", ["bug", "odd"])
async def test_a_bug_is_answered_without_its_text_and_the_connection_lives(
    home: Home, bench: Bench, method: str
) -> None:
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        await wire.send(id=1, method=method, params={})

        error = (await wire.read())["error"]

        assert error["code"] == "internal"
        assert "secret" not in error["message"]
        await wire.send(id=2, method="count", params={})
        assert (await wire.read())["id"] == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"what\n", "invalid_request"),
        (b"[]\n", "invalid_request"),
        (b'{"id":1}\n', "invalid_request"),
        (b'{"id":1,"method":"echo","params":[]}\n', "invalid_request"),
        (b'{"id":1,"method":"nope"}\n', "unknown_method"),
    ],
)
async def test_what_is_no_request_is_answered(home: Home, bench: Bench, line: bytes, code: str) -> None:
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        wire.writer.write(line)

        assert (await wire.read())["error"]["code"] == code


async def test_a_client_that_hangs_up_cancels_its_calls_only(home: Home, bench: Bench) -> None:
    async with running(home, bench) as server, connected(home) as other:
        await other.read()
        await other.send(id=1, method="hang", params={})
        async with connected(home) as wire:
            await wire.read()
            await wire.send(id=1, method="hang", params={})
            await until(lambda: bench.running == 2)
            assert server.connections == 2

        await until(lambda: server.connections == 1)

        assert bench.cancelled == ["hang"]


async def test_more_requests_than_allowed_at_once_are_refused(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        for number in range(MAX_IN_FLIGHT + 1):
            await wire.send(id=number, method="hang", params={})

        answer = await wire.read()

        assert answer["id"] == MAX_IN_FLIGHT
        assert (answer["error"]["code"], answer["error"]["retryable"]) == ("busy", True)


async def test_a_flood_from_a_client_that_reads_nothing_is_held_back(home: Home, bench: Bench) -> None:
    request = json.dumps({"id": 1, "method": "echo", "params": {"text": "x" * 100_000}}).encode() + b"\n"
    async with running(home, bench), connected(home) as deaf:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    deaf.writer.write(request)
                    await deaf.writer.drain()
        async with connected(home) as wire:
            await wire.read()
            await wire.send(id=1, method="count", params={})
            assert (await wire.read())["id"] == 1


async def test_a_line_beyond_the_cap_is_answered_and_ends_the_connection(
    home: Home, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MAX_LINE_BYTES", 1 << 16)
    async with running(home, bench), connected(home) as wire:
        await wire.read()
        wire.writer.write(b"x" * (1 << 18))

        assert (await wire.read())["error"]["code"] == "too_large"
        assert await wire.at_end()


async def test_a_five_megabyte_request_passes(home: Home, bench: Bench) -> None:
    async with running(home, bench):
        wire = Wire(*await asyncio.open_unix_connection(str(home.socket), limit=1 << 24))
        wire.writer.write(HELLO)
        await wire.read()
        await wire.send(id=1, method="echo", params={"text": "x" * 5_000_000})

        assert len((await wire.read())["result"]["params"]["text"]) == 5_000_000
        wire.close()


async def test_a_wrong_hello_is_refused_with_the_reason(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home, b'{"v":99}\n') as wire:
        answer = await wire.read()

        assert (answer["ok"], answer["code"]) == (False, "invalid_request")
        assert "protocol 99" in answer["message"]
        assert await wire.at_end()


async def test_a_hello_that_is_too_long_is_refused(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home, b'{"v":"' + b"x" * (1 << 20) + b'"}\n') as wire:
        assert "1048576" in (await wire.read())["message"]


async def test_silence_instead_of_a_hello_ends_the_connection(
    home: Home, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "HELLO_TIMEOUT_S", 0.1)
    async with running(home, bench) as server, connected(home, b"") as wire:
        assert "No hello" in (await wire.read())["message"]
        await until(lambda: server.connections == 0)


async def test_another_user_is_refused(home: Home, bench: Bench) -> None:
    async with running(home, bench, uid=os.getuid() + 1), connected(home) as wire:
        assert (await wire.read())["code"] == "not_permitted"


async def test_mcp_lines_go_to_the_mcp_server_even_if_sent_with_the_hello(home: Home, bench: Bench) -> None:
    async with running(home, bench), connected(home, offer.build({}, "mcp") + b"hello\n") as wire:
        await wire.read()

        assert await wire.reader.readline() == b"HELLO\n"


async def test_a_bug_in_one_mcp_connection_leaves_the_others(home: Home, bench: Bench) -> None:
    hello = offer.build({}, "mcp")
    async with running(home, bench), connected(home, hello + b"bug\n") as one, connected(home, hello) as other:
        await one.read()
        assert await one.at_end()

        await other.read()
        other.writer.write(b"well\n")
        assert await other.reader.readline() == b"WELL\n"


async def test_closed_it_serves_those_who_are_there_and_nobody_new(home: Home, bench: Bench) -> None:
    server = Server(home=home, version="1", worker="w", methods=bench.methods(), mcp=shout, identify=outside)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        await server.listening()
        async with connected(home) as wire:
            await wire.read()
            server.close()
            await until(lambda: not home.socket.exists())
            with pytest.raises(OSError):
                await asyncio.open_unix_connection(str(home.socket))

            await wire.send(id=1, method="count", params={})
            assert [(await wire.read())["id"] for _ in range(4)] == [1] * 4
            assert not serving.done()


async def test_a_successor_takes_the_socket_over_and_keeps_it(home: Home, bench: Bench) -> None:
    old = Server(home=home, version="old", worker="w", methods={}, mcp=shout, identify=outside)
    async with asyncio.TaskGroup() as group:
        group.create_task(old.serve())
        await old.listening()
        async with running(home, bench):
            old.close()
            async with connected(home) as wire:
                assert (await wire.read())["version"] == "1.2.3"
            assert home.socket.exists()


async def test_a_socket_that_was_cleaned_away_comes_back(
    home: Home, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_LOOK_S", 0.05)
    async with running(home, bench):
        home.socket.unlink()

        await until(home.socket.exists)

        async with connected(home) as wire:
            assert (await wire.read())["ok"]
