"""What this process holds in the gate, renewed while it lives, and the small work that must end even if its caller left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from claude_jobs.errors import StoreError
from claude_jobs.services.gate import GateThread
from claude_jobs.stores.gate import LEASE_MS, GateStore, Settlement

log = structlog.get_logger()

MOST_OWED = 10_000
"""Settlements that wait for a gate that cannot be written; while it cannot, nothing new begins."""


CLOSE_S = 5.0
"""How long settlements and other small work may take when the process ends; what is cancelled then settles as given up."""


class Leases:
    """Reservations and flights of one process. Call it on one event loop only."""

    def __init__(self, *, store: GateStore, gate: GateThread, clock: Callable[[], int]) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._held: set[str] = set()
        self._flights: dict[str, int] = {}
        self._owed: dict[str, Settlement] = {}
        self._chores: set[asyncio.Task[Any]] = set()
        self._renewals: asyncio.Task[None] | None = None

    def hold(self, reservation: str) -> None:
        """Renew it until it is dropped."""
        self._held.add(reservation)
        self._keep_on()

    def drop(self, reservation: str) -> None:
        """It is nobody's any more."""
        self._held.discard(reservation)

    async def settle(self, settlement: Settlement) -> None:
        """Book it, once. What cannot be written now is held on and written as soon as it can be.

        It never fails for the store: what was answered is given to who asked for it, and what it cost is not forgotten.
        """
        self._held.discard(settlement.id)
        try:
            await self._gate(self._store.settle, settlement)
        except StoreError as error:
            log.warning("generation.not_settled_yet", code=error.code, error=error.message)
            self.owe(settlement)

    def owe(self, settlement: Settlement) -> None:
        """Write it as soon as the gate can be written again."""
        if len(self._owed) >= MOST_OWED:
            log.error("generation.never_settled", id=settlement.id, tokens=settlement.tokens, nusd=settlement.nusd)
            return
        record = settlement.record
        self._owed[settlement.id or (record.id if record else "")] = settlement
        if settlement.id:
            self._held.add(settlement.id)
        self._keep_on()

    async def _pay(self) -> None:
        """Write what is owed. A second settlement of the same reservation changes nothing.

        Raises:
            StoreError: It still cannot be written; the rest is owed on.
        """
        for name, settlement in list(self._owed.items()):
            if name not in self._owed:
                continue
            self._owed[name] = self._owed.pop(name)  # one that never can be written is not in the others' way
            await self._gate(self._store.settle, settlement)
            self._owed.pop(name, None)
            self._held.discard(settlement.id)

    def fly(self, key: str, fence: int) -> None:
        """Renew the flight until it landed."""
        self._flights[key] = fence
        self._keep_on()

    def landed(self, key: str) -> None:
        """The flight is over."""
        self._flights.pop(key, None)

    def chore(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it even if nobody waits for it; `close` does."""
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("generation.chore_failed", error=str(error))

    def _keep_on(self) -> None:
        if self._renewals is None or self._renewals.done():
            self._renewals = asyncio.get_running_loop().create_task(self._renew(), name="gate leases")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3_000)
            for work in (self._renew_all, self._pay):
                try:
                    await work()
                except StoreError as error:
                    log.warning("generation.lease_not_renewed", code=error.code, error=error.message)

    async def _renew_all(self) -> None:
        until_ms = self._clock() + LEASE_MS
        if self._held:
            await self._gate(self._store.renew, tuple(self._held), until_ms)
        if self._flights:
            await self._gate(self._store.renew_flights, tuple(self._flights.items()), until_ms)

    async def idle(self) -> None:
        """Wait for the chores."""
        while self._chores:
            await asyncio.wait(self._chores)

    async def close(self) -> None:
        """Wait for the chores, write what is owed, then stop renewing."""
        if self._chores:
            _, late = await asyncio.wait(self._chores, timeout=CLOSE_S)
            for chore in late:
                chore.cancel()
        await self.idle()
        try:
            await self._pay()
        except StoreError as error:
            owed = list(self._owed.values())
            nusd = sum(settlement.nusd or 0 for settlement in owed)
            log.error("generation.never_settled", count=len(owed), nusd=nusd, code=error.code, error=error.message)
        if self._renewals is not None:
            self._renewals.cancel()
            await asyncio.wait((self._renewals,))
