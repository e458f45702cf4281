"""`python -m claude_jobs.rehearsal`: serves a script and prints its URL as the first line.

It ends on SIGTERM or SIGINT, and when its standard input is a pipe that closes: with the parent that holds the other end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TextIO

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.demo import DEMO_SCRIPT
from claude_jobs.rehearsal.script import Script, load_script
from claude_jobs.rehearsal.server import Rehearsal


def main() -> int:
    parser = argparse.ArgumentParser(prog="claude_jobs.rehearsal", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--script", type=Path, help="JSON file")
    source.add_argument("--demo", action="store_true", help="the script of the demo")
    options = parser.parse_args()
    try:
        script = load_script(options.script) if options.script else DEMO_SCRIPT if options.demo else Script()
        asyncio.run(_serve(script, port=options.port))
    except (InvalidRequest, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(script: Script, *, port: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with Rehearsal(script, port=port) as api:
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        if _is_pipe(sys.stdin):
            reader = asyncio.StreamReader()
            pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            closed = loop.create_task(_drained(reader, over))
            await over.wait()
            closed.cancel()
            pipe.close()
        else:
            await over.wait()


def _is_pipe(stdin: TextIO | None) -> bool:
    if stdin is None:
        return False
    mode = os.fstat(stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _drained(reader: asyncio.StreamReader, over: asyncio.Event) -> None:
    while await reader.read(4096):
        pass
    over.set()


if __name__ == "__main__":
    sys.exit(main())
