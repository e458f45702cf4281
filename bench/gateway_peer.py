"""The peer's side, run in its own environment: `python gateway_peer.py URL`; prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_LOG"] = "ERROR"

import litellm  # type: ignore[import-not-found]
from gateway_work import added, events, rate
from openai import AsyncOpenAI  # type: ignore[import-not-found]

litellm.suppress_debug_info = True
litellm.num_retries = 0
KEY = "sk-rehearsal-1"
STREAM = 'rehearse: {"chunks": 500}'


async def main(url: str) -> None:
    sdk = AsyncOpenAI(api_key=KEY, base_url=f"{url}/openai/v1", max_retries=0)
    bases = {"openai/gpt-6-luna": f"{url}/openai/v1", "anthropic/claude-haiku-5-5": f"{url}/anthropic"}

    async def bare(prompt: str) -> object:
        return await sdk.chat.completions.create(model="gpt-6-luna", messages=[{"role": "user", "content": prompt}])

    async def ask(model: str, prompt: str) -> object:
        messages = [{"role": "user", "content": prompt}]
        return await litellm.acompletion(
            model=model, messages=messages, api_base=bases[model], api_key=KEY, max_tokens=1_000
        )

    async def stream(model: str, prompt: str) -> AsyncIterator[object]:
        messages = [{"role": "user", "content": prompt}]
        answer = await litellm.acompletion(
            model=model, messages=messages, api_base=bases[model], api_key=KEY, max_tokens=4_000, stream=True
        )
        async for event in answer:
            yield event

    openai, claude = bases
    figures: dict[str, object] = {
        "serial": await added(lambda prompt: ask(openai, prompt), bare, 200),
        "rate": {"openai": await rate(lambda prompt: ask(openai, prompt), 600, 50)},
        "events": {
            "openai": await events(lambda prompt: stream(openai, prompt), 8, STREAM),
            "claude": await events(lambda prompt: stream(claude, prompt), 8, STREAM),
        },
    }
    print(json.dumps(figures))


asyncio.run(main(sys.argv[1]))
