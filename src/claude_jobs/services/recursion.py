"""RecursionManager: which job asks, by proof and by the kernel's word, and what happens to a job that waits for others.

The limits themselves are pure rules (policy.recursion) that the store applies in the transaction that makes a job.

Who asks is found once per connection, at its hello:
- Ancestry is the kernel's word: a process below a job's claude is in that job, whatever its environment says.
- A secret proves (job, epoch) of a job that is held; used from inside another job it was stolen, and is refused.
- A marker without a secret is believed where ancestry knows nothing better: it can only narrow what its bearer may do.
- What a job left behind (its claude is not above it any more, or its job has ended) asks for nothing.
A depth is never told by anybody: it is the parent's in the store, plus one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from claude_jobs.domain.job import OWNED, Job, JobState
from claude_jobs.errors import JobNotFound, NotPermitted, StoreError, StoreUnavailable
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.runner import ancestry, proctree
from claude_jobs.services.database import StoreThread
from claude_jobs.stores.base import JobStore

log = structlog.get_logger()

KEY_BYTES = 32

_OUTSIDE = "Ask from a session of your own."
_OTHER_HOME = (
    "This process runs in a job that this claude-jobs home does not know. "
    "Leave CLAUDE_JOBS_HOME and CLAUDE_JOBS_MARK as the job found them."
)
_LEFT_BEHIND = (
    "This process was started by a job but is cut off from it. Inside a job call claude-jobs in the foreground: "
    "no setsid, nohup or daemon."
)


def lineage_key(path: Path) -> bytes:
    """The home's key for the secrets of jobs, made on first use (0600), by one process even if many ask at once.

    Raises:
        StoreUnavailable: The file cannot be read or written.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            key = file.read()
            if len(key) != KEY_BYTES:  # new, or its maker died, or somebody edited it
                key = secrets.token_bytes(KEY_BYTES)
                os.fchmod(fd, 0o600)
                file.seek(0)
                file.truncate()
                file.write(key)
                file.flush()
            return key
    except OSError as error:
        message = f"Cannot use {str(path)!r}: {error.strerror}. Make it readable and writable for you, or remove it."
        raise StoreUnavailable(message, path=str(path)) from error


def lineage_secret(key: bytes, job_id: str, epoch: int) -> str:
    """What proves to be in that attempt: HMAC-SHA256, in hex. Nothing needs to remember it."""
    return hmac.new(key, f"{job_id}:{epoch}".encode(), hashlib.sha256).hexdigest()


@dataclass(slots=True)
class _Waiting:
    """What one job waits for now. A target is in there once per wait.

    Attributes:
        epoch: The attempt that is blocked, None as long as it is not.
    """

    targets: list[str] = field(default_factory=list[str])
    epoch: int | None = None


