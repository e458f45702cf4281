"""One call's way to an answer: which route next, what it reserves, what a failure means, what it used.

Retries are owned here and nowhere else (tenacity drives them; policy.attempts decides). Nothing is retried once a piece of
an answer was passed on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_never

from claude_jobs.domain.generation import Completion, Route
from claude_jobs.errors import (
    BadResponse,
    ClaudeJobsError,
    NoRoute,
    ProviderError,
    ProviderTimeout,
    StoreError,
)
from claude_jobs.policy import attempts as rules
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.policy.routing import Load, two_choices
from claude_jobs.providers.base import ProviderCall
from claude_jobs.services.books import Books, give_back, leave
from claude_jobs.services.calls import Attempt, Call, Opened, Parts, next_event
from claude_jobs.services.hedging import Hedge
from claude_jobs.services.planner import Target
from claude_jobs.services.refusals import quota_error, rate_error, say
from claude_jobs.services.reservation import reserve, revived
from claude_jobs.stores.gate import Refused, RefusedBy, Reserved

MAX_PACE_S = 10.0
"""Longest wait of a call for its rates before it is refused; the caller can wait itself, and knows more."""
SHUT_MS = 500
"""How long a refused route is passed by without asking the gate: another process may have closed its circuit since."""


OWN_TIMEOUT_S = 0.05
"""So much later than a provider's own time-out, which has better words, one is ended that only gives signs of life."""


