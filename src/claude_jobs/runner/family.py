"""All processes of one attempt: what was seen of its tree, and ending it with proof. Nothing else is ever signalled."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

from claude_jobs.runner import proctree
from claude_jobs.runner.process import Child
from claude_jobs.runner.proctree import Proc

_MAX_KNOWN = 2_000
_ROUND_S = 0.02
_MAX_KILL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long each step of a stop may take, in seconds."""

    interrupt_s: float = 2.0
    term_s: float = 1.0


class Family:
    """The CLI and everything it started, by pid and start time, as far as it was seen or carries the marker.

    A Bash tool of the CLI runs in a session of its own, so the process group alone never tells.
    """

    def __init__(self, root: Proc, mark: str) -> None:
        self._root = root
        self._mark = mark
        self._known: dict[int, Proc] = {root.pid: root}
        self.signalled: set[int] = set()

    def look(self) -> None:
        """Remember what hangs below the known ones now: once its parent is gone, it can be found by this only."""
        proctree.grow(self._known)
        if len(self._known) > _MAX_KNOWN:
            self._known = {proc.pid: proc for proc in self._alive()}

    def claim_orphans(self) -> None:
        """Remember processes that lost their parent but carry our marker, group or session.

        Call it while the CLI's pid is still taken, so that its group number cannot belong to anybody else.
        """
        self.look()
        for proc in proctree.adopted(self._root.started_ticks):
            is_of_group = self._root.pid in (proc.pgid, proc.session)
            if proc.pid not in self._known and (is_of_group or proctree.mark_of(proc.pid) == self._mark):
                self._known[proc.pid] = proc
        self.look()

    def survivors(self) -> tuple[int, ...]:
        """Who of them still runs."""
        return tuple(sorted(proc.pid for proc in self._alive()))

    async def stop(self, child: Child, waits: Waits, *, gently: bool) -> None:
        """End all of it: interrupt, TERM, KILL. When this returns, nothing that was seen is alive.

        Args:
            gently: Let the CLI write down what it has; without it, KILL is the first word.
        """
        self.look()
        if gently:
            self._signal([self._root], signal.SIGINT)
            child.close_stdin()
            if not await _ended(child, waits.interrupt_s):
                self.look()
                self._signal(self._alive(), signal.SIGTERM)
                await _ended(child, waits.term_s)
        await self.kill()
        await _ended(child, _MAX_KILL_S)

    async def kill(self) -> None:
        """KILL whoever is left, in rounds, for as long as new ones appear."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MAX_KILL_S
        while loop.time() < deadline:
            await self._freeze()
            alive = proctree.kill_round(self._known, self.signalled)
            if not alive:
                return
            await asyncio.sleep(_ROUND_S)

    async def _freeze(self) -> None:
        for _ in range(proctree.FREEZE_ROUNDS):
            if proctree.freeze_round(self._known):
                return
            await asyncio.sleep(proctree.FREEZE_PAUSE_S)

    def _alive(self) -> list[Proc]:
        return [proc for proc in self._known.values() if proctree.is_alive(proc)]

    def _signal(self, procs: list[Proc], signum: int) -> None:
        self.signalled.update(proc.pid for proc in procs if proctree.send(proc, signum))


async def _ended(child: Child, within_s: float) -> bool:
    await asyncio.wait([child.exited], timeout=within_s)
    return child.exited.done()