class RecursionManager:
    """Call it on the event loop.

    Args:
        key: See `lineage_key`.
        keeper_pid: The parent of this process if that is a keeper, else 0.
        hold: Told when a job has been blocked; `go_on` when it is so no longer. Jobs of other workers are named too.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        database: StoreThread,
        limits: RecursionLimits,
        key: bytes,
        home_id: str,
        keeper_pid: int,
        clock: Callable[[], int],
        hold: Callable[[str], None],
        go_on: Callable[[str], None],
    ) -> None:
        self.limits = limits
        self._store = store
        self._database = database
        self._key = key
        self._home_id = home_id
        self._keeper_pid = keeper_pid
        self._clock = clock
        self._hold = hold
        self._go_on = go_on
        self._waiting: dict[str, _Waiting] = {}

    def secret(self, job_id: str, epoch: int) -> str:
        """See `lineage_secret`."""
        return lineage_secret(self._key, job_id, epoch)

    async def identify(self, *, job_id: str, epoch: int, secret: str, pid: int) -> str:
        """The job that a front runs in, "" for none.

        Args:
            job_id: What its marker says, "" without one; `epoch` and `secret` likewise.
            pid: The front's process as the kernel names it, 0 if it does not.

        Raises:
            NotPermitted: The secret is wrong, somebody else's or of an attempt that has ended; or the process was left
                behind by a job, or belongs to another home.
        """
        kin = await self._by_ancestry(pid)
        if secret:
            return await self._proven(job_id, epoch, secret, kin)
        if job_id and not kin:
            await self._check_held(job_id, epoch)
        return kin or job_id

    async def _by_ancestry(self, pid: int) -> str:
        """The job that the process descends from, "" if from none as far as can be known."""
        line = await asyncio.to_thread(ancestry.trace, pid, self._keeper_pid)
        if line is None:
            return ""
        if not line.procs:
            raise _refused("The process that opened this connection has ended, so nobody can say where it belonged.")
        if not line.is_of_a_job:
            return ""
        named = _parse(line.mark)
        if line.is_below_worker and self._is_ours(named) and await self._database(self._why_not_held, *named[1:]) == "":
            return named[1]
        recorded = await self._database(self._recorded)
        for proc in line.procs:
            if found := recorded.get((proc.pid, proc.started_ticks)):
                return found
        if line.is_orphan or not line.mark:
            raise _refused(_LEFT_BEHIND)
        if not self._is_ours(named):
            raise _refused(_OTHER_HOME)
        await self._check_held(*named[1:])
        return named[1]

    def _is_ours(self, named: tuple[str, str, int]) -> bool:
        return named[0] == self._home_id

    def _recorded(self) -> dict[tuple[int, int], str]:
        """The processes of all attempts that run now, over all workers of the store."""
        here = proctree.boot_id()
        attempts = [attempt for owner in self._store.owners() for attempt in self._store.owned(owner)]
        return {
            (attempt.process.pid, attempt.process.started_ticks): attempt.job_id
            for attempt in attempts
            if attempt.process is not None and attempt.process.boot_id == here
        }

    async def _proven(self, job_id: str, epoch: int, secret: str, kin: str) -> str:
        if not hmac.compare_digest(self.secret(job_id, epoch).encode(), secret.encode("utf-8", "replace")):
            raise _refused(
                f"The secret that this connection brought is not that of job {job_id!r}. "
                "Use the claude-jobs server that the job was given, as it was given."
            )
        if kin and kin != job_id:
            raise _refused(
                f"The secret that this connection brought is that of job {job_id!r}, but its process runs in job {kin!r}. "
                "Use the claude-jobs server of your own job."
            )
        await self._check_held(job_id, epoch)
        return job_id

    async def _check_held(self, job_id: str, epoch: int) -> None:
        if why := await self._database(self._why_not_held, job_id, epoch):
            raise _refused(f"{why} {_OUTSIDE}")

    def _why_not_held(self, job_id: str, epoch: int) -> str:
        """Why that attempt is not under way, "" if it is."""
        try:
            job = self._store.get(job_id)
        except JobNotFound:
            return f"No job {job_id!r} runs here."
        if job.state not in OWNED:
            return f"Job {job_id!r} is {job.state.value}: what is left of it may not go on."
        if job.epoch != epoch:
            return f"Job {job_id!r} runs anew since (epoch {job.epoch}), and this is what is left of epoch {epoch}."
        return ""

    async def chain(self, job_id: str) -> tuple[Job, ...]:
        """The job and its ancestors, root first. Raises JobNotFound."""
        return await self._database(self._chain, job_id)

    def _chain(self, job_id: str) -> tuple[Job, ...]:
        chain = [self._store.get(job_id)]
        while (parent_id := chain[-1].parent_id) is not None:
            chain.append(self._store.get(parent_id))
        return tuple(reversed(chain))

    @asynccontextmanager
    async def waiting(self, job_id: str, target_id: str) -> AsyncGenerator[None]:
        """`job_id` waits for `target_id` in this block; while it waits for anything, its permits are free.

        Raises:
            JobNotFound: There is no such waiting job.
            NotPermitted: The target is the job itself, or an ancestor, or waits for it over other waits and
                dependencies. The message shows the circle.
        """
        now = self._waiting.setdefault(job_id, _Waiting())
        now.targets.append(target_id)
        try:
            job = await self._database(self._checked, job_id, target_id, self.waits())
            if now.epoch is None:
                now.epoch = job.epoch
                await self._block(job_id, job.epoch)
            yield
        finally:
            now.targets.remove(target_id)
            if not now.targets:
                del self._waiting[job_id]
                await self._unblock(job_id, now.epoch)

    async def wake(self, job_id: str) -> None:
        """It works on while it waits in the background: it has its permits again, until it waits for something else."""
        now = self._waiting.get(job_id)
        if now is not None and now.epoch is not None:
            epoch, now.epoch = now.epoch, None
            await self._unblock(job_id, epoch)

    async def _block(self, job_id: str, epoch: int) -> None:
        """What was begun is completed by the store's thread in any case, so it is told in any case."""
        try:
            await self._database(self._store.block, job_id, epoch, self._clock())
        finally:
            self._hold(job_id)

    async def _unblock(self, job_id: str, epoch: int | None) -> None:
        """Comes after the block, even if nobody stayed for that: the store's thread keeps the order of calls."""
        if epoch is None:
            return
        try:
            await self._database(self._store.unblock, job_id, epoch, self._clock())
        except StoreError as error:  # the job goes on either way; its end gives back what it has
            log.warning("wait.not_unblocked", job_id=job_id, epoch=epoch, code=error.code)
        finally:
            self._go_on(job_id)

    def waits(self) -> dict[str, tuple[str, ...]]:
        """Who waits for whom at this moment, asked for by jobs themselves."""
        return {job_id: tuple(now.targets) for job_id, now in self._waiting.items()}

    def _checked(self, job_id: str, target_id: str, waits: Mapping[str, tuple[str, ...]]) -> Job:
        """The waiting job, if its wait can end."""
        chain = self._chain(job_id)
        above = [job.id for job in chain]
        if target_id == job_id:
            raise _circle(job_id, target_id, "it is that job")
        if target_id in above:
            raise _circle(job_id, target_id, " spawned ".join(above[above.index(target_id) :]))
        if path := self._path(target_id, job_id, waits):
            raise _circle(job_id, target_id, " waits for ".join([job_id, *path]))
        return chain[-1]

    def _path(self, start: str, goal: str, waits: Mapping[str, tuple[str, ...]]) -> list[str]:
        """From `start` to `goal` over who waits for whom and who depends on whom, [] if there is no way."""
        came_from: dict[str, str] = {start: ""}
        todo = [start]
        while todo:
            here = todo.pop()
            for needed in (*waits.get(here, ()), *self._needed_by(here)):
                if needed not in came_from:
                    came_from[needed] = here
                    todo.append(needed)
        path = [goal] if goal in came_from else []
        while path and came_from[path[-1]]:
            path.append(came_from[path[-1]])
        return path[::-1]

    def _needed_by(self, job_id: str) -> tuple[str, ...]:
        try:
            job = self._store.get(job_id)
        except JobNotFound:  # ended long ago and cleaned up
            return ()
        return tuple(needed.job_id for needed in job.depends_on) if job.state is JobState.WAITING else ()


def _parse(mark: str) -> tuple[str, str, int]:
    """(home id, job, epoch) of a marker "<home id>:<owner>:<job>:<epoch>"; ("", "", 0) if it is none."""
    parts = mark.split(":")
    if len(parts) != 4 or not parts[3].isdecimal():
        return "", "", 0
    return parts[0], parts[2], int(parts[3])


def _refused(message: str) -> NotPermitted:
    return NotPermitted(message, field="lineage")


def _circle(job_id: str, target_id: str, how: str) -> NotPermitted:
    message = (
        f"Job {job_id!r} cannot wait for {target_id!r}: {how}. Waiting for jobs that it spawned itself always ends."
    )
    return NotPermitted(message, field="job_id")
