"""A client of the HTTP surface in a process of its own: `python -m bench.gateway_http URL TOKEN`; prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import aiohttp

DELAY_S = 0.5
TURNS = 12
AT_ONCE = 50


async def main(url: str, token: str) -> None:
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, connector=connector) as session:

        async def ask(prompt: str) -> float:
            began = time.perf_counter()
            body = {"prompt": prompt, "provider": "openai", "max_tokens": 100}
            async with session.post(f"{url}tools/generate", json=body) as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()
            return (time.perf_counter() - began) * 1_000

        await ask("known")
        hits = [await ask("known") for _ in range(300)]
        directive = json.dumps({"delay_s": DELAY_S})

        async def worker(number: int) -> list[float]:
            """One of fifty that ask again and again; they begin one after another, as people do."""
            await asyncio.sleep(number * DELAY_S / AT_ONCE)
            prompts = (f"{number} {turn} rehearse: {directive}" for turn in range(TURNS))
            return [await ask(prompt) - DELAY_S * 1_000 for prompt in prompts]

        taken = await asyncio.gather(*map(worker, range(AT_ONCE)))
        shares = [share for mine in taken for share in mine[1:]]
    print(json.dumps({"hit_ms": statistics.median(hits), "share_p95_ms": sorted(shares)[int(len(shares) * 0.95)]}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
