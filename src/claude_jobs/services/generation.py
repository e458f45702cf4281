"""Generator: one straight path from a question to its answer: cache, coalescing, route, quota, provider, settlement, cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from claude_jobs.domain.generation import (
    Answer,
    Completion,
    Cost,
    Delta,
    Route,
)
from claude_jobs.errors import ClaudeJobsError, NoRoute, ProviderError, ProviderTimeout, StoreError
from claude_jobs.policy import cache as cache_rules
from claude_jobs.services.answer_cache import LANDING_S, AnswerCache, Kept, Lead, Place
from claude_jobs.services.batch_generation import batched
from claude_jobs.services.caller import Caller
from claude_jobs.services.calls import Call, Parts, answer_of, new_call
from claude_jobs.services.cli_answers import CliAnswers
from claude_jobs.services.economy import Economy
from claude_jobs.services.generation_api import Ask, BatchItem, EconomyOrder, ModelList, TokenCount
from claude_jobs.services.generation_errors import Means
from claude_jobs.services.making import Making, replayed
from claude_jobs.services.model_lists import ModelLists
from claude_jobs.services.planner import Planner
from claude_jobs.services.scribe import Scribe
from claude_jobs.services.trace import Trace
from claude_jobs.stores.gate import CallRecord

T = TypeVar("T")


_Make = Callable[[Call, Lead | None], Awaitable[Answer]]


class Generator:
    """Implements `services.generation_api.Generation`. Call it on one event loop only."""

    def __init__(
        self,
        *,
        parts: Parts,
        planner: Planner,
        cache: AnswerCache,
        cli: CliAnswers,
        lists: ModelLists,
        economy: Economy,
        secret: bytes,
        endpoint: Callable[[str], str],
    ) -> None:
        """`secret` keys the cache's hashes; `endpoint` tells where a provider's calls go."""
        self._parts = parts
        self._planner = planner
        self._cache = cache
        self._scribe = Scribe(cache.recorded, parts.clock)
        self._making = Making(parts=parts, cache=cache, scribe=self._scribe, cli=cli)
        self._lists = lists
        self._economy = economy
        self._secret = secret
        self._endpoint = endpoint

    async def generate(self, ask: Ask) -> Answer:
        """The whole answer. See `Generation`."""
        call = new_call(ask)
        try:
            call.plan = await self._planner.plan(ask, call.trace)
            self._set_clock(call)
            return await self._answer(call)
        except ClaudeJobsError as error:
            raise self._scribe.ended(call, error) from None
        except TimeoutError:
            raise self._scribe.ended(call, self._timed_out(call)) from None

    async def _answer(self, call: Call) -> Answer:
        place = self._place(call, is_stream=False)
        if place is None:
            return await self._making.whole(call, None)
        if call.ask.cache == "refresh":
            return await self._refreshed(call, place)
        same = (place.key, _means(call))
        answer, is_joined = await self._cache.shared(
            same, call.deadline, lambda _: self._found(call, place, self._making.whole)
        )
        return self._joined(call, answer) if is_joined else answer

    def _joined(self, call: Call, answer: Answer) -> Answer:
        call.trace.add("coalesce", "follower", route=answer.route, why=f"call {answer.id} was asking the same")
        return self._reused(call, answer.completion, answer.route, "coalesced", 0.0)

    async def _found(self, call: Call, place: Place, make: _Make) -> Answer:
        """From the cache, from another process that makes it, or made here."""
        since_ms = call.trace.ms()
        try:
            found = await self._cache.find(place, call.deadline, _means(call))
        except StoreError as error:  # money is held elsewhere: the cache only saves some
            call.trace.add("cache", "unavailable", why=error.code, since_ms=since_ms)
            return await make(call, None)
        except ClaudeJobsError as error:
            call.trace.add("coalesce", "follower", why=f"another process got {error.code}", since_ms=since_ms)
            raise
        if found.waited_s:
            call.first_by += found.waited_s  # no provider was asked meanwhile
            call.trace.add("coalesce", "follower", why="another process was asking the same", since_ms=since_ms)
        if isinstance(found, Lead):
            call.trace.add("cache", "miss", since_ms=since_ms)
            return await make(call, found)
        if found.lead is not None:
            self._parts.leases.chore(self._remade(call, found.lead))
        return self._kept(call, found, since_ms)

    def _kept(self, call: Call, found: Kept, since_ms: float) -> Answer:
        how = "stale" if found.is_stale else "hit"
        call.trace.add("cache", how, route=found.route, why=f"{found.age_s:.1f} s old", since_ms=since_ms)
        return self._reused(call, found.completion, found.route, how, found.age_s)

    def _reused(self, call: Call, completion: Completion, route: Route, how: str, age_s: float) -> Answer:
        paid = Cost(nusd=0, price="cached")
        answer = answer_of(call, completion, route, paid, cached=how, age_s=age_s)
        self._cache.recorded(self._scribe.line(call, route, "ok", completion.tokens, paid, cached=how))
        return answer

    async def _refreshed(self, call: Call, place: Place) -> Answer:
        """Asked anew; what was stored serves only if no provider can answer."""
        lead = await self._cache.lead(place)
        try:
            return await self._making.whole(call, lead)
        except (ProviderError, NoRoute) as error:  # no route: its circuit is open, or its key rests
            kept = await self._cache.peek(place) if error.retryable else None
            if kept is None:
                raise
            call.trace.add("cache", "stale", route=kept.route, why=f"in place of {error.code}")
            return self._reused(call, kept.completion, kept.route, "stale", kept.age_s)

    async def _remade(self, call: Call, lead: Lead) -> None:
        """A stale answer was served; the next one gets a fresh one."""
        again = new_call(call.ask)
        again.plan = call.plan
        self._set_clock(again)
        try:
            await self._making.whole(again, lead)
        except ClaudeJobsError as error:
            self._scribe.ended(again, error)

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer]:
        """Deltas, then the Answer. See `Generation`."""
        call = new_call(ask)
        try:
            call.plan = await self._planner.plan(ask, call.trace)
            self._set_clock(call)
            async with aclosing(await self._events(call)) as events:
                async for event in events:
                    yield event
        except ClaudeJobsError as error:
            raise self._scribe.ended(call, error) from None
        except TimeoutError:
            raise self._scribe.ended(call, self._timed_out(call)) from None

    async def _events(self, call: Call) -> AsyncGenerator[Delta | Answer]:
        place = self._place(call, is_stream=True)
        if place is None:
            return self._making.pieces(call, None)
        if call.ask.cache == "refresh":
            return self._making.pieces(call, await self._cache.lead(place))
        return self._together(call, place)

    async def _together(self, call: Call, place: Place) -> AsyncGenerator[Delta | Answer]:
        """A stream that is kept is made once for all who ask the same meanwhile; each of them gets it from its beginning."""
        same = (place.key, _means(call))
        flight, is_joined = self._cache.board(
            same, lambda flow: self._found(call, place, partial(self._making.flowing, flow))
        )
        is_flowing = False
        try:
            by = call.deadline if is_joined else call.deadline + LANDING_S
            async with aclosing(flight.flow.read(by)) as pieces:
                async for piece in pieces:
                    is_flowing = True
                    yield piece
            answer = flight.task.result()
        finally:
            self._cache.leave(same, flight)
        if is_joined:
            answer = self._joined(call, answer)
        for event in replayed(answer) if not is_flowing else (answer,):
            yield event

    def batch(
        self, asks: Sequence[Ask], *, max_parallel: int = 0, economy: EconomyOrder | None = None
    ) -> AsyncGenerator[BatchItem]:
        """All of them, each as it comes. See `Generation`."""
        most = max_parallel or self._parts.rules.max_requests
        if economy is not None:
            return self._economy.batch(asks, economy, self.generate, most)
        return batched(self.generate, asks, most)

    async def count_tokens(self, ask: Ask) -> TokenCount:
        """Input tokens, counted by the provider if it does that. See `Generation`."""
        plan = await self._planner.plan(replace(ask, fallbacks=()), Trace())
        return await self._lists.count(plan)

    async def models(self, caller: Caller, provider: str = "") -> ModelList:
        """The models that may be asked. See `Generation`."""
        return await self._lists.models(caller, provider)

    async def explain(self, call_id: str) -> CallRecord | None:
        """The record of a call; None if nobody knows it (any more)."""
        await self._cache.flush()
        return await self._parts.gate(self._parts.store.call, call_id)

    async def close(self) -> None:
        """End what goes on, settle it, and close the connections."""
        await self._economy.close()
        await self._cache.close()
        await self._parts.leases.close()
        await self._lists.close()

    def _place(self, call: Call, *, is_stream: bool) -> Place | None:
        """Where the answer would be kept; None if it is not to be."""
        ask, target = call.ask, call.plan.targets[0]
        why = "" if self._cache.rules.is_on and ask.cache != "off" else "switched off"
        why = why or cache_rules.is_cacheable(
            target.request,
            is_stream=is_stream,
            cache_stream=ask.cache_stream,
            skipped_providers=self._cache.rules.skip,
        )
        if why:
            call.trace.add("cache", "skipped", why=why)
            return None
        key = cache_rules.cache_key(
            self._secret,
            org=call.org,
            provider=target.provider,
            model=target.model,
            endpoint=self._endpoint(target.provider),
            request=target.request,
        )
        return Place(key=key, org=call.org, provider=target.provider, model=target.model)

    def _set_clock(self, call: Call) -> None:
        now = asyncio.get_running_loop().time()
        call.deadline = now + call.ask.timeout_s if call.ask.timeout_s is not None else float("inf")
        call.first_by = now + self._parts.rules.request_timeout_s

    def _timed_out(self, call: Call) -> ClaudeJobsError:
        target = call.plan.targets[0]
        message = f"No answer within {call.ask.timeout_s:g} s. Allow more with timeout_s."
        return ProviderTimeout(message, provider=target.provider, model=target.model)


def _means(call: Call) -> Means:
    """Who may go elsewhere, or wait longer, does not share an error."""
    return tuple(target.routes for target in call.plan.targets), call.ask.timeout_s
