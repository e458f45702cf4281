"""The measured loops, the same for every side: a side is a function that makes one call, or one stream. Standard library only:
the peer's environment runs this file, too."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

Call = Callable[[str], Awaitable[object]]
Stream = Callable[[str], AsyncIterator[object]]


async def added(call: Call, bare: Call, count: int) -> dict[str, float]:
    """Milliseconds that `call` adds to `bare`, in turn: the median of both, and of the differences."""
    await call("warm up"), await bare("warm up")
    ours: list[float] = []
    theirs: list[float] = []
    for n in range(count):
        ours.append(await _timed(call, f"question {n}"))
        theirs.append(await _timed(bare, f"question {n}"))
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    return {
        "ms": statistics.median(ours),
        "bare_ms": statistics.median(theirs),
        "added_ms": statistics.median(differences),
    }


async def rate(call: Call, count: int, at_once: int) -> float:
    """Calls per second, so many at once."""
    waiting = iter(range(count))

    async def worker() -> None:
        for n in waiting:
            await call(f"parallel question {n}")

    await asyncio.gather(*(call(f"warm up {n}") for n in range(at_once)))
    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return count / (time.perf_counter() - began)


async def events(stream: Stream, streams: int, directive: str) -> float:
    """Stream events per second, several streams at once."""

    async def one(prompt: str) -> int:
        return sum([1 async for _ in stream(prompt)])

    await one(f"warm up {directive}")
    began = time.perf_counter()
    counts = await asyncio.gather(*(one(f"stream {n} {directive}") for n in range(streams)))
    return sum(counts) / (time.perf_counter() - began)


async def _timed(call: Call, prompt: str) -> float:
    began = time.perf_counter()
    await call(prompt)
    return (time.perf_counter() - began) * 1_000