class ByJob(Exception):
    """The next to be asked is claude-cli: a job answers, not a provider."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target


class Chain:
    """The attempts of one call."""

    def __init__(self, parts: Parts, call: Call) -> None:
        self._parts = parts
        self._call = call
        self._at = 0
        self._retries = 0
        self._rests = 0
        self._out: dict[Route, int] = {}
        self._hung: set[Route] = set()
        self._asked: set[str] = set()
        self._notes: list[str] = []
        self._last: ProviderError | None = None
        self._pause_s = 0.0
        self._paced_s = 0.0
        self.books = Books(parts, call)
        parts.hedges.call()

    @property
    def target(self) -> Target:
        """The one that is tried now."""
        return self._call.plan.targets[self._at]

    async def whole(self) -> tuple[Attempt, Completion]:
        """An attempt that answered, not settled yet. Raises what ended the search."""
        return await self._retrying()(self._whole)

    async def opened(self) -> Opened:
        """A stream that began to answer, not settled yet. Raises what ended the search."""
        return await self._retrying()(self._open)

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(self._goes_on), wait=self._wait, stop=stop_never, sleep=asyncio.sleep, reraise=True
        )

    async def _whole(self) -> tuple[Attempt, Completion]:
        attempt = await self._begin()
        if not self._call.ask.hedge:
            return await self._generated(attempt)
        return await self._hedge().whole(attempt, self._others(attempt), self._generated)

    async def _generated(self, attempt: Attempt) -> tuple[Attempt, Completion]:
        try:
            completion = await attempt.provider.generate(self._provider_call(attempt, is_whole=True))
        except ProviderError as error:
            await self._failed(attempt, error)
            raise
        except BaseException:  # cancelled, or a mistake of ours: its turn and its reservation are given back
            self.books.abandoned(attempt)
            raise
        attempt.load.wholes.append((self._call.trace.ms() - attempt.began_ms) / 1_000)
        return attempt, self.books.counted(completion)

    async def _open(self) -> Opened:
        attempt = await self._begin()
        if not self._call.ask.hedge:
            return await self._begun(attempt)
        return await self._hedge().opened(attempt, self._others(attempt), self._begun)

    async def _begun(self, attempt: Attempt) -> Opened:
        asked = self._provider_call(attempt, is_whole=False)
        stream = attempt.provider.stream(asked)
        try:
            by = asyncio.get_running_loop().time() + asked.first_s + OWN_TIMEOUT_S
            first = await next_event(stream, by, attempt.route)
            if first is None:
                raise BadResponse("The stream ended before it began.", provider=attempt.route.provider)
        except ProviderError as error:
            await self._failed(attempt, error)
            raise
        except BaseException:  # cancelled, or a mistake of ours: its turn and its reservation are given back
            self.books.abandoned(attempt)
            raise
        attempt.first_ms = self._call.trace.ms()
        attempt.load.firsts.append((attempt.first_ms - attempt.began_ms) / 1_000)
        return Opened(attempt=attempt, first=first, rest=stream)

    def _hedge(self) -> Hedge:
        return Hedge(self._parts, self._call, self.books)

    def _others(self, first: Attempt) -> tuple[tuple[Target, Route], ...]:
        """Where else this may be asked: the other keys of the same target, else the next one's."""
        for target in self._call.plan.targets[self._at :]:
            found = [route for route in target.routes if route != first.route and route not in self._out]
            if found and target.late is None:
                return tuple((target, route) for route in found)
        return ()

    def _provider_call(self, attempt: Attempt, *, is_whole: bool) -> ProviderCall:
        now, call = asyncio.get_running_loop().time(), self._call
        has_others = self._has_others(attempt.route)
        begin_s, left_s = call.first_by - now, call.deadline - now
        whole_s = (attempt.target.request.max_output_tokens or 0) / rules.TOKENS_PER_S if is_whole else 0.0
        attempt.patience_s = rules.patience_s(begin_s, has_others=has_others)
        attempt.is_hurried = left_s < begin_s + whole_s
        return ProviderCall(
            request=attempt.target.request,
            key=attempt.key,
            first_s=rules.patience_s(min(begin_s + whole_s, left_s), has_others=has_others),
            idle_s=max(0.001, min(2 * self._parts.rules.request_timeout_s, left_s)),
        )

    def _has_others(self, route: Route) -> bool:
        """Whether anybody else could answer if this one does not: another key of the target, or a later one."""
        keys = (other for other in self.target.routes if other != route and other not in self._hung)
        return any(self._is_open(other) for other in keys) or self._has_next()

    def _has_next(self) -> bool:
        later = self._call.plan.targets[self._at + 1 :]
        return any(self._is_open(route) for target in later for route in target.routes)

    def _is_open(self, route: Route) -> bool:
        return route not in self._out and self._parts.shut.get(route, (0, 0))[0] <= self._parts.clock()

    # Before an attempt: route, turn, reservation.

    async def _begin(self) -> Attempt:
        while True:
            route = await self._route()
            load = await self._turn(route)
            began_ms = self._call.trace.ms()
            attempt_id = uuid.uuid4().hex
            try:
                answer = await reserve(self._parts, self._call, attempt_id, self.target, route)
                if isinstance(answer, Reserved):
                    return self._admitted(answer, self.target, route, load, began_ms)
            except NoRoute as error:  # a quota in dollars, and nobody knows this model's price
                leave(self._parts, load)
                self._call.trace.add("skip", "unable", route=route, why=error.message)
                self._note(route, error.message, 0)
                continue
            except BaseException as error:
                leave(self._parts, load)
                if not isinstance(error, StoreError):  # it may have been reserved though nobody heard of it
                    self._parts.leases.chore(give_back(self._parts, attempt_id, route))
                raise
            leave(self._parts, load)
            await self._refused(route, answer)

    def _admitted(self, reserved: Reserved, target: Target, route: Route, load: Load, began_ms: float) -> Attempt:
        if target.provider not in self._asked:  # its retries are a share of calls, not of attempts
            self._asked.add(target.provider)
            self._parts.budget(target.provider).call()
        if reserved.is_probe:
            self._call.trace.add("route", "probe", route=route, why="the circuit was open; this call finds out")
        return self._parts.attempt(reserved.id, target, route, load, began_ms)

    async def _route(self) -> Route:
        """One of the present target's, or of the next that has any. Waits for the first to be usable if that is soon."""
        while True:
            if asyncio.get_running_loop().time() >= min(self._call.first_by, self._call.deadline):
                raise self._end("the time to answer is over")
            while self._at < len(self._call.plan.targets):
                if self.target.provider == CLAUDE_CLI and self.target.routes[0] not in self._out:
                    raise ByJob(self.target)
                routes = [route for route in self.target.routes if not self._is_out(route)]
                if routes and self.target.late is not None:
                    await self._look_up(self.target.late)
                    continue
                routes = [route for route in routes if route not in self._hung] or routes
                if routes:
                    return routes[two_choices(routes, [self._parts.load(route) for route in routes], self._parts.rnd())]
                self._advance("no key left")
            await self._wait_for_a_route()

    async def _look_up(self, late: Callable[[], Awaitable[Target | str]]) -> None:
        """The present target is known by its provider only: what it is, now that its turn has come."""
        found, plan = await late(), self._call.plan
        if isinstance(found, str):
            self._call.trace.add("skip", "unable", route=self.target.routes[0], why=found)
            self._note(self.target.routes[0], found, 0)
        else:
            targets = (*plan.targets[: self._at], found, *plan.targets[self._at + 1 :])
            self._call.plan = replace(plan, targets=targets)

    def _is_out(self, route: Route) -> bool:
        """Whether it was refused to this call, or to any a moment ago."""
        if route in self._out:
            return True
        believed_ms, until_ms = self._parts.shut.get(route, (0, 0))
        if believed_ms <= self._parts.clock():
            return False
        why = "it was refused a moment ago"
        self._call.trace.add("skip", "denied", route=route, why=why)
        self._note(route, why, until_ms)
        return True

    def _advance(self, why: str) -> None:
        self._at += 1
        self._retries = 0
        if self._at < len(self._call.plan.targets):
            target = self.target
            self._call.trace.add("fallback", "next", route=Route(provider=target.provider, model=target.model), why=why)

    async def _wait_for_a_route(self) -> None:
        """All are out. Those that only cool down may be tried again when they may, if there is time for it."""
        soonest_ms = min((until for until in self._out.values() if until), default=0)
        least_s = max(0.0, (soonest_ms - self._parts.clock()) / 1_000)
        is_retry = self._last is not None  # a rest after a refusal
        self._rests += is_retry
        wait_s = rules.pause_s(max(1, self._rests), self._parts.rnd(), least_s)
        loop = asyncio.get_running_loop()
        in_time = loop.time() + wait_s < min(self._call.first_by, self._call.deadline)
        may_rest = bool(soonest_ms) and in_time and self._rests <= self._parts.rules.max_retries
        if may_rest and is_retry:
            rested = next(route for route, until in self._out.items() if until == soonest_ms)
            may_rest = self._parts.budget(rested.provider).take()
        if not may_rest:
            raise self._end("", retry_after_s=least_s if soonest_ms else None)
        since_ms = self._call.trace.ms()
        await asyncio.sleep(wait_s + 0.001)
        self._call.trace.add("wait", "ok", why="for a key or circuit", since_ms=since_ms)
        self._out = {route: until for route, until in self._out.items() if not until or until > soonest_ms}
        self._at = 0

    def _end(self, why: str, *, retry_after_s: float | None = None) -> ClaudeJobsError:
        """What the caller gets when nothing is left to try."""
        if self._last is not None:
            self._pause_s = -1.0
            return self._last
        tried = tuple(self._notes) or (why,)
        message = f"Nothing can answer this now. {'. '.join(tried)}."
        return NoRoute(message, tried=tried, retryable=retry_after_s is not None, retry_after_s=retry_after_s)

    async def _turn(self, route: Route) -> Load:
        load = self._parts.load(route)
        turnstile = self._parts.turnstile
        since_ms = self._call.trace.ms()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            if self._call.deadline == float("inf"):
                await turnstile.enter(self._call.ask.priority, load)
            else:
                async with asyncio.timeout_at(self._call.deadline):
                    await turnstile.enter(self._call.ask.priority, load)
        except TimeoutError:
            raise self._end("the time was over before its turn came", retry_after_s=1.0) from None
        waited = loop.time() - began
        if waited > 0.001:
            self._call.first_by += waited
            self._call.trace.add("wait", "ok", route=route, why="for its turn", since_ms=since_ms)
        return load

    async def _refused(self, route: Route, refused: Refused) -> None:
        """Another route, a short wait, or the end."""
        now_ms = self._parts.clock()
        wait_s = max(0.0, (refused.retry_at_ms - now_ms) / 1_000)
        self._call.trace.add(
            "quota" if refused.by is RefusedBy.QUOTA else "skip", "denied", route=route, why=say(refused)
        )
        if refused.by is RefusedBy.QUOTA:
            if refused.is_org:
                raise quota_error(refused, wait_s)
            self._note(route, say(refused), refused.retry_at_ms)
        elif refused.by is RefusedBy.RATE:
            await self._pace(refused, wait_s)
        elif refused.by is RefusedBy.DEAD_KEY and await revived(self._parts, route.key):
            return
        else:
            self._note(route, say(refused), refused.retry_at_ms)
            self._parts.shut[route] = (now_ms + min(SHUT_MS, round(wait_s * 1_000) or SHUT_MS), refused.retry_at_ms)

    async def _pace(self, refused: Refused, wait_s: float) -> None:
        now = asyncio.get_running_loop().time()
        if (
            not refused.retry_at_ms
            or self._paced_s + wait_s > MAX_PACE_S
            or now + wait_s >= min(self._call.first_by, self._call.deadline)
        ):
            raise rate_error(refused, wait_s)
        since_ms = self._call.trace.ms()
        await asyncio.sleep(wait_s)
        self._paced_s += wait_s
        self._call.first_by += wait_s
        self._call.trace.add("wait", "ok", why=f"for the rate {refused.counter}", since_ms=since_ms)

    def _note(self, route: Route, why: str, until_ms: int) -> None:
        self._out[route] = until_ms
        self._notes.append(f"{route.provider}/{route.model}: {why}")

    async def _failed(self, attempt: Attempt, error: ProviderError) -> None:
        until_ms = await self.books.failed(attempt, error)
        took_s = (self._call.trace.ms() - attempt.began_ms) / 1_000
        self._call.first_by += max(0.0, took_s - attempt.patience_s)  # a whole answer may take longer than to begin one
        if isinstance(error, ProviderTimeout) and error.status is None:
            self._hung.add(attempt.route)
        if rules.after(error) is rules.Next.OTHER_KEY:
            self._note(attempt.route, error.code, until_ms)

    def goes_on_after_job(self, error: ProviderError) -> bool:
        """Whether somebody else may be asked, now that the job of the present target failed."""
        route = self.target.routes[0]
        self._call.trace.add("attempt", error.code, route=route, why=error.message)
        self._last = error
        self._note(route, error.code, 0)
        return self._at + 1 < len(self._call.plan.targets)

    # After an attempt: whether another one may help.

    def _goes_on(self, error: BaseException) -> bool:
        """Whether another attempt may help; settles which."""
        if not isinstance(error, ProviderError) or self._pause_s < 0:
            return False
        self._last, self._pause_s = error, 0.0
        what = rules.after(error)
        if what is rules.Next.NOTHING:
            return False
        if what is rules.Next.OTHER_MODEL:
            self._advance(error.code)
        elif what is rules.Next.AGAIN:
            self._again(error)
        return self._at < len(self._call.plan.targets) or bool(self._out)

    def _again(self, error: ProviderError) -> None:
        if isinstance(error, ProviderTimeout) and error.status is None and self._has_next():
            self._advance(error.code)  # who hangs is not given the others' time
            return
        self._retries += 1
        if self._retries > self._parts.rules.max_retries or not self._parts.budget(self.target.provider).take():
            self._advance(f"{error.code}, {self._retries} times" if self._retries > 1 else error.code)
            return
        self._pause_s = rules.pause_s(self._retries, self._parts.rnd(), error.retry_after_s)
        if asyncio.get_running_loop().time() + self._pause_s >= min(self._call.first_by, self._call.deadline):
            self._pause_s = 0.0
            self._advance(f"{error.code}, and no time to wait")

    def _wait(self, _: RetryCallState) -> float:
        if self._pause_s > 0:
            self._call.trace.add("retry", "wait", why=f"{self._pause_s:.2f} s")
        return self._pause_s
