"""One more worker on a home, in a process of its own, whose clock jumps about: `odd_worker.py SEED CLOCK_RANGE_S`.

It serves no socket; it takes jobs out of the same store with the credentials of the home's own `.env`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time

from claude_jobs import factory
from claude_jobs import log as logs
from claude_jobs.runner.paths import Home
from claude_jobs.services import worker
from claude_jobs.settings import load

JUMP_EVERY_S = 2.0
AUDIT_S = 3.0
"""It hardly lives as long as the regular pause; what it repairs is in its log."""


class Clock:
    """A wall clock that is set to another time now and then."""

    def __init__(self, seed: int, range_s: float) -> None:
        self._random = random.Random(seed)
        self._range_s = range_s
        self._offset_s = 0.0
        self._next = time.monotonic() + JUMP_EVERY_S

    def now_ms(self) -> int:
        if time.monotonic() >= self._next:
            self._offset_s = self._random.uniform(-self._range_s, self._range_s)
            self._next = time.monotonic() + JUMP_EVERY_S
        return time.time_ns() // 1_000_000 + round(self._offset_s * 1000)


async def main(seed: int, range_s: float) -> None:
    factory.now_ms = Clock(seed, range_s).now_ms
    worker.AUDIT_S = AUDIT_S
    home = Home.resolve(os.environ)
    async with factory.open_app(load(os.environ, home.env_file), home) as app:
        await app.desk.tokens.restore(())
        leave = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(app.worker.run())
            await leave.wait()
            await app.worker.leave(0.0)


if __name__ == "__main__":
    logs.configure("warning")
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
