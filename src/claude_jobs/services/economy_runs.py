"""Batches on their way: handed in, written down, followed to their end, every answer booked once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Answer, Cost, Route, Tokens
from claude_jobs.errors import (
    ClaudeJobsError,
    ModelNotFound,
    NoRoute,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StoreUnavailable,
)
from claude_jobs.providers.batches import BatchApi, Outcome
from claude_jobs.services.calls import Call, Parts, answer_of
from claude_jobs.services.economy_book import EconomyBook, SentBatch, SentItem
from claude_jobs.services.planner import Target
from claude_jobs.services.scribe import Scribe
from claude_jobs.services.spend import counted
from claude_jobs.stores.gate import Settlement

log = structlog.get_logger()

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between two looks at a batch, which doubles: most take minutes, none a second."""
MOST_MS = 25 * 3_600_000
"""Providers end a batch after 24 hours."""

Result = Answer | ClaudeJobsError


@dataclass(slots=True, kw_only=True)
class Item:
    """A request on its way. `place` is where its caller has it."""

    place: int
    label: str
    call: Call
    target: Target
    route: Route
    reservation: str = ""


@dataclass(slots=True, kw_only=True)
class Run:
    """A batch that is followed.

    Attributes:
        waiting: How many callers wait for it.
        is_booked: It is over, and every answer in the books.
    """

    sent: SentBatch
    api: BatchApi
    key: ApiKey
    items: dict[str, Item]
    task: asyncio.Task[dict[str, Result]] | None = None
    waiting: int = 0
    is_booked: bool = False


