"""Who may ask a provider now: so many requests at once, the rest wait by priority, then in the order they came."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from claude_jobs.errors import RateExceeded
from claude_jobs.policy.routing import Load

MAX_WAITING = 1_000


@dataclass(order=True, slots=True)
class _Waiter:
    rank: tuple[int, int]
    load: Load = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Turnstile:
    """A turn counts in its route's load from the moment it is given. Call it on one event loop only."""

    def __init__(self, most: int, *, most_waiting: int = MAX_WAITING) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._order = itertools.count()
        self._waiting: list[_Waiter] = []
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def enter(self, priority: int, load: Load) -> None:
        """Wait for a turn at a route that has room; `leave` ends it.

        Raises:
            RateExceeded: Too many wait already.
        """
        if self.enter_now(load):
            return
        if len(self._waiting) >= self._most_waiting:
            message = (
                f"{len(self._waiting)} requests wait for their turn already, the most that may. "
                "Ask later, ask for less at once, or raise MAX_CONCURRENT_REQUESTS."
            )
            raise RateExceeded(message, counter="requests waiting", limit=self._most_waiting, retry_after_s=1.0)
        waiter = _Waiter((-priority, next(self._order)), load, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        self._admit()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                heapq.heapify(self._waiting)
            elif waiter.turn.done() and not waiter.turn.cancelled():
                self.leave(load)
            raise

    def enter_now(self, load: Load) -> bool:
        """Take a turn if there is one at once and nobody waits; `leave` ends it."""
        if self._waiting or self.running >= self._most or not load.has_room:
            return False
        self._begin(load)
        return True

    def leave(self, load: Load) -> None:
        """This one has ended: others may have its turn."""
        self.running -= 1
        load.running -= 1
        self._admit()

    def _begin(self, load: Load) -> None:
        self.running += 1
        load.running += 1

    def _admit(self) -> None:
        passed: list[_Waiter] = []
        while self._waiting and self.running < self._most:
            waiter = heapq.heappop(self._waiting)
            if waiter.turn.done():
                continue
            if waiter.load.has_room:
                self._begin(waiter.load)
                waiter.turn.set_result(None)
            else:
                passed.append(waiter)
        for waiter in passed:
            heapq.heappush(self._waiting, waiter)
