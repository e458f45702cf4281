"""The server over the stdin and stdout of a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from support_mcp import Wire
from support_processes import PATIENCE_S

SERVER = """
import asyncio, os, subprocess, sys
from pathlib import Path
from support_mcp import surface
from claude_jobs.mcp_server.stdio import serve_stdio

async def main():
    async with surface(Path(sys.argv[1])) as here:
        @here.server.tool
        async def noisy() -> str:
            print("a stray print", flush=True)
            return subprocess.run(["sh", "-c", "echo child; cat"], capture_output=True, text=True, timeout=60).stdout
        await serve_stdio(here.server, here.caller)

import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
asyncio.run(main())
"""


async def test_only_json_rpc_is_on_stdout_and_nobody_inherits_stdin(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVER,
        str(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": tests},
    )
    assert process.stdin is not None and process.stdout is not None
    wire = Wire(process.stdout, process.stdin)
    answer = await wire.initialize()
    await wire.call(1, "noisy", {})
    noisy = await wire.answer(1)
    await wire.send_line(rb'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"\ud800","arguments":{}}}')
    surrogate = await wire.answer(2)
    await wire.send_line(b"no json")
    refused = await wire.answer(None)
    process.stdin.close()
    status = await asyncio.wait_for(process.wait(), PATIENCE_S)

    assert answer["result"]["serverInfo"]["name"] == "claude-jobs"
    assert noisy["result"]["content"][0]["text"] == "child\n"
    assert surrogate["result"]["isError"]
    assert refused["error"]["code"] == -32700
    assert status == 0