class Runs:
    """All batches that this process follows. Call it on one event loop only."""

    def __init__(
        self, *, parts: Parts, scribe: Scribe, book: EconomyBook, apis: Callable[[str], BatchApi | None]
    ) -> None:
        """`apis`: a provider's Batch API, None if it has none."""
        self._parts = parts
        self._scribe = scribe
        self._book = book
        self._apis = apis
        self._runs: dict[str, Run] = {}
        self._used: dict[str, BatchApi] = {}

    def api(self, provider: str) -> BatchApi | None:
        """The provider's, None if it has none."""
        api = self._used.get(provider) or self._apis(provider)
        if api is not None:
            self._used[provider] = api
        return api

    async def submitted(self, name: str, items: Sequence[Item]) -> Run | ClaudeJobsError:
        """Handed in and written down. It is not tried again: what a broken connection left behind nobody knows."""
        first = items[0]
        api, key = self._used[first.route.provider], first.target.keys[first.route.key]
        assert key is not None, "a provider with a batch API has keys"
        sent = SentBatch(
            name=name,
            provider=first.route.provider,
            model=first.route.model,
            key=first.route.key,
            batch_id="",
            at_ms=self._parts.clock(),
            items=tuple(SentItem(id=one.call.id, label=one.label, reservation=one.reservation) for one in items),
        )
        try:
            await self._book.keep(sent)
            sent = replace(sent, batch_id=await api.submit({one.call.id: one.target.request for one in items}, key))
            await self._book.keep(sent)
        except ProviderError as error:
            await self._book.forget(sent)
            return await self.given_back(items, error)
        except OSError as error:
            if sent.batch_id:
                log.warning("economy.not_written", batch_id=sent.batch_id, error=error.strerror)
            else:
                text = f"The batch cannot be written down: {error.strerror}. Make room or free the directory, and send it again."
                return await self.given_back(items, StoreUnavailable(text, path=""))
        return self._followed(sent, items, key, "handed in")

    async def given_back(self, items: Sequence[Item], error: ClaudeJobsError) -> ClaudeJobsError:
        """They were not handed in: nothing is held or booked for them. The error."""
        for item in items:
            await self._settle(item, Tokens(), Cost(nusd=0), error.code)
        return error

    def resumed(self, sent: SentBatch, items: Sequence[Item]) -> Run | ClaudeJobsError:
        """Handed in before, perhaps by a process that is no more: what it reserved is held again, and settled once."""
        run = self._runs.get(sent.batch_id)
        if run is not None and all(item.call.id in run.items for item in items):
            return run
        key = next((item.target.keys.get(sent.key) for item in items if item.target.keys.get(sent.key)), None)
        if key is None:
            text = (
                f"The key that handed in this batch to {sent.provider} is not there any more (fingerprint {sent.key}). "
                "Give it again, or use another batch_key."
            )
            return NoRoute(text, tried=(text,), retryable=False, retry_after_s=None)
        for item in items:
            item.route = replace(item.route, key=sent.key)
            self._parts.leases.hold(item.reservation)
        return self._followed(sent, items, key, "found again")

    def _followed(self, sent: SentBatch, items: Sequence[Item], key: ApiKey, how: str) -> Run:
        api = self._used[sent.provider]
        for item in items:
            item.call.trace.add("batch", how, route=item.route, why=sent.batch_id)
        run = Run(sent=sent, api=api, key=key, items={item.call.id: item for item in items})
        run.task = asyncio.get_running_loop().create_task(self._follow(run), name=f"batch {sent.batch_id}")
        self._runs[sent.batch_id] = run
        return run

    async def _follow(self, run: Run) -> dict[str, Result]:
        """Until it is over; then every answer is booked."""
        try:
            outcomes = await self._outcomes(run)
            results = {name: await self._booked(item, outcomes[name]) for name, item in run.items.items()}
            run.is_booked = True
            return results
        except ClaudeJobsError as error:
            if isinstance(error, ModelNotFound):
                await self._book.forget(run.sent)
                text = f"{run.sent.provider} does not know the batch {run.sent.batch_id} any more. Send it again."
                error = ProviderUnavailable(text, provider=run.sent.provider, model=run.sent.model)
            for item in run.items.values():
                self._parts.leases.drop(item.reservation)
            return {name: self._scribe.ended(item.call, replaced(error)) for name, item in run.items.items()}
        finally:
            if self._runs.get(run.sent.batch_id) is run:
                del self._runs[run.sent.batch_id]

    async def _outcomes(self, run: Run) -> dict[str, Outcome]:
        """Asked for until they are there: what breaks meanwhile costs a pause."""
        requests = {name: item.target.request for name, item in run.items.items()}
        pause_s = FIRST_PAUSE_S
        while True:
            wait_s = pause_s
            try:
                state = await run.api.poll(run.sent.batch_id, run.key)
                if state.is_over:
                    return await run.api.results(state, requests, run.key)
            except ProviderError as error:
                if not error.retryable:
                    raise
                wait_s = max(pause_s, error.retry_after_s or 0.0)
            if self._parts.clock() > run.sent.at_ms + MOST_MS:
                raise ProviderTimeout(f"{run.sent.provider}'s batch did not end.", provider=run.sent.provider)
            await asyncio.sleep(wait_s * (1 + 0.1 * self._parts.rnd()))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _booked(self, item: Item, outcome: Outcome) -> Result:
        call = item.call
        if isinstance(outcome, ProviderError):
            call.trace.add("attempt", outcome.code, route=item.route, why=outcome.message, cost=Cost(nusd=0))
            call.is_recorded = True
            await self._settle(item, Tokens(), Cost(nusd=0), outcome.code)
            return self._scribe.ended(call, outcome)
        completion = counted(outcome, call.plan.input_tokens)
        now_ms = self._parts.clock()
        cost = self._parts.pricing.cost(
            item.route.provider, item.route.model, completion.tokens, at_ms=now_ms, is_batch=True
        )
        call.trace.add("attempt", "ok", route=item.route, cost=cost, why="by its batch API")
        await self._settle(item, completion.tokens, cost, "ok")
        return answer_of(call, completion, item.route, cost)

    async def _settle(self, item: Item, tokens: Tokens, cost: Cost, outcome: str) -> None:
        parts = self._parts
        parts.leases.drop(item.reservation)
        record = self._scribe.line(item.call, item.route, outcome, tokens, cost)
        settlement = Settlement(
            id=item.reservation, now_ms=parts.clock(), tokens=tokens.total, nusd=cost.nusd, record=record
        )
        item.call.is_recorded = True
        await parts.gate(parts.store.settle, settlement)

    def cancel(self, runs: Sequence[Run]) -> None:
        """End those that nobody else waits for. What is answered already is paid; they are followed until they are over."""
        for run in runs:
            if run.task is not None and not run.task.done() and not run.waiting:
                self._parts.leases.chore(run.api.cancel(run.sent.batch_id, run.key))

    async def close(self) -> None:
        """Stop following; the batches go on, and are found again by who asks for them."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for api in self._used.values():
            with contextlib.suppress(OSError):
                await api.close()


def replaced(error: ClaudeJobsError) -> ClaudeJobsError:
    """A copy for one of several who get it: each names its own call."""
    copy = error.__class__.__new__(error.__class__)
    copy.__dict__.update(error.__dict__)
    copy.args = error.args
    copy.call_id = ""
    return copy
