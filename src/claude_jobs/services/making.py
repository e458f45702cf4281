"""Making an answer: asked of providers or a job by the chain, settled once, kept if it may be, and landed for who waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from claude_jobs.domain.generation import (
    Answer,
    Completion,
    Cost,
    Delta,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolUse,
)
from claude_jobs.errors import ClaudeJobsError, ProviderError, ProviderTimeout, ProviderUnavailable
from claude_jobs.services.answer_cache import AnswerCache, Lead
from claude_jobs.services.calls import Attempt, Call, Opened, Parts, answer_of, next_event, total
from claude_jobs.services.chain import ByJob, Chain
from claude_jobs.services.cli_answers import CliAnswers
from claude_jobs.services.flow import Flow
from claude_jobs.services.generation_errors import told
from claude_jobs.services.planner import Target
from claude_jobs.services.scribe import Scribe
from claude_jobs.services.spend import estimated
from claude_jobs.stores.gate import Settlement

T = TypeVar("T")


class Making:
    """Makes answers. A `lead` says where they are kept, and who waits for them."""

    def __init__(self, *, parts: Parts, cache: AnswerCache, scribe: Scribe, cli: CliAnswers) -> None:
        self._parts = parts
        self._cache = cache
        self._scribe = scribe
        self._cli = cli

    async def whole(self, call: Call, lead: Lead | None) -> Answer:
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

    async def flowing(self, flow: Flow, call: Call, lead: Lead | None) -> Answer:
        """As `whole`, its pieces passed on as they come."""
        try:
            async with aclosing(self.pieces(call, lead)) as events:
                async for event in events:
                    if isinstance(event, Answer):
                        return event
                    flow.add(event)
            raise AssertionError("a stream ends with its answer")
        except BaseException as error:
            if lead is not None and lead.fence:
                self._parts.leases.chore(self._land(lead, error))
            raise

    async def pieces(self, call: Call, lead: Lead | None) -> AsyncGenerator[Delta | Answer]:
        """As they come, then the answer, settled and kept as `whole` does; who waits for it is not told if it fails."""
        chain = Chain(self._parts, call)
        opened = await self._tried(call, chain, chain.opened, lead)
        if isinstance(opened, Answer):
            for event in replayed(opened):
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


def replayed(answer: Answer) -> list[Delta | Answer]:
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
