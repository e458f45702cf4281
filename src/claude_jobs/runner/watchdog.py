"""Two clocks over one attempt: its running time, and its silence. A pause stops both.

What an attempt was expected to need is no reason to end one that is well: past that time it ends when it falls silent
for `quiet_s`, however long a silence would be borne otherwise. Past its ceiling it ends in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET_S = 120.0
"""A stream brings something many times a second, a running tool every 30 s (measured): this is four missed signs of life."""


class Watchdog:
    """Calls `on_timeout` (with the reason, for people) or `on_stall`, once. It stands still until `start`."""

    def __init__(
        self,
        *,
        timeout_s: float,
        ceiling_s: float,
        stall_s: float,
        on_timeout: Callable[[str], None],
        on_stall: Callable[[], None],
        quiet_s: float = QUIET_S,
    ) -> None:
        """Nothing is timed yet.

        Args:
            timeout_s: Running time expected.
            ceiling_s: Running time allowed.
            stall_s: Longest silence, until `alive` names another.
            quiet_s: Longest silence past `timeout_s`, if `stall_s` is not shorter.
        """
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._ceiling_s = ceiling_s
        self._stall_s = stall_s
        self._quiet_s = quiet_s
        self._on_timeout = on_timeout
        self._on_stall = on_stall
        self._ran_s = 0.0
        self._heard = self._since = self._loop.time()
        self._pauses = 1
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ran_s(self) -> float:
        """Running time so far, pauses left out; it ends with `close`."""
        is_running = self._pauses == 0 and not self._is_closed
        return self._ran_s + (self._loop.time() - self._since if is_running else 0.0)

    def start(self) -> None:
        """Let both clocks run; after several pauses only the last `start` does."""
        self._pauses -= 1
        if self._pauses == 0 and not self._is_closed:
            self._heard = self._since = self._loop.time()
            self._look()

    def pause(self) -> None:
        """Stop both clocks, until as many `start` have come as `pause`."""
        self._ran_s = self.ran_s
        self._stop_timer()
        self._pauses += 1

    def alive(self, *, stall_s: float) -> None:
        """A sign of life. `stall_s` is how long the next silence may be."""
        self._heard = self._loop.time()
        self._stall_s = stall_s

    def close(self) -> None:
        """No calls from now on, whatever starts."""
        self._ran_s = self.ran_s
        self._is_closed = True
        self._stop_timer()

    def _look(self) -> None:
        """One timer that looks when something may be due, instead of one that is set anew at every byte."""
        now, began = self._loop.time(), self._since - self._ran_s
        forbidden = began + self._ceiling_s
        stalled = self._heard + self._stall_s
        overdue = max(began + self._timeout_s, self._heard + self._quiet_s)
        if now >= forbidden:
            self._end(lambda: self._on_timeout(f"It ran longer than {self._ceiling_s:g} s."))
        elif now >= stalled:
            self._end(self._on_stall)
        elif now >= overdue:
            why = f"It ran longer than the {self._timeout_s:g} s expected, and was silent for {self._quiet_s:g} s."
            self._end(lambda: self._on_timeout(why))
        else:
            self._timer = self._loop.call_at(min(forbidden, stalled, overdue), self._look)

    def _end(self, call: Callable[[], None]) -> None:
        self.close()
        call()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
