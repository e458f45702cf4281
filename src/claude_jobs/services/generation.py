"""Generator: one straight path from a question to its answer: cache, coalescing, route, quota, provider, settlement, cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from claude_jobs.domain.generation import (
    Answer,
    Completion,
    Cost,
    Delta,
    Route,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolUse,
)
from claude_jobs.errors import ClaudeJobsError, NoRoute, ProviderError, ProviderTimeout, ProviderUnavailable, StoreError
from claude_jobs.policy import cache as cache_rules
from claude_jobs.services.answer_cache import AnswerCache, Kept, Lead, Place
from claude_jobs.services.batch_generation import batched
from claude_jobs.services.caller import Caller
from claude_jobs.services.calls import Attempt, Call, Opened, Parts, answer_of, new_call, next_event, total
from claude_jobs.services.chain import ByJob, Chain
from claude_jobs.services.cli_answers import CliAnswers
from claude_jobs.services.economy import Economy
from claude_jobs.services.generation_api import Ask, BatchItem, EconomyOrder, ModelList, TokenCount
from claude_jobs.services.generation_errors import Means, told
from claude_jobs.services.model_lists import ModelLists
from claude_jobs.services.planner import Planner, Target
from claude_jobs.services.scribe import Scribe
from claude_jobs.services.spend import estimated
from claude_jobs.services.trace import Trace
from claude_jobs.stores.gate import CallRecord, Settlement

T = TypeVar("T")


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
        self._cli = cli
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
            return await self._made(call, None)
        if call.ask.cache == "refresh":
            return await self._refreshed(call, place)
        same = (place.key, _means(call))
        answer, is_joined = await self._cache.shared(same, call.deadline, lambda: self._found(call, place))
        if not is_joined:
            return answer
        call.trace.add("coalesce", "follower", route=answer.route, why=f"call {answer.id} was asking the same")
        return self._reused(call, answer.completion, answer.route, "coalesced", 0.0)

    async def _found(self, call: Call, place: Place) -> Answer:
        """From the cache, from another process that makes it, or made here."""
        since_ms = call.trace.ms()
        try:
            found = await self._cache.find(place, call.deadline, _means(call))
        except StoreError as error:  # money is held elsewhere: the cache only saves some
            call.trace.add("cache", "unavailable", why=error.code, since_ms=since_ms)
            return await self._made(call, None)
        except ClaudeJobsError as error:
            call.trace.add("coalesce", "follower", why=f"another process got {error.code}", since_ms=since_ms)
            raise
        if found.waited_s:
            call.first_by += found.waited_s  # no provider was asked meanwhile
            call.trace.add("coalesce", "follower", why="another process was asking the same", since_ms=since_ms)
        if isinstance(found, Lead):
            call.trace.add("cache", "miss", since_ms=since_ms)
            return await self._made(call, found)
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
            return await self._made(call, lead)
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
            await self._made(again, lead)
        except ClaudeJobsError as error:
            self._scribe.ended(again, error)

    async def _made(self, call: Call, lead: Lead | None) -> Answer:
        """Asked of a provider, settled, and kept if it may be."""
        chain = Chain(self._parts, call)
        try:
            done = await self._tried(call, chain, chain.whole, lead)
            return done if isinstance(done, Answer) else await self._settled(call, chain, *done, lead)
        except BaseException as error:
            if lead is not None and lead.fence:
                self._parts.leases.chore(self._land(lead, error))
            raise

    async def _tried(self, call: Call, chain: Chain, ask: Callable[[], Awaitable[T]], lead: Lead | None) -> T | Answer:
        """What the chain comes to; where claude-cli is next in it, a job's answer."""
        try:
            while True:
                try:
                    return await ask()
                except ByJob as next_is:
                    target = next_is.target
                try:
                    return await self._asked_cli(call, chain, target, lead)
                except ProviderError as error:
                    if not chain.goes_on_after_job(error):
                        raise
        except BaseException as error:
            self._scribe.spent(call, chain, error)
            raise

    async def _land(self, lead: Lead, error: BaseException) -> None:
        """Those who wait for it learn that it failed; if it only was given up, one of them takes over."""
        text = told(error, lead.means) if isinstance(error, ClaudeJobsError) else ""
        landing = self._cache.landing(lead, text)
        settlement = Settlement(id="", now_ms=self._parts.clock(), landing=landing)
        await self._parts.gate(self._parts.store.settle, settlement)

    async def _settled(
        self, call: Call, chain: Chain, attempt: Attempt, completion: Completion, lead: Lead | None
    ) -> Answer:
        is_first = attempt.target is call.plan.targets[0]

        def settlement(cost: Cost) -> Settlement:
            mine = lead if is_first else None
            return Settlement(
                id=attempt.id,
                now_ms=self._parts.clock(),
                route=attempt.route,
                tokens=completion.tokens.total,
                nusd=cost.nusd,
                verdict=chain.books.verdict(attempt),
                breaker=self._parts.rules.breaker,
                headers=completion.limits,
                record=self._scribe.line(
                    call, attempt.route, "ok", chain.books.used, chain.books.spent, first_ms=attempt.first_ms
                ),
                put=self._cache.put(mine, completion, attempt.route, cost, attempt.target.request) if mine else None,
                landing=self._cache.landing(lead) if lead and lead.fence else None,
            )

        await chain.books.succeeded(attempt, completion, settlement)
        return answer_of(call, completion, attempt.route, chain.books.spent, first_ms=attempt.first_ms)

    async def _asked_cli(self, call: Call, chain: Chain, target: Target, lead: Lead | None) -> Answer:
        since_ms = call.trace.ms()
        done = await self._cli.answer(call.ask, target, call.deadline)
        route, before = target.routes[0], chain.books.spent
        call.trace.add("attempt", "ok", route=route, cost=done.cost, why=f"job {done.job_id}", since_ms=since_ms)
        # What the job cost stands in the job's own line.
        record = self._scribe.line(call, route, "ok", chain.books.used, replace(before, price=f"job {done.job_id}"))
        is_first = target is call.plan.targets[0]
        mine = lead if is_first else None
        settlement = Settlement(
            id="",
            now_ms=self._parts.clock(),
            record=record,
            put=self._cache.put(mine, done.completion, route, done.cost, target.request) if mine else None,
            landing=self._cache.landing(lead) if lead and lead.fence else None,
        )
        await self._parts.leases.settle(settlement)
        return replace(answer_of(call, done.completion, route, total([before, done.cost])), job_id=done.job_id)

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer]:
        """Deltas, then the Answer. See `Generation`."""
        call = new_call(ask)
        try:
            call.plan = await self._planner.plan(ask, call.trace)
            self._set_clock(call)
            async with aclosing(self._streamed(call)) as events:
                async for event in events:
                    yield event
        except ClaudeJobsError as error:
            raise self._scribe.ended(call, error) from None
        except TimeoutError:
            raise self._scribe.ended(call, self._timed_out(call)) from None

    async def _streamed(self, call: Call) -> AsyncGenerator[Delta | Answer]:
        place = self._place(call, is_stream=True)
        kept = await self._cache.peek(place) if place is not None and call.ask.cache == "use" else None
        if kept is not None and not kept.is_stale:  # nobody would make it anew
            for event in _replayed(self._kept(call, kept, call.trace.ms())):
                yield event
            return
        lead = await self._cache.lead(place) if place is not None else None
        chain = Chain(self._parts, call)
        opened = await self._tried(call, chain, chain.opened, lead)
        if isinstance(opened, Answer):
            for event in _replayed(opened):
                yield event
            return
        async with aclosing(self._passed_on(call, chain, opened, lead)) as events:
            async for event in events:
                yield event

    async def _passed_on(
        self, call: Call, chain: Chain, opened: Opened, lead: Lead | None
    ) -> AsyncGenerator[Delta | Answer]:
        """From here on a piece of the answer is out: nothing is tried again."""
        attempt, event = opened.attempt, opened.first
        loop, deadline = asyncio.get_running_loop(), call.deadline
        is_settled = False
        try:
            while not isinstance(event, Completion):
                attempt.chars.append(event.arguments if isinstance(event, ToolDelta) else event.text)
                yield event
                if loop.time() >= deadline:
                    raise ProviderTimeout("The time for this answer is over.", provider=attempt.route.provider)
                following = await next_event(opened.rest, deadline, attempt.route)
                if following is None:
                    raise ProviderUnavailable("The stream ended in the middle.", provider=attempt.route.provider)
                event = following
            is_settled = True
            completion = chain.books.counted(event)
            answer = await self._settled(call, chain, attempt, completion, lead)
        except ProviderError as error:
            is_settled = True
            tokens = estimated(error.input_tokens or call.plan.input_tokens, "".join(attempt.chars))
            tokens = replace(tokens, output=max(tokens.output, error.output_tokens))
            await chain.books.failed(attempt, error, tokens=tokens)
            self._scribe.spent(call, chain, error)
            raise
        finally:
            if not is_settled:
                chain.books.abandoned(attempt)
                self._scribe.spent(call, chain, asyncio.CancelledError())
            if not isinstance(event, Completion):
                self._parts.leases.chore(opened.rest.aclose())
        yield answer

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


def _replayed(answer: Answer) -> list[Delta | Answer]:
    """A whole answer as a stream."""
    deltas: list[Delta | Answer] = []
    calls = 0
    for part in answer.completion.parts:
        if isinstance(part, Text):
            deltas.append(TextDelta(text=part.text))
        elif isinstance(part, Thinking):
            deltas.append(ThinkingDelta(text=part.text))
        elif isinstance(part, ToolUse):
            arguments = json.dumps(dict(part.arguments), ensure_ascii=False)
            deltas.append(ToolDelta(index=calls, id=part.id, name=part.name, arguments=arguments))
            calls += 1
    return [*deltas, answer]
