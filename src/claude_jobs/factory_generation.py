"""Generation as the rest of the house holds it: opened when the first question comes.

Until then no database of it is open, nothing of it imported, and an account of jobs only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from claude_jobs.domain.generation import Answer, Delta
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.cli_budget import Till
from claude_jobs.services.gate_care import keep_clean
from claude_jobs.services.generation_api import Ask, BatchItem, EconomyOrder, ModelList, TokenCount
from claude_jobs.services.jobs import JobManager
from claude_jobs.services.oversight import GateParts
from claude_jobs.services.provider_keys import ProviderKeys
from claude_jobs.services.recursion import lineage_key
from claude_jobs.settings import Settings

if TYPE_CHECKING:
    from claude_jobs.generation_parts import Opened
    from claude_jobs.services.generation import Generator


class GenerationPart:
    """Implements `Generation`, and opens what is behind it when it is first asked. One that could not be opened is tried again."""

    def __init__(self, settings: Settings, home: Home, jobs: Callable[[], JobManager]) -> None:
        self._settings = settings
        self._home = home
        self._jobs = jobs
        self._opening = asyncio.Lock()
        self._open: Opened | None = None
        self._care: asyncio.Task[None] | None = None
        self.keys = ProviderKeys(home.env_file, serves_jobs=settings.providers_in_jobs)

    async def opened(self) -> Opened:
        """The parts.

        Raises:
            StoreError: `gate.db` cannot be used.
        """
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    opened = self._open = await asyncio.to_thread(self._made)
                    self._care = asyncio.get_running_loop().create_task(
                        keep_clean(opened.store, opened.gate, opened.clock), name="gate care"
                    )
        return self._open

    def _made(self) -> Opened:
        from claude_jobs.generation_parts import Opened
        from claude_jobs.stores.sqlite.gate.store import open_gate

        secret = lineage_key(self._home.lineage_key_file)
        return Opened(self._settings, self._home, self._jobs, open_gate(self._home.db_dir), secret, self.keys)

    @property
    def is_open(self) -> bool:
        """Whether anybody asked yet."""
        return self._open is not None

    async def gate_parts(self) -> GateParts:
        """What an operator sees and sets of it. Raises StoreError as `opened`."""
        opened = await self.opened()
        return GateParts(store=opened.store, gate=opened.gate, quotas=opened.quotas, cache=opened.cache)

    async def till(self) -> Till:
        """What jobs' quotas need. Raises StoreError as `opened`."""
        return (await self.opened()).till

    async def _generator(self) -> Generator:
        return await (await self.opened()).generator()

    async def _billed(self, ask: Ask) -> Ask:
        """A job's questions are its organization's, whatever it says."""
        return (await self._all_billed((ask,)))[0] if ask.caller.inside_job else ask

    async def _all_billed(self, asks: Sequence[Ask]) -> list[Ask]:
        inside = {ask.caller.inside_job for ask in asks if ask.caller.inside_job}
        orgs = {job_id: (await self._jobs().get(job_id)).org for job_id in inside}
        return [replace(ask, org=orgs[ask.caller.inside_job]) if ask.caller.inside_job else ask for ask in asks]

    async def generate(self, ask: Ask) -> Answer:
        return await (await self._generator()).generate(await self._billed(ask))

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | Answer]:
        async with aclosing((await self._generator()).stream(await self._billed(ask))) as events:
            async for event in events:
                yield event

    async def batch(
        self, asks: Sequence[Ask], *, max_parallel: int = 0, economy: EconomyOrder | None = None
    ) -> AsyncGenerator[BatchItem]:
        generator, billed = await self._generator(), await self._all_billed(asks)
        async with aclosing(generator.batch(billed, max_parallel=max_parallel, economy=economy)) as items:
            async for item in items:
                yield item

    async def count_tokens(self, ask: Ask) -> TokenCount:
        return await (await self._generator()).count_tokens(ask)

    async def models(self, caller: Caller, provider: str = "") -> ModelList:
        return await (await self._generator()).models(caller, provider)

    async def close(self) -> None:
        """Settle what goes on and close."""
        if self._care is not None:
            self._care.cancel()
            await asyncio.wait((self._care,))
        if self._open is not None:
            await self._open.close()
