"""A short helper process of an attempt, such as git or a check: bounded in time and output, and gone with all it started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from claude_jobs.runner.command import Command
from claude_jobs.runner.environment import is_secret, private
from claude_jobs.runner.family import Family, Waits
from claude_jobs.runner.order import Order
from claude_jobs.runner.process import Child, death_wish
from claude_jobs.runner.proctree import MARK

_WAITS = Waits(interrupt_s=0.5, term_s=0.5)
_OWN_MARK = ":errand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of it.

    Attributes:
        exit_code: Negative for a signal; None if it was ended because of its time-out, or because it wrote too much.
        output: What it wrote to standard output, as far as it was kept.
        errors: The last of what it wrote to standard error.
        is_cut: Whether it wrote more than was kept.
    """

    exit_code: int | None
    output: str
    errors: str
    is_cut: bool

    @property
    def is_well(self) -> bool:
        """Whether it ended with 0."""
        return self.exit_code == 0


def environment(order: Order) -> dict[str, str]:
    """The job's own environment for a helper of it: no credential, no lineage."""
    own = (*order.spec.env, *private(order.credential.profile))
    env = {name: value for name, value in own if not is_secret(name)}
    return {"PATH": os.defpath, **env, **mark(order)}


def mark(order: Order) -> dict[str, str]:
    """The variable by which a process of the attempt is found, should we die."""
    return {MARK: order.home_mark}


class _Output:
    """The first or the last bytes of a stream."""

    def __init__(self, max_bytes: int, *, keeps_end: bool) -> None:
        self._max = max_bytes
        self._keeps_end = keeps_end
        self._data = bytearray()
        self.is_cut = False
        self.is_full = asyncio.Event()

    def take(self, data: bytes) -> None:
        self._data += data
        if len(self._data) <= self._max:
            return
        self.is_cut = True
        if self._keeps_end:
            del self._data[: -self._max]
        else:
            del self._data[self._max :]
            self.is_full.set()

    @property
    def text(self) -> str:
        return bytes(self._data).decode("utf-8", "replace")


async def run(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout_s: float,
    max_bytes: int,
    keeps_end: bool = False,
    stdin: bytes = b"",
) -> Done:
    """Run it in a process group of its own. However this ends, cancelled too, nothing of it that can be seen lives on.

    Args:
        env: All of its environment; with the attempt's marker, so that it is found if we die.
        max_bytes: Of its output; the end of it with `keeps_end`, else it is ended when it has written so much.

    Raises:
        SpawnFailed: The operating system refused.
    """
    output = _Output(max_bytes, keeps_end=keeps_end)
    command = Command(argv=tuple(argv), env=dict(env), cwd=cwd, system=b"", prompt=stdin, secrets=())
    child = Child(
        command, prefix=death_wish(env.get("PATH", "")), on_output=output.take, on_zombie=lambda: family.claim_orphans()
    )
    # By group and tree only: other processes of the attempt carry the same marker, and stay.
    family = Family(child.proc, env.get(MARK, "") + _OWN_MARK)
    child.write(stdin)
    child.close_stdin()
    full = asyncio.ensure_future(output.is_full.wait())
    try:
        await asyncio.wait([child.exited, full], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        exit_code = child.exited.result() if child.exited.done() else None
    finally:
        full.cancel()
        await _end(child, family)
    return Done(exit_code=exit_code, output=output.text, errors=child.stderr_tail, is_cut=output.is_cut)


async def _end(child: Child, family: Family) -> None:
    """To the end even if we are cancelled meanwhile: it takes a second at most."""
    ending = asyncio.ensure_future(_bury(child, family))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait([ending])
        raise


async def _bury(child: Child, family: Family) -> None:
    if not child.exited.done():
        await family.stop(child, _WAITS, gently=True)
    await family.kill()
