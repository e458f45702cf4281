"""Warm processes: claudes that ended a job well and wait a short while for the next one like it.

A waiting process belongs to no job. Its marker names the worker that keeps it, so that whoever sweeps after that
worker's death finds it, and nobody who looks for a job does.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from claude_jobs.domain.job import ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.policy.warm import idle_limit
from claude_jobs.runner.command import JOB_ID, SECRETS, Command
from claude_jobs.runner.family import Waits
from claude_jobs.runner.host import Host
from claude_jobs.runner.order import Order
from claude_jobs.runner.proctree import MARK
from claude_jobs.runner.transcript import config_dir

_SESSION = "--session-id="
LOOK_S = 1.0
"""How often those that wait look whether the memory they hold is needed."""
_OWN_TO_A_PROCESS = frozenset({MARK, JOB_ID, *SECRETS})


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRules:
    """How long a process is kept.

    Attributes:
        max_jobs: Conversations one process holds in all.
        max_rss_bytes: It grows with each conversation (measured: 195 to 270 MB over 40); beyond this it goes.
        idle_s: How long it waits for the next job.
        max_idle: How many wait at once, if memory allows it: as many as there are slots to use them.
    """

    max_jobs: int = 20
    max_rss_bytes: int = 450 * 1024 * 1024
    idle_s: float = 30.0
    max_idle: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """All that must be equal for two attempts to run in one process: everything that is settled at its start.

    Attributes:
        system: What it was told over stdin before the first prompt.
        credential: Fingerprint, "" for subscription tokens: these can be exchanged in a running process.
        login_ns: When the CLI's own login was last written; another account may be behind it since.
    """

    org: str
    argv: tuple[str, ...]
    cwd: str
    env: tuple[tuple[str, str], ...] = field(repr=False)
    system: bytes = field(repr=False)
    kind: TokenKind
    profile: tuple[tuple[str, str], ...] = field(repr=False)
    credential: str
    login_ns: int


def key_of(order: Order, command: Command) -> Key | None:
    """What a process for this attempt is known by; None if the attempt needs one of its own.

    `project=full` may bring hooks, a job that spawns has servers of its own, a worktree goes away, a resumed session has
    its history.
    """
    spec, credential = order.spec, order.credential
    is_own = spec.tools != () if spec.fresh is None else spec.fresh
    is_bound = spec.project is ProjectFiles.FULL or spec.nest or spec.worktree
    if is_own or is_bound or any(word.startswith("--resume=") for word in command.argv):
        return None
    return Key(
        org=order.org,
        argv=tuple(word for word in command.argv if not word.startswith(_SESSION)),
        cwd=command.cwd,
        env=tuple(sorted(pair for pair in command.env.items() if pair[0] not in _OWN_TO_A_PROCESS)),
        system=command.system,
        kind=credential.kind,
        profile=credential.profile,
        credential="" if credential.kind is TokenKind.OAUTH else credential.fingerprint,
        login_ns=_login_ns(command) if credential.kind is TokenKind.LOGIN else 0,
    )


def _login_ns(command: Command) -> int:
    try:
        return (config_dir(command.env) / ".credentials.json").stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(eq=False, slots=True)
class _Kept:
    """A process that may be used again. `secret` is the token it asks with now."""

    key: Key
    secret: str
    patience: asyncio.TimerHandle | None = None


class WarmPool:
    """The warm processes of one worker. Call it on its event loop only."""

    def __init__(
        self,
        *,
        rules: WarmRules = WarmRules(),
        waits: Waits = Waits(),  # noqa: B008 - frozen
        free_bytes: Callable[[], int] = lambda: 1 << 60,
    ) -> None:
        """`free_bytes` tells how much memory can be taken now."""
        self._rules = rules
        self._waits = waits
        self._free_bytes = free_bytes
        self._next_look: asyncio.TimerHandle | None = None
        self._most: int = rules.max_idle
        self._kept: dict[Host, _Kept] = {}
        self._idle: list[Host] = []
        self._burials: set[asyncio.Task[None]] = set()
        self._started = 0
        self._is_open = True

    @property
    def idle(self) -> tuple[int, ...]:
        """pids of those that wait, the longest waiting first."""
        return tuple(host.child.proc.pid for host in self._idle)

    def idle_like(self, key: Key) -> int:
        """How many wait that such an attempt could take."""
        return sum(self._kept[host].key == key and not host.has_ended for host in self._idle)

    def prepare(self, order: Order, command: Command, key: Key) -> None:
        """One more that waits for such an attempt, if there is room. It has not held any conversation.

        Raises:
            SpawnFailed: The operating system refused.
        """
        if len(self._idle) >= self._limit(self._most):
            return
        argv = tuple(_SESSION + str(uuid.uuid4()) if word.startswith(_SESSION) else word for word in command.argv)
        host = self.start(order, replace(command, argv=argv), key)
        host.introduce(command)
        self.give_back(host)

    def start(self, order: Order, command: Command, key: Key) -> Host:
        """A new process for this attempt, and for others after it.

        Raises:
            SpawnFailed: The operating system refused.
        """
        self._started += 1
        owner = order.home_mark.removesuffix(f":{order.job_id}:{order.epoch}")
        env = {name: value for name, value in command.env.items() if name != JOB_ID}
        host = Host(replace(command, env={**env, MARK: f"{owner}:warm:{self._started}"}))
        self._kept[host] = _Kept(key, order.credential.secret)
        host.child.exited.add_done_callback(lambda _: self._on_exit(host))
        return host

    def take(self, key: Key, credential: Credential) -> Host | None:
        """A waiting process, by preference one that has this token already. It still knows its last conversation."""
        fitting = [host for host in self._idle if self._kept[host].key == key and not host.has_ended]
        if not fitting:
            return None
        host = max(fitting, key=lambda host: (self._kept[host].secret == credential.secret, self._idle.index(host)))
        self._stop_waiting(host)
        kept = self._kept[host]
        if kept.secret != credential.secret:
            kept.secret = credential.secret
            host.give_token(credential.secret)
        return host

    def has_room_for(self, host: Host) -> bool:
        """Whether this process, its conversation well ended, may wait for another one."""
        host.family.look()
        return (
            self._is_open
            and host in self._kept
            and not host.has_ended
            and host.conversations < self._rules.max_jobs
            and host.family.survivors() == (host.child.proc.pid,)
            and _rss_bytes(host.child.proc.pid) <= self._rules.max_rss_bytes
        )

    def give_back(self, host: Host) -> None:
        """Let it wait. What has no room goes: the longest waiting, or this one if the pool was closed meanwhile."""
        self._idle.append(host)
        host.rest(lambda: self._on_noise(host))
        loop = asyncio.get_running_loop()
        self._kept[host].patience = loop.call_later(self._rules.idle_s, self._retire, host)
        # No more live than before: whether too many do, `keep_at_most` tells when its attempt has ended.
        self._make_room(self._rules.max_idle)

    def give_up(self) -> None:
        """This claude does not begin new conversations: each job has a process of its own from now on."""
        self._is_open = False
        self._make_room(0)

    def keep_at_most(self, most: int) -> None:
        """No more than `most` may wait from now on."""
        self._most = min(most, self._rules.max_idle)
        self._make_room(self._most)

    async def close(self) -> None:
        """End all that wait. What still runs a job ends with that job."""
        self.give_up()
        if self._burials:
            await asyncio.wait(self._burials)

    def _limit(self, most: int) -> int:
        if not self._is_open:
            return 0
        return idle_limit(slots=most, idle=len(self._idle), free_bytes=self._free_bytes())

    def _make_room(self, most: int) -> None:
        """Now, and again and again while any waits: the memory may be needed by others than us."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        for host in self._idle[: max(0, len(self._idle) - self._limit(most))]:
            self._retire(host)
        if self._idle:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_S, lambda: self._make_room(self._most))

    def _stop_waiting(self, host: Host) -> None:
        self._idle.remove(host)
        patience = self._kept[host].patience
        if patience is not None:
            patience.cancel()

    def _retire(self, host: Host) -> None:
        self._stop_waiting(host)
        burial = asyncio.get_running_loop().create_task(self._bury(host), name=f"burial {host.child.proc.pid}")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _bury(self, host: Host) -> None:
        await host.bury(self._waits)
        host.forget_session()

    def _on_noise(self, host: Host) -> None:
        if host in self._idle:
            self._retire(host)

    def _on_exit(self, host: Host) -> None:
        if host in self._idle:
            self._retire(host)
        del self._kept[host]


def _rss_bytes(pid: int) -> int:
    """Its resident memory; 0 where that cannot be read, and the number of jobs alone decides."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
