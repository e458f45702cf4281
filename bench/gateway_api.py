"""The API that both sides of the comparison ask, in a process of its own: `python -m bench.gateway_api`; prints its address."""

from __future__ import annotations

import asyncio
import sys

from claude_jobs.rehearsal.script import Action, Fault, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal

FAILING = "every fifth"
DOWN = "it is down"


async def main() -> None:
    rules = (
        Rule(action=Action(fault=Fault.SERVER_ERROR), provider="openai", prompt=FAILING),
        Rule(action=Action(fault=Fault.SERVER_ERROR), provider="openai", prompt=DOWN),
    )
    async with Rehearsal(Script(rules=rules)) as api:
        print(api.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
