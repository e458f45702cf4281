"""A worker with no job in it: greets, answers a few JSON-RPC and rpc methods. Started by a real keeper."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Emit
from claude_jobs.rpc.server import Server
from claude_jobs.runner.paths import Home

VERSION = os.environ.get("CLAUDE_JOBS_TEST_VERSION", "0.1.0")


def note(text: str) -> None:
    home = Path(os.environ["CLAUDE_JOBS_HOME"])
    with (home / "stand-in.log").open("a") as log:
        log.write(text + "\n")


async def mcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
    initialized = False
    while line := await reader.readline():
        message = json.loads(line)
        method = message.get("method")
        if method == "notifications/initialized":
            initialized = True
        if method == "tools/call" and message["params"]["name"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if method == "tools/call" and message["params"]["name"] == "garbage":
            writer.write(b"this is no JSON\n")
        if "id" not in message or (method == "tools/call" and message["params"]["name"] == "hang"):
            continue
        result = {"method": method, "pid": os.getpid(), "initialized": initialized, "params": message.get("params")}
        writer.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode() + b"\n")
        await writer.drain()


async def outside(hello: Hello) -> str:
    return ""


async def main() -> None:
    keeper = socket.socket(fileno=int(sys.argv[sys.argv.index("--keeper-fd") + 1]))
    note(f"started {os.getpid()}")
    home = Home.resolve(os.environ)
    stop = asyncio.Event()

    async def who(params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        return {"pid": os.getpid(), "credentials": [list(one) for one in hello.credentials], "cwd": hello.cwd}

    async def step_aside(params: Mapping[str, object], hello: Hello, emit: Emit) -> object:
        keeper.send(b'{"op":"release"}\n')
        server.close()
        stop.set()
        return {}

    methods = {"who": who, "step_aside": step_aside}
    server = Server(home=home, version=VERSION, worker=f"w{os.getpid()}", methods=methods, mcp=mcp, identify=outside)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        asyncio.get_running_loop().add_reader(keeper.fileno(), lambda: keeper.recv(65536) or stop.set())
        await stop.wait()
        asyncio.get_running_loop().remove_reader(keeper.fileno())
        server.abort()
        await serving
    keeper.close()
    note(f"ended {os.getpid()}")


asyncio.run(main())
