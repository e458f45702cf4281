"""A process that asks for an economy batch and prints each item as a JSON line: one that can be killed while it waits."""

from __future__ import annotations

import asyncio
import json
import sys

from support_generation import keys

from claude_jobs.factory import open_app
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_batch import run_batch
from claude_jobs.services.generation_request import parse_batch
from claude_jobs.settings import load


async def main(env: dict[str, str], body: dict[str, object]) -> None:
    async with open_app(load(env), Home.resolve(env)) as app:
        batch = parse_batch(body, Caller(cwd=env["HOME"], submitter="uid:0", keys=keys()))
        async for view in run_batch(app.generation, batch, app.batches):
            print(json.dumps(view), flush=True)


asyncio.run(main(json.loads(sys.argv[1]), json.loads(sys.argv[2])))
