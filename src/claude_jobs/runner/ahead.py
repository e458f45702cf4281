"""Spawn-ahead: claudes that are started, without their prompt, for jobs that will probably come next.

A claude takes a third of a second, and two thirds of a core-second, before it reads a prompt. Done while all places are
taken, that is no time of the job's. What was started must be what the job would get if it started now, or it goes:

- Same command line, directory, environment (marker and all) and system text; a subscription token can still be exchanged.
- The CLI takes its picture of the git repository when it starts. It is told not to, and allowed to just before the prompt.
- It reads the memory of the project when it starts: a process older than a change of that is not used.
- The server by which a job spawns others gets in just before the prompt: before that, no job runs that it could speak for.

Nothing is written to the session before the prompt, and nothing runs.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from claude_jobs.domain.job import ProjectFiles
from claude_jobs.domain.token import TokenKind
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy.warm import MAX_AHEAD, may_prepare, must_give_way
from claude_jobs.runner.command import SECRETS, SETTINGS, Command
from claude_jobs.runner.family import Waits
from claude_jobs.runner.host import Host
from claude_jobs.runner.order import Order
from claude_jobs.runner.transcript import config_dir
from claude_jobs.runner.warm import Key, WarmPool, key_of

ANSWER_S = 10.0
"""How long a prepared process may take to get ready for its prompt (measured: 0.02 s, with a server 0.1 s)."""
LOOK_S = 0.5
_HELD_BACK = SETTINGS.removesuffix("}") + ',"includeGitInstructions":false}'
_LET_GO = {"subtype": "apply_flag_settings", "settings": {"includeGitInstructions": True}}

Memory = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AheadRules:
    """How long a process waits for its job.

    Attributes:
        keep_s: After this it goes in any case.
        grace_s: So long it stays when its job is no longer among those that come next: it may just be about to start.
    """

    keep_s: float = 60.0
    grace_s: float = 2.5


@dataclass(eq=False, slots=True)
class _Ready:
    """A started process and the attempt it is for."""

    host: Host
    order: Order
    command: Command
    memory: Memory
    since: float
    unwanted_since: float | None = None


class Ahead:
    """The processes that one worker started ahead. Call it on its event loop only.

    Args:
        build: The command of an attempt as it would start now; may raise ClaudeJobsError.
        pool: Gets those that any job like theirs can take; None: there are none.
        free_bytes: How much memory can be taken now.
    """

    def __init__(
        self,
        *,
        build: Callable[[Order], Command],
        pool: WarmPool | None,
        waits: Waits,
        free_bytes: Callable[[], int],
        rules: AheadRules = AheadRules(),
    ) -> None:
        self._build = build
        self._pool = pool
        self._waits = waits
        self._free_bytes = free_bytes
        self._rules = rules
        self._able: set[str] = set()
        self._unable: set[str] = set()
        self._ready: dict[str, _Ready] = {}
        self._tried: set[str] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._most = MAX_AHEAD
        self._is_open = True

    def meet(self, claude: str, version: str) -> None:
        """A claude was seen at work. Only such are started ahead: another program may do anything before its prompt."""
        if version:
            self._able.add(claude)

    def want(self, orders: Sequence[Order]) -> None:
        """See Runner.prepare."""
        wanted = {order.home_mark for order in orders}
        self._tried &= wanted
        now = asyncio.get_running_loop().time()
        for mark, one in self._ready.items():
            one.unwanted_since = None if mark in wanted else one.unwanted_since or now
        counted: Counter[Key] = Counter()
        for order in orders:
            if self._is_open and order.home_mark not in self._ready and _can_wait(order):
                self._provide(order, counted)
        self._look()

    def keep_at_most(self, most: int) -> int:
        """No more than `most` may wait from now on. How many do."""
        self._most = most
        for mark, one in list(self._ready.items())[most:]:
            self._drop(mark, one.host)
        return len(self._ready)

    async def forget(self, job_ids: Collection[str]) -> None:
        """These jobs will not come: end what was started for them, and wait until it is gone."""
        for mark, one in list(self._ready.items()):
            if one.order.job_id in job_ids:
                self._drop(mark, one.host)
        if self._burials:
            await asyncio.wait(self._burials)

    async def take(self, order: Order, command: Command) -> Host | None:
        """The process that was started for this attempt, ready for its prompt; None if there is none that fits."""
        one = self._ready.pop(order.home_mark, None)
        if one is None:
            return None
        is_ready = False
        try:
            is_ready = _fits(one, order, command) and await self._make_ready(one, order, command)
        finally:
            if not is_ready:
                await one.host.bury(self._waits)
        return one.host if is_ready else None

    async def close(self) -> None:
        """End all. Nothing is started from now on."""
        self._is_open = False
        self._look()
        if self._burials:
            await asyncio.wait(self._burials)

    def _provide(self, order: Order, counted: Counter[Key]) -> None:
        if len(self._ready) >= self._most or not may_prepare(prepared=len(self._ready), free_bytes=self._free_bytes()):
            return
        try:
            command = self._build(order)
            is_able = command.argv[0] in self._able - self._unable
            if not is_able or not Path(command.cwd).is_dir() or _is_resumed(command):
                return
            key = key_of(order, command) if self._pool is not None else None
            if key is not None:
                counted[key] += 1
            if order.home_mark in self._tried:
                return  # it had to go before its turn came: its job is not in a hurry
            if self._pool is None or key is None:
                self._tried.add(order.home_mark)
                self._start(order, command)
            elif self._pool.idle_like(key) < counted[key]:
                self._tried.add(order.home_mark)
                self._pool.prepare(order, command, key)
        except (ClaudeJobsError, OSError):
            return  # the attempt itself will meet this, and say so to whoever waits for it

    def _start(self, order: Order, command: Command) -> None:
        memory = _memory(command)
        host = Host(replace(command, argv=_held_back(command), private=None))
        host.introduce(command)
        host.wait(lambda: self._drop(order.home_mark, host))
        host.child.exited.add_done_callback(lambda _: self._drop(order.home_mark, host))
        since = asyncio.get_running_loop().time()
        self._ready[order.home_mark] = _Ready(host, order, command, memory, since)

    async def _make_ready(self, one: _Ready, order: Order, command: Command) -> bool:
        if order.credential.secret != one.order.credential.secret:
            one.host.give_token(order.credential.secret)
        requests: dict[str, dict[str, object]] = {"let-go": dict(_LET_GO)}
        if command.private is not None:
            servers = json.loads(command.private.text)["mcpServers"]
            requests["servers"] = {"subtype": "mcp_set_servers", "servers": servers}
        is_ready = await one.host.ask(requests, ANSWER_S)
        if is_ready is False:
            self._unable.add(command.argv[0])
        return is_ready is True

    def _look(self) -> None:
        """Now, and again and again while any waits: end those that are in the way, too old, or wanted no longer."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        now = asyncio.get_running_loop().time()
        must_go = not self._is_open or (bool(self._ready) and must_give_way(self._free_bytes()))
        for mark, one in list(self._ready.items()):
            is_unwanted = one.unwanted_since is not None and now - one.unwanted_since > self._rules.grace_s
            if must_go or is_unwanted or now - one.since > self._rules.keep_s:
                self._drop(mark, one.host)
        if self._ready:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _drop(self, mark: str, host: Host) -> None:
        one = self._ready.get(mark)
        if one is None or one.host is not host:
            return
        del self._ready[mark]
        burial = asyncio.get_running_loop().create_task(host.bury(self._waits), name=f"burial {host.child.proc.pid}")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)


