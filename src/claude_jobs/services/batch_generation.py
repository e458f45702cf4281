"""Many requests: bounded, those for one provider and model together, each answer as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.services.generation_api import Ask, BatchItem

Generate = Callable[[Ask], Awaitable[Answer]]


async def batched(generate: Generate, asks: Sequence[Ask], max_parallel: int) -> AsyncGenerator[BatchItem]:
    """Every request's answer or error, in the order they end. Closing the generator cancels those that run."""
    order = sorted(range(len(asks)), key=lambda at: (asks[at].request.provider, asks[at].request.model, at))
    waiting = iter(order)
    running: set[asyncio.Task[BatchItem]] = set()

    def start() -> None:
        at = next(waiting, None)
        if at is not None:
            running.add(asyncio.get_running_loop().create_task(_item(generate, at, asks[at])))

    try:
        for _ in range(max_parallel):
            start()
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                start()
            for task in sorted(done, key=lambda task: task.result().index):
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def _item(generate: Generate, index: int, ask: Ask) -> BatchItem:
    try:
        return BatchItem(index=index, answer=await generate(ask))
    except ClaudeJobsError as error:
        return BatchItem(index=index, error=error)
