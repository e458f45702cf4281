"""What must not stay for ever: a key that was refused once, and lines of the ledger that nobody needs."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from support_generation import generating

from claude_jobs.domain.generation import Cost, Route, Tokens
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy.breaker import BreakerRules
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.registry import PROVIDERS
from claude_jobs.services.calls import MOST_ROUTES, ChainRules, Parts
from claude_jobs.services.gate_care import KEEP_MS
from claude_jobs.services.pricing import Pricing
from claude_jobs.services.turnstile import Turnstile
from claude_jobs.stores.gate import CallRecord


async def test_a_refused_key_is_tried_again_by_the_next_process(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        refused = await place.fails(rehearse={"fault": "401"})
        again = await place.fails("Another one.")
        asked = len(place.asked())
    async with generating(tmp_path) as place:
        answer = await place.generate("Another one.")

    assert refused.code == "authentication_failed"
    assert isinstance(again, ClaudeJobsError)
    assert asked == 1  # this process knows that it is of no use
    assert answer.completion.text


async def test_old_lines_of_the_ledger_go_by_themselves(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        opened = await place.opened()
        now_ms = opened.clock()
        lines = [
            CallRecord(
                id=name,
                at_ms=at_ms,
                org="default",
                route=Route(provider="claude", model="m"),
                outcome="ok",
                tokens=Tokens(),
                cost=Cost(nusd=1),
            )
            for name, at_ms in (("old", now_ms - KEEP_MS - 60_000), ("new", now_ms))
        ]
        await opened.gate(opened.store.record, lines)
        async with asyncio.timeout(60):
            while await opened.gate(opened.store.call, "old"):
                await asyncio.sleep(0.05)
        kept = await opened.gate(opened.store.call, "new")

    assert kept is not None


async def test_names_of_models_that_callers_invent_do_not_pile_up(tmp_path: Path) -> None:
    async with generating(tmp_path, numbers=()) as place:
        opened = await place.opened()
        parts = Parts(
            store=opened.store,
            gate=opened.gate,
            quotas=opened.quotas,
            pricing=Pricing(),
            provider=lambda name: PROVIDERS[name](ProviderSettings()),
            leases=opened.till.leases,
            turnstile=Turnstile(1),
            owner="test",
            clock=opened.clock,
            rnd=random.random,
            rules=ChainRules(request_timeout_s=1, max_retries=0, max_requests=1, breaker=BreakerRules()),
        )
        busy = parts.load(Route(provider="claude", model="busy"))
        busy.running = 1
        for n in range(3 * MOST_ROUTES):
            parts.load(Route(provider="claude", model=f"m{n}"))

    assert len(parts.loads) <= MOST_ROUTES + 1
    assert parts.load(Route(provider="claude", model="busy")) is busy