def _can_wait(order: Order) -> bool:
    """Whether anything could be started now that is right later.

    Not with the project's own settings and hooks, which are read at the start; not in a worktree, which is made with the
    attempt; not with the CLI's own login, which a process may renew at its start while another uses it.
    """
    spec = order.spec
    is_late = spec.project is ProjectFiles.FULL or spec.worktree or bool(spec.resume_session)
    return not is_late and order.credential.kind is not TokenKind.LOGIN


def _is_resumed(command: Command) -> bool:
    """Its history is read at the start: nobody may have added to it meanwhile, and that is not ours to know."""
    return any(word.startswith("--resume=") for word in command.argv)


def _held_back(command: Command) -> tuple[str, ...]:
    """Without the git picture and the server: see the file's head."""
    words = (_HELD_BACK if word == SETTINGS else word for word in command.argv)
    return tuple(word for word in words if not word.startswith("--mcp-config="))


def _fits(one: _Ready, order: Order, command: Command) -> bool:
    was, now = one.order.credential, order.credential
    is_same_payer = was.kind is now.kind and (now.kind is TokenKind.OAUTH or was.fingerprint == now.fingerprint)
    return (
        is_same_payer
        and not one.host.has_ended
        and _shape(one.command) == _shape(command)
        and one.memory == _memory(command)
    )


def _shape(command: Command) -> tuple[object, ...]:
    env = {name: value for name, value in command.env.items() if name not in SECRETS}
    return command.argv, command.cwd, env, command.system


def _memory(command: Command) -> Memory:
    """The projects' memory files: which, when written, how long."""
    found: list[tuple[str, int, int]] = []
    for path in (config_dir(command.env) / "projects").glob("*/memory/MEMORY.md"):
        try:
            told = path.stat()
        except OSError:
            continue
        found.append((str(path), told.st_mtime_ns, told.st_size))
    return tuple(sorted(found))
