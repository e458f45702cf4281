"""Hedging: a second attempt at another route when the first is late to begin. Whoever begins first answers, the other one ends.

Both are paid for, so it is done only where it was asked for, within a small budget, and never at a route under strain.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from claude_jobs.domain.generation import Completion, Route
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.policy.routing import late_after_s, two_choices
from claude_jobs.services.books import Books, give_back, leave
from claude_jobs.services.calls import Attempt, Call, Opened, Parts
from claude_jobs.services.planner import Target
from claude_jobs.services.refusals import say
from claude_jobs.services.reservation import reserve
from claude_jobs.stores.gate import Refused, Reserved

T = TypeVar("T")
Others = Sequence[tuple[Target, Route]]
Asking = Callable[[Attempt], Coroutine[Any, Any, T]]
"""Asks the provider; settles an attempt that fails or is cancelled."""


class Hedge:
    """The second attempt of one call."""

    def __init__(self, parts: Parts, call: Call, books: Books) -> None:
        self._parts = parts
        self._call = call
        self._books = books
        self._is_begun = False

    async def whole(
        self, first: Attempt, others: Others, asking: Asking[tuple[Attempt, Completion]]
    ) -> tuple[Attempt, Completion]:
        """The answer of the attempt that answers first. Raises what `first` failed with if none does."""

        def drop(late: tuple[Attempt, Completion]) -> None:
            attempt, completion = late
            self._books.abandoned(attempt, tokens=completion.tokens)

        seen = first.load.wholes
        attempt, completion = await self._raced(first, others, asking, drop, seen)
        self._tell(first, attempt, seen)
        return attempt, completion

    async def opened(self, first: Attempt, others: Others, asking: Asking[Opened]) -> Opened:
        """The stream that begins first. Raises what `first` failed with if none does."""

        def drop(late: Opened) -> None:
            if isinstance(late.first, Completion):
                self._books.abandoned(late.attempt, tokens=self._books.counted(late.first).tokens)
            else:
                self._books.abandoned(late.attempt)
            self._parts.leases.chore(late.rest.aclose())

        seen = first.load.firsts
        opened = await self._raced(first, others, asking, drop, seen)
        self._tell(first, opened.attempt, seen)
        return opened

    async def _raced(
        self,
        first: Attempt,
        others: Others,
        asking: Asking[T],
        drop: Callable[[T], None],
        seen: deque[float],
    ) -> T:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(asking(first))]
        chosen: asyncio.Task[T] | None = None
        try:
            await asyncio.wait(tasks, timeout=late_after_s(seen, self._parts.rules.request_timeout_s))
            if not tasks[0].done() and (second := await self._second(others, tasks[0])) is not None:
                tasks.append(loop.create_task(asking(second)))
            chosen = await _first_good(tasks)
            return chosen.result()
        finally:
            await _ended([task for task in tasks if task is not chosen], drop)

    async def _second(self, others: Others, first: asyncio.Task[Any]) -> Attempt | None:
        """Begun at one of the others, None if that may not be now, or is not needed any more."""
        now = asyncio.get_running_loop().time()
        usable = [(target, route) for target, route in others if target.provider != CLAUDE_CLI]
        if not usable or now >= min(self._call.first_by, self._call.deadline):
            return None
        loads = [self._parts.load(route) for _, route in usable]
        at = two_choices([route for _, route in usable], loads, self._parts.rnd())
        (target, route), load = usable[at], loads[at]
        if not self._parts.hedges.take():
            return self._not_at(route, "as many calls as may have a second attempt had one")
        if not self._parts.turnstile.enter_now(load):
            self._parts.hedges.give_back()
            return self._not_at(route, "no turn is free")
        attempt_id = uuid.uuid4().hex
        began_ms = self._call.trace.ms()
        why = ""
        try:
            answer = await reserve(self._parts, self._call, attempt_id, target, route)
            why = "the first attempt has ended" if first.done() else _unfit(answer)
            if why and isinstance(answer, Reserved):
                await give_back(self._parts, attempt_id, route)
        except BaseException:
            leave(self._parts, load)
            raise
        if why:
            leave(self._parts, load)
            self._parts.hedges.give_back()
            return self._not_at(route, why)
        self._is_begun = True
        self._call.trace.add("hedge", "started", route=route, why="the first attempt is late to answer")
        return self._parts.attempt(attempt_id, target, route, load, began_ms)

    def _not_at(self, route: Route, why: str) -> None:
        self._call.trace.add("hedge", "denied", route=route, why=why)

    def _tell(self, first: Attempt, chosen: Attempt, seen: deque[float]) -> None:
        """Who answered. That the first one was late is a time seen, too: without it the times would only ever shrink."""
        if not self._is_begun:
            return
        if chosen is first:
            self._call.trace.add("hedge", "lost", why="the first attempt began to answer before it")
        else:
            self._call.trace.add("hedge", "won", route=chosen.route)
            seen.append((self._call.trace.ms() - first.began_ms) / 1_000)


def _unfit(answer: Reserved | Refused) -> str:
    """Why the route is to be left alone, "" if it is not. A circuit that is being tried out is no place for a second attempt."""
    if isinstance(answer, Refused):
        return say(answer)
    return "its circuit is not closed" if answer.is_probe else ""


async def _first_good(tasks: Sequence[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The first that did not fail; the very first one if all did."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and not task.cancelled() and task.exception() is None:
                return task
    return tasks[0]


async def _ended(tasks: Sequence[asyncio.Task[T]], drop: Callable[[T], None]) -> None:
    """Cancel them and wait: what they used is booked when they have ended. One that answered all the same is paid in full."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            drop(task.result())
