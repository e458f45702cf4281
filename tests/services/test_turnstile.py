"""The turnstile: so many at once, no key beyond what it has room for, and no turn is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from claude_jobs.policy.routing import Load
from claude_jobs.services.turnstile import Turnstile


async def peak_of(turnstile: Turnstile, load: Load, count: int) -> int:
    """The most that ran at once at a route."""
    peak = 0

    async def one() -> None:
        nonlocal peak
        await turnstile.enter(0, load)
        peak = max(peak, load.running)
        await asyncio.sleep(0.001)
        turnstile.leave(load)

    await asyncio.gather(*(one() for _ in range(count)))
    return peak


async def test_those_who_wait_do_not_start_together_where_there_is_room_for_one() -> None:
    turnstile, load = Turnstile(10), Load(limit=1.0)

    assert await peak_of(turnstile, load, 20) == 1
    assert (turnstile.running, load.running, turnstile.waiting) == (0, 0, 0)


async def test_who_leaves_the_queue_leaves_no_turn_taken() -> None:
    """Also who is cancelled just when its turn came."""
    turnstile, load = Turnstile(1), Load()
    await turnstile.enter(0, load)
    waiting = [asyncio.create_task(turnstile.enter(0, load)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    turnstile.leave(load)
    waiting[0].cancel()
    for task in waiting[:2]:
        with suppress(asyncio.CancelledError):
            await task
    await waiting[2]

    assert (turnstile.running, load.running, turnstile.waiting) == (1, 1, 0)


async def test_a_turn_at_once_counts_as_any_other() -> None:
    turnstile, load = Turnstile(2), Load(limit=1.0)

    assert turnstile.enter_now(load)
    assert not turnstile.enter_now(load)
    turnstile.leave(load)
    assert (turnstile.running, load.running) == (0, 0)
