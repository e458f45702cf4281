"""Answers that were given before, and questions that are being answered now: one upstream call for all who ask the same.

In this process callers share one task; it belongs to none of them and ends early only when the last one left. Between
processes the flight is a lease in the gate: who follows looks again and again, and takes over when the leader's lease ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from claude_jobs.domain.generation import Answer, Completion, Cost, GenerationRequest, Route
from claude_jobs.errors import StoreError
from claude_jobs.policy import cache as rules
from claude_jobs.services import answers
from claude_jobs.services.flow import Flow
from claude_jobs.services.gate import GateThread
from claude_jobs.services.generation_errors import Means, is_for, revived
from claude_jobs.services.leases import Leases
from claude_jobs.stores.gate import (
    LEASE_MS,
    CacheEntry,
    CachePut,
    CallRecord,
    GateStore,
    Landing,
    Look,
    LookAsk,
    Settlement,
)

log = structlog.get_logger()

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.1
LANDING_S = 0.5
"""What is made has the deadline of whoever asked first, and ends by itself: so long that one waits for its books."""
FLUSH_S = 0.2
FLUSH_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRules:
    """The operator's settings."""

    ttl_s: float
    max_entries: int
    max_bytes: int
    skip: tuple[str, ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self.ttl_s > 0 and self.max_entries > 0 and self.max_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an answer belongs: its key, and whose it is."""

    key: str
    org: str
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A stored answer.

    Attributes:
        lead: There if it is stale and this process is to make it anew.
        waited_s: How long another process was waited for that made it.
    """

    completion: Completion
    route: Route
    cost: Cost
    age_s: float
    is_stale: bool
    lead: Lead | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """This process makes the answer.

    Attributes:
        fence: Of its flight, 0 without one.
        seq: Goes into what it stores.
        means: What it is made with.
        waited_s: How long another process was waited for that did not make it.
    """

    place: Place
    fence: int
    seq: int
    means: Means | None = None
    waited_s: float = 0.0


@dataclass(slots=True)
class Flight:
    """An answer that is being made here, with its pieces if it comes in pieces."""

    task: asyncio.Task[Answer]
    flow: Flow
    waiters: int = 0


Make = Callable[[Flow], Coroutine[Any, Any, Answer]]
"""Makes an answer, and passes on its pieces if it comes in pieces."""


@dataclass(slots=True)
class _Unwritten:
    touched: list[str] = field(default_factory=list[str])
    stale: int = 0
    records: list[CallRecord] = field(default_factory=list[CallRecord])


class AnswerCache:
    """Cache and coalescing of one process. Call it on one event loop only."""

    def __init__(
        self,
        *,
        store: GateStore,
        gate: GateThread,
        leases: Leases,
        rules: CacheRules,
        owner: str,
        clock: Callable[[], int],
        rnd: Callable[[], float],
    ) -> None:
        self._store = store
        self._gate = gate
        self._leases = leases
        self.rules = rules
        self._owner = owner
        self._clock = clock
        self._rnd = rnd
        self._flights: dict[Hashable, Flight] = {}
        self._making: set[asyncio.Task[Answer]] = set()
        self._unwritten = _Unwritten()
        self._flush_at: asyncio.TimerHandle | None = None

    async def shared(self, same: Hashable, deadline: float, make: Make) -> tuple[Answer, bool]:
        """The answer of `make`, which runs once for all who ask with the same `same` at the same time here.

        Returns: It, and whether this caller only joined.

        Raises:
            TimeoutError: The deadline (event loop time) came; the others go on.
        """
        flight, is_joined = self.board(same, make)
        try:
            if deadline == float("inf"):
                return await asyncio.shield(flight.task), is_joined
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(flight.task), is_joined
        except TimeoutError:
            if not is_joined:  # the record of this call tells what was used: that is known in a moment
                await asyncio.wait((flight.task,), timeout=LANDING_S)
            raise
        finally:
            self.leave(same, flight)

    def board(self, same: Hashable, make: Make) -> tuple[Flight, bool]:
        """The flight of all who ask the same here, and whether it had begun already; `leave` ends the ride."""
        flight = self._flights.get(same)
        is_joined = flight is not None
        if flight is None:
            flight = self._begun(same, make)
        flight.waiters += 1
        return flight, is_joined

    def leave(self, same: Hashable, flight: Flight) -> None:
        """The last one who leaves ends it."""
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            self._forget(same, flight)  # nobody joins what is being cancelled
            flight.task.cancel()

    def _begun(self, same: Hashable, make: Make) -> Flight:
        flow = Flow()
        task = asyncio.ensure_future(make(flow))
        flight = self._flights[same] = Flight(task, flow)
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        task.add_done_callback(lambda _: self._forget(same, flight))
        return flight

    def _forget(self, same: Hashable, flight: Flight) -> None:
        flight.flow.end()
        if self._flights.get(same) is flight:
            del self._flights[same]

    async def find(self, place: Place, deadline: float, means: Means) -> Kept | Lead:
        """A stored answer, or the lead in making it. Waits while another process makes it.

        Raises:
            ClaudeJobsError: What the other process's attempt ended with, which had the same `means`.
            TimeoutError: The deadline came first.
        """
        now_s = asyncio.get_running_loop().time
        began, since_ms = now_s(), self._clock()
        pause_s = FIRST_PAUSE_S
        while True:
            look = await self._look(place, since_ms, owner=self._owner)
            kept = self._kept(look)
            waited_s = now_s() - began if pause_s > FIRST_PAUSE_S else 0.0
            if kept is None and look.entry is not None:  # of another version, or damaged: nobody can use it
                await self._gate(self._store.invalidate, key=place.key)
                continue
            if kept is not None:
                self._touched(place.key, is_stale=kept.is_stale)
                lead = self._lead(place, look, means) if look.fence else None
                return replace(kept, lead=lead, waited_s=waited_s)
            if look.what == "failed" and is_for(look.error, means):
                raise revived(look.error)
            if look.fence:
                return replace(self._lead(place, look, means), waited_s=waited_s)
            if look.what == "failed":  # who may go elsewhere, or wait longer, does not share an error
                since_ms = self._clock() + 1
                continue
            if now_s() + pause_s >= deadline:
                raise TimeoutError
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)

    def _lead(self, place: Place, look: Look, means: Means) -> Lead:
        self._leases.fly(place.key, look.fence)
        return Lead(place=place, fence=look.fence, seq=look.seq, means=means)

    async def peek(self, place: Place) -> Kept | None:
        """A stored answer, fresh or stale, without any claim."""
        kept = self._kept(await self._look(place, 0, owner=""))
        if kept is not None:
            self._touched(place.key, is_stale=kept.is_stale)
        return kept

    async def lead(self, place: Place) -> Lead:
        """For an answer that is made without a flight: it is stored unless something was invalidated meanwhile."""
        return Lead(place=place, fence=0, seq=(await self._look(place, 0, owner="")).seq)

    async def _look(self, place: Place, since_ms: int, *, owner: str) -> Look:
        ask = LookAsk(
            key=place.key,
            org=place.org,
            provider=place.provider,
            model=place.model,
            now_ms=self._clock(),
            owner=owner,
            lease_ms=LEASE_MS,
            since_ms=since_ms,
        )
        return await self._gate(self._store.look, ask)

    def _kept(self, look: Look) -> Kept | None:
        if look.entry is None:
            return None
        found = answers.decode(look.entry.value)
        if found is None:
            return None
        completion, route, cost = found
        age_s = max(0, self._clock() - look.entry.created_ms) / 1_000
        return Kept(completion=completion, route=route, cost=cost, age_s=age_s, is_stale=look.what == "stale")

    def put(
        self, lead: Lead, completion: Completion, route: Route, cost: Cost, request: GenerationRequest
    ) -> CachePut | None:
        """What to store of an answer; None if it is not one to be kept."""
        if rules.is_storable(completion, request):
            return None
        now_ms = self._clock()
        fresh_ms, stale_ms = rules.expiry(now_ms, self.rules.ttl_s, self._rnd())
        place = lead.place
        entry = CacheEntry(
            key=place.key,
            org=place.org,
            provider=place.provider,
            model=place.model,
            value=answers.encode(completion, route, cost),
            created_ms=now_ms,
            fresh_until_ms=fresh_ms,
            stale_until_ms=stale_ms,
        )
        return CachePut(entry=entry, seq=lead.seq, max_entries=self.rules.max_entries, max_bytes=self.rules.max_bytes)

    def landing(self, lead: Lead, error: str = "") -> Landing:
        """What ends the flight; to be written with the settlement."""
        self._leases.landed(lead.place.key)
        return Landing(key=lead.place.key, fence=lead.fence, error=error)

    def _touched(self, key: str, *, is_stale: bool) -> None:
        self._unwritten.touched.append(key)
        self._unwritten.stale += is_stale
        self._flush_soon()

    def recorded(self, record: CallRecord) -> None:
        """A line for the ledger that nothing else waits for; it is written within FLUSH_S."""
        self._unwritten.records.append(record)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if len(self._unwritten.records) >= FLUSH_AT:
            self._flush()
        elif self._flush_at is None:
            self._flush_at = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        unwritten, self._unwritten = self._unwritten, _Unwritten()
        if unwritten.touched or unwritten.records:
            self._leases.chore(self._write(unwritten))

    async def _write(self, unwritten: _Unwritten) -> None:
        try:
            if unwritten.records:
                await self._gate(self._store.record, unwritten.records)
        except StoreError as error:
            log.warning("generation.not_recorded_yet", code=error.code, error=error.message)
            for record in unwritten.records:
                self._leases.owe(Settlement(id="", now_ms=record.at_ms, record=record))
        if unwritten.touched:
            await self._gate(self._store.touch, unwritten.touched, self._clock(), stale=unwritten.stale)

    async def flush(self) -> None:
        """Write what is unwritten now: before somebody reads it."""
        unwritten, self._unwritten = self._unwritten, _Unwritten()
        await self._write(unwritten)

    async def close(self) -> None:
        """End the flights and write what is unwritten."""
        tasks = list(self._making)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._flush_at is not None:
            self._flush_at.cancel()
        await self.flush()
