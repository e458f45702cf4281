"""Economy: requests that can wait are answered by the providers' Batch APIs, within a day, at half price.

A batch that was handed in is written down before anybody waits for it. From then on it belongs to nobody: it is followed until
it is over and every answer is booked once, whether its caller stays or leaves; a caller that asks the same again, also of a
process that came after a crash, waits for that batch instead of paying for another.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from claude_jobs.domain.generation import Answer, Route
from claude_jobs.errors import ClaudeJobsError, ProviderTimeout
from claude_jobs.policy.pricing import worst_nusd
from claude_jobs.services.batch_generation import Generate, batched
from claude_jobs.services.calls import Call, Parts, new_call
from claude_jobs.services.economy_book import EconomyBook
from claude_jobs.services.economy_runs import Item, Result, Run, Runs, replaced
from claude_jobs.services.generation_api import Ask, BatchItem, EconomyOrder
from claude_jobs.services.planner import Planner
from claude_jobs.services.quotas import Demand
from claude_jobs.services.refusals import quota_error, rate_error
from claude_jobs.services.scribe import Scribe
from claude_jobs.stores.gate import LEASE_MS, Refused, RefusedBy, ReserveAsk

MAX_PACE_S = 60.0
"""Longest wait for the organization's own rate before an item is refused."""


@dataclass(slots=True)
class _Sorted:
    """What becomes of each of a caller's requests: its end, the normal way with a note, or a place in a batch."""

    ended: list[BatchItem] = field(default_factory=list[BatchItem])
    normal: dict[int, str] = field(default_factory=dict[int, str])
    runs: list[tuple[Run, dict[str, int]]] = field(default_factory=list[tuple[Run, dict[str, int]]])


_Fresh = dict[tuple[Route, str], list[Item]]
"""Requests that hold their reservation and are to be handed in, by what may share a batch."""


class Economy:
    """Call it on one event loop only."""

    def __init__(self, *, parts: Parts, planner: Planner, scribe: Scribe, book: EconomyBook, runs: Runs) -> None:
        self._parts = parts
        self._planner = planner
        self._scribe = scribe
        self._book = book
        self._runs = runs
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def batch(
        self, asks: Sequence[Ask], order: EconomyOrder, generate: Generate, max_parallel: int
    ) -> AsyncGenerator[BatchItem]:
        """Each request's answer or error, as they come. Closing the generator leaves the batches to themselves."""
        lock = self._locks.setdefault(order.name, asyncio.Lock())
        async with lock:
            found = await self._sort(asks, order)
        queue: asyncio.Queue[BatchItem | BaseException] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        pumps = [
            loop.create_task(_deliver(run, places, _limit_s([asks[place] for place in places.values()]), queue))
            for run, places in found.runs
        ]
        pumps.append(loop.create_task(_plain(asks, found.normal, generate, max_parallel, queue)))
        for item in found.ended:
            queue.put_nowait(item)
        try:
            for _ in range(len(asks)):
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
            for run, places in found.runs:
                await self._delivered(run, places)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            if order.cancel:
                self._runs.cancel([run for run, _ in found.runs])

    # What becomes of each request.

    async def _sort(self, asks: Sequence[Ask], order: EconomyOrder) -> _Sorted:
        found = _Sorted()
        fresh: _Fresh = {}
        try:
            await self._sort_each(asks, order, found, fresh)
            while fresh:
                _, items = fresh.popitem()
                handing = self._parts.leases.chore(self._runs.submitted(order.name, items))
                try:
                    run = await asyncio.shield(handing)
                except asyncio.CancelledError:
                    if order.cancel:
                        self._parts.leases.chore(self._ended_late(handing, [run for run, _ in found.runs]))
                    raise
                self._join(found, run, items)
        finally:
            for items in fresh.values():  # the caller left before they were handed in
                self._parts.leases.chore(self._runs.given_back(items, ClaudeJobsError("The caller left.")))
        return found

    async def _ended_late(self, handing: asyncio.Task[Run | ClaudeJobsError], runs: list[Run]) -> None:
        """The caller left while a batch was handed in."""
        late = await handing
        self._runs.cancel([*runs, late] if isinstance(late, Run) else runs)

    async def _sort_each(self, asks: Sequence[Ask], order: EconomyOrder, found: _Sorted, fresh: _Fresh) -> None:
        known = {item.label: (batch, item) for batch in await self._book.batches(order.name) for item in batch.items}
        again: dict[str, list[Item]] = {}
        for place, (ask, label) in enumerate(zip(asks, order.labels, strict=True)):
            sent = known.get(label)
            call = new_call(ask, sent[1].id if sent else "")
            try:
                item = await self._planned(place, label, call)
                api = self._runs.api(item.target.provider)
                if sent is not None and api is not None:
                    item.reservation = sent[1].reservation
                    again.setdefault(sent[0].batch_id, []).append(item)
                elif api is None:
                    found.normal[place] = (
                        f"{item.target.provider} has no batch API: this was asked at once, at the full price"
                    )
                else:
                    kind = api.kind(item.target.request)
                    item.reservation = await self._reserved(item)
                    fresh.setdefault((item.route, kind), []).append(item)
            except ClaudeJobsError as error:
                found.ended.append(BatchItem(index=place, error=self._scribe.ended(call, error)))
        batches = {batch.batch_id: batch for batch, _ in known.values()}
        for batch_id, items in again.items():
            self._join(found, self._runs.resumed(batches[batch_id], items), items)

    def _join(self, found: _Sorted, run: Run | ClaudeJobsError, items: Sequence[Item]) -> None:
        if isinstance(run, Run):
            found.runs.append((run, {item.call.id: item.place for item in items}))
        else:
            errors = [replaced(run) for _ in items]
            found.ended += [
                BatchItem(index=item.place, error=self._scribe.ended(item.call, error))
                for item, error in zip(items, errors, strict=True)
            ]

    async def _planned(self, place: int, label: str, call: Call) -> Item:
        call.plan = await self._planner.plan(call.ask, call.trace)
        target = call.plan.targets[0]
        return Item(place=place, label=label, call=call, target=target, route=target.routes[0])

    async def _reserved(self, item: Item) -> str:
        """The id of what it holds. The key's circuit and limits are those of other calls: a batch has its own."""
        parts, call = self._parts, item.call
        price = parts.pricing.price(item.route.provider, item.route.model, is_batch=True)
        most = item.target.request.max_output_tokens or 0
        nusd = None if price is None else worst_nusd(price, call.plan.input_tokens, most)
        demand = Demand(tokens=call.plan.input_tokens + most, nusd=nusd)
        quotas = await parts.quotas.of(call.org, item.route, demand)
        while True:
            ask = ReserveAsk(
                id=uuid.uuid4().hex,
                owner=parts.owner,
                now_ms=parts.clock(),
                lease_ms=LEASE_MS,
                quotas=quotas,
                rates=parts.quotas.rates(call.org, demand.tokens),
            )
            answer = await parts.gate(parts.store.reserve, ask)
            if not isinstance(answer, Refused):
                parts.leases.hold(ask.id)
                return ask.id
            wait_s = max(0.0, (answer.retry_at_ms - parts.clock()) / 1_000)
            if answer.by is not RefusedBy.RATE:
                raise quota_error(answer, wait_s)
            if not answer.retry_at_ms or wait_s > MAX_PACE_S:
                raise rate_error(answer, wait_s)
            await asyncio.sleep(wait_s)

    async def _delivered(self, run: Run, places: Mapping[str, int]) -> None:
        """The caller has all of it, so that it need not be found again."""
        if run.is_booked and set(places) >= {item.id for item in run.sent.items}:
            await self._book.forget(run.sent)

    async def close(self) -> None:
        """Stop following; the batches go on, and are found again by who asks for them."""
        await self._runs.close()


