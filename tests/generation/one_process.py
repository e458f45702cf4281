"""One process of several on the same home: asks the same question so often at once, and tells what it got, as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys

from support_generation import keys

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.factory import App, open_app
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.settings import load


async def main(env: dict[str, str], body: dict[str, object], times: int) -> None:
    async with open_app(load(env), Home.resolve(env)) as app:
        caller = Caller(cwd="/", submitter="uid:0", keys=keys())
        await asyncio.gather(*(one(app, body, caller) for _ in range(times)))


async def one(app: App, body: dict[str, object], caller: Caller) -> None:
    try:
        answer = await app.generation.generate(GenerateRequest.parse(body).ask(caller))
    except ClaudeJobsError as error:
        print(json.dumps({"error": error.code, "message": error.message}), flush=True)
    else:
        print(json.dumps({"cached": answer.cached, "text": answer.completion.text}), flush=True)


asyncio.run(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))
