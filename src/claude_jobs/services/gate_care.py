"""Keeping the gate small: what nobody needs any more is removed, a little at a time, as long as the process lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from claude_jobs.errors import StoreError
from claude_jobs.services.gate import GateThread
from claude_jobs.stores.gate import GateStore

log = structlog.get_logger()

FIRST_S = 2.0
"""Not while the first question waits."""
EVERY_S = 60.0
PAUSE_S = 0.1
"""Between two steps while much is left: calls go first."""
KEEP_MS = 92 * 86_400_000
"""Lines of the ledger are kept for a quarter."""


async def keep_clean(store: GateStore, gate: GateThread, clock: Callable[[], int]) -> None:
    """Clean now and then, until cancelled."""
    pause_s = FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = EVERY_S
        try:
            if await gate(store.clean, clock(), keep_ms=KEEP_MS):
                pause_s = PAUSE_S
        except StoreError as error:
            log.warning("gate.not_cleaned", code=error.code, error=error.message)
