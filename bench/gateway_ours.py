"""Our side, in a process of its own: `python -m bench.gateway_ours WHAT URL HOME`; prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from bench.gateway_api import DOWN, FAILING
from bench.gateway_work import added, events, rate
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.factory import App, open_app
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.settings import load
from claude_jobs.stores.gate import LedgerQuery

KEY = "sk-rehearsal-1"
STREAM = 'rehearse: {"chunks": 500}'
MODELS = {"openai": "gpt-6-luna", "claude": "claude-haiku-5-5", "gemini": "gemini-3.1-flash-lite"}
ZIPF_PROMPTS, ZIPF_CALLS, ZIPF_S, ZIPF_CACHE = 5_000, 20_000, 1.1, 1_000


class Side:
    """The whole path in this process."""

    def __init__(self, app: App, cwd: str) -> None:
        names = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY")
        self._app = app
        self._caller = Caller(cwd=cwd, submitter="bench", keys=tuple((name, KEY) for name in names))

    async def ask(self, prompt: str, provider: str = "openai", **fields: Any) -> Any:
        """One whole answer. Read as a surface would."""
        body = {"prompt": prompt, "provider": provider, "model": MODELS[provider], "max_tokens": 1_000, **fields}
        return await self._app.generation.generate(GenerateRequest.parse(body).ask(self._caller))

    async def counted(self) -> dict[str, object]:
        """The organization's token quota, and the tokens of all calls in the ledger."""
        (view,) = [one for one in await self._app.oversight.quotas("default") if one["unit"] == "tokens"]
        parts = await self._app.generation.gate_parts()
        rows = await parts.gate(parts.store.ledger, LedgerQuery(by=()))
        settled = sum(
            row.tokens.input + row.tokens.output + row.tokens.cache_read + row.tokens.cache_write for row in rows
        )
        return {"limit": view["limit"], "used": view["used"], "held": view["held"], "settled": settled}

    async def stream(self, prompt: str, provider: str) -> AsyncIterator[object]:
        """One stream."""
        body = {"prompt": prompt, "provider": provider, "model": MODELS[provider], "max_tokens": 4_000}
        async for event in self._app.generation.stream(GenerateRequest.parse(body).ask(self._caller)):
            yield event


async def path(side: Side, url: str) -> dict[str, object]:
    """What the path adds, bears and streams, quotas on, each prompt a new one."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    sdk = AsyncOpenAI(api_key=KEY, base_url=f"{url}/openai/v1", max_retries=0, http_client=DefaultAioHttpClient())

    async def bare(prompt: str) -> object:
        return await sdk.chat.completions.create(
            model="gpt-6-luna", messages=[{"role": "user", "content": prompt}], max_completion_tokens=1_000
        )

    figures: dict[str, object] = {
        "serial": await added(side.ask, bare, 300),
        "rate": {"openai": await rate(lambda prompt: side.ask(f"{prompt} at once"), 1_500, 50)},
        "events": {
            name: await events(lambda prompt, name=name: side.stream(prompt, name), 8, STREAM)  # type: ignore[misc]
            for name in MODELS
        },
    }
    await side.ask("known")
    hits = [await _ms(lambda: side.ask("known")) for _ in range(500)]
    figures["hit_ms"] = statistics.median(hits)
    await sdk.close()
    return figures


async def flaky(side: Side, _: str) -> dict[str, object]:
    """A provider that fails every fifth question, then one that is down, then well again."""
    errors = 0
    for n in range(500):
        try:
            text = f"{FAILING} {n}" if n % 5 == 0 else f"fine {n}"
            await side.ask(text, fallbacks=["claude"])
        except ClaudeJobsError:
            errors += 1
    healthy = [await _ms(lambda n=n: side.ask(f"well {n}", "claude")) for n in range(200)]
    for n in range(20):
        await side.ask(f"{DOWN} first {n}", fallbacks=["claude"])
    around = [await _ms(lambda n=n: side.ask(f"{DOWN} {n}", fallbacks=["claude"])) for n in range(200)]
    began = time.perf_counter()
    while (await side.ask(f"back {random.random()}", fallbacks=["claude"])).route.provider != "openai":
        await asyncio.sleep(0.05)
    return {
        "error_rate": errors / 500,
        "healthy_ms": statistics.median(healthy),
        "around_ms": statistics.median(around),
        "recovered_s": time.perf_counter() - began,
    }


async def zipf(side: Side, _: str) -> dict[str, object]:
    """Hit rate of a skewed load, against an ideal LRU of the same size on the same sequence."""
    weights = [1 / (rank + 1) ** ZIPF_S for rank in range(ZIPF_PROMPTS)]
    drawn = random.Random(7).choices(range(ZIPF_PROMPTS), weights, k=ZIPF_CALLS)
    ideal, ideal_hits = OrderedDict[int, None](), 0
    hits = 0
    for number in drawn:
        if number in ideal:
            ideal_hits += 1
            ideal.move_to_end(number)
        else:
            ideal[number] = None
            if len(ideal) > ZIPF_CACHE:
                ideal.popitem(last=False)
        hits += (await side.ask(f"prompt {number}")).cached == "hit"
    return {"hits": hits, "ideal": ideal_hits}


async def same(side: Side, _: str) -> dict[str, object]:
    """This process's part of a hundred identical questions at once: it begins when all are ready."""
    await side.ask(f"ready {os.getpid()}")
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    answers = await asyncio.gather(*(side.ask('the same rehearse: {"delay_s": 0.5}') for _ in range(25)))
    return {"cached": sum(bool(answer.cached) for answer in answers)}


async def quota(side: Side, _: str) -> dict[str, object]:
    """This process's part of eight that share a quota which does not suffice for all; some are killed in the middle."""
    await side.ask(f"ready {os.getpid()}", max_tokens=10)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    refused = 0
    for n in range(200):
        try:
            await side.ask(f"{os.getpid()} {n}", max_tokens=50)
        except ClaudeJobsError:
            refused += 1
        if n == 20:
            print("under way", flush=True)
    return {"refused": refused}


async def counters(side: Side, _: str) -> dict[str, object]:
    """What the quota's counter says, and what the ledger says was settled."""
    return await side.counted()


async def _ms(action: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await action()
    return (time.perf_counter() - began) * 1_000


PARTS: dict[str, Callable[[Side, str], Awaitable[dict[str, object]]]] = {
    "path": path,
    "flaky": flaky,
    "zipf": zipf,
    "same": same,
    "quota": quota,
    "counters": counters,
}


async def main(what: str, url: str, home: str) -> None:
    env = {
        "CLAUDE_JOBS_HOME": home,
        "HOME": home,
        "TMPDIR": home,
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": f"{url}/openai/v1",
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "GOOGLE_BASE_URL": f"{url}/gemini",
        "MAX_CONCURRENT_REQUESTS": "50",
        "TOKEN_QUOTA": "20000" if what in ("quota", "counters") else "1000000000",
        "QUOTA_RESET_INTERVAL": "month",
        "MAX_CACHE_SIZE": str(ZIPF_CACHE),
        "MAX_RETRIES": "0",
        "CIRCUIT_RECOVERY_TIMEOUT": "3",
    }
    async with open_app(load(env), Home.resolve(env)) as app:
        print(json.dumps(await PARTS[what](Side(app, home), url)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
