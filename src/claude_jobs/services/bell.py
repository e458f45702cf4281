"""The doorbell inside a process: whoever waits for a change is woken at once. Losing a ring costs a poll, never a job."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes all waiters of the moment; a ring that nobody waits for is remembered by nobody."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """What to wait on. Take it before looking at the state, so that no ring falls in between."""
        return self._event


async def rung(ticket: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a ticket's ring, at most `timeout_s`. Whether it rang."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await ticket.wait()
    except TimeoutError:
        return False
    return True