def _limit_s(asks: Sequence[Ask]) -> float | None:
    """How long they may be waited for, None for as long as it takes."""
    limits = [ask.timeout_s for ask in asks if ask.timeout_s is not None]
    return max(limits) if len(limits) == len(asks) else None


async def _deliver(
    run: Run, places: Mapping[str, int], limit_s: float | None, queue: asyncio.Queue[BatchItem | BaseException]
) -> None:
    """What becomes of a caller's requests of one batch, once that is over or the caller's time is."""
    assert run.task is not None
    run.waiting += 1
    try:
        await asyncio.wait((run.task,), timeout=limit_s)
    finally:
        run.waiting -= 1
    if not run.task.done() or run.task.cancelled():
        text = (
            f"{run.sent.provider}'s batch {run.sent.batch_id} is not over yet; it goes on. "
            "Send the same again to wait on for it, or allow more with timeout_s."
        )
        results: Mapping[str, Result] = {name: ProviderTimeout(text, provider=run.sent.provider) for name in places}
    elif (error := run.task.exception()) is not None:
        queue.put_nowait(error)
        return
    else:
        results = run.task.result()
    for name, place in places.items():
        result = results[name]
        if isinstance(result, Answer):
            queue.put_nowait(BatchItem(index=place, answer=result))
        else:
            queue.put_nowait(BatchItem(index=place, error=result))


async def _plain(
    asks: Sequence[Ask],
    notes: Mapping[int, str],
    generate: Generate,
    max_parallel: int,
    queue: asyncio.Queue[BatchItem | BaseException],
) -> None:
    """The normal way."""
    places = list(notes)
    try:
        async with aclosing(batched(generate, [asks[place] for place in places], max_parallel)) as items:
            async for item in items:
                place = places[item.index]
                queue.put_nowait(replace(item, index=place, note=notes[place]))
    except Exception as error:  # noqa: BLE001 - it is the caller's, who waits at the queue
        queue.put_nowait(error)
