"""The worker: asks the store for work while it has room, runs what it gets, and gives everything back when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError

import structlog

from claude_jobs.domain.job import Failure, Grant, Job, Outcome, ProcessRef
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import ClaudeJobsError, InvalidRequest, JobNotFound, StoreError
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.slots import Load, Room, room, slots
from claude_jobs.policy.transitions import Trigger
from claude_jobs.runner.order import Order, StopReason
from claude_jobs.services import machine
from claude_jobs.services.attempts import RunningAttempt
from claude_jobs.services.bell import rung
from claude_jobs.services.desk import Desk
from claude_jobs.services.liveness import Liveness
from claude_jobs.services.orders import order_of
from claude_jobs.stores.base import AdmitRequest

log = structlog.get_logger()

POLL_S = 0.5
"""The safety net behind the doorbell: the longest a change made by another process stays unseen."""
BEAT_S = 1.0
AUDIT_S = 60.0
GIVE_UP_RETRY_S = (0.5, 2.0, 10.0, 60.0)
AHEAD = 2
"""Coming jobs whose processes are started while all places are taken."""
PRUNE_BATCH = 200
PRUNE_ROUNDS = 50
"""Small batches, so that no submit waits long behind the clean-up."""

Sweep = Callable[[str, Sequence[ProcessRef]], Sequence[int]]
"""Kill what a dead owner left: (owner id, its recorded processes) -> pids killed. Blocking."""

Collect = Callable[[int | None], Sequence[int]]
"""Kill orphans that no attempt started since then can own: start of the oldest running one -> pids killed. Blocking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRules:
    """How much a worker takes on; times in seconds.

    Attributes:
        slots: Fixed number of slots, None for as many as the machine bears.
        pools: Pools it serves.
        keep_s: Age at which finished jobs are deleted.
        max_live: Most jobs with a process, those included that wait for other jobs; None for what memory bears.
    """

    slots: int | None
    max_live: int | None = None
    pools: tuple[str, ...]
    keep_s: float


class Worker:
    """One per machine and user in regular life; a successor and inline servers may run beside it."""

    def __init__(
        self, *, owner: str, desk: Desk, liveness: Liveness, sweep: Sweep, collect: Collect, rules: WorkerRules
    ) -> None:
        self.owner = owner
        self._desk = desk
        self._liveness = liveness
        self._sweep = sweep
        self._collect = collect
        self._rules = rules
        self._running: dict[str, RunningAttempt] = {}
        self._admitting = True
        self._admission = asyncio.Lock()
        self._ended = asyncio.Event()

    @property
    def running(self) -> int:
        """Jobs it runs now."""
        return len(self._running)

    @property
    def slots(self) -> int:
        """Jobs it may run at once, memory aside."""
        bearable, max_live = slots(machine.cores(), self._rules.slots), self._rules.max_live
        return bearable if max_live is None else min(bearable, max_live)

    def hold(self, job_id: str) -> None:
        """A job of ours waits for others: its place is free."""
        if job_id in self._running:
            self._running[job_id].hold()
            self._desk.work.ring()

    def go_on(self, job_id: str) -> None:
        """It waits no longer, and has its place again, even if another took it meanwhile."""
        if job_id in self._running:
            self._running[job_id].go_on()

    def attempt(self, job_id: str) -> RunningAttempt | None:
        """The attempt of a job, if it runs here."""
        return self._running.get(job_id)

    async def clear_away(self, job_ids: Collection[str]) -> None:
        """End what still runs for jobs that were cancelled: processes started ahead of them, and orphans they left.

        To be called once the store knows of the cancel: an admission that is in flight may have seen them coming.
        """
        async with self._admission:
            await self._desk.runner.forget(job_ids)
        await self._collect_orphans()

    async def run(self) -> None:
        """Work until `leave` has emptied it. Structured: no task outlives this call."""
        self._liveness.acquire()
        log.info("worker.started", owner=self.owner, pools=self._rules.pools)
        try:
            async with asyncio.TaskGroup() as tasks:
                chores = [
                    tasks.create_task(self._pump(tasks), name="pump"),
                    tasks.create_task(self._every(BEAT_S, self._beat, "beat"), name="beat"),
                    tasks.create_task(self._every(AUDIT_S, self._tidy, "tidy"), name="tidy"),
                ]
                await self._ended.wait()
                for chore in chores:
                    chore.cancel()
        finally:
            self._liveness.release()
            log.info("worker.ended", owner=self.owner)

    def pause(self) -> None:
        """Take no further jobs."""
        self._admitting = False

    async def leave(self, grace_s: float) -> None:
        """Take no further jobs, give the running ones `grace_s` to end, set the rest aside to resume elsewhere, end `run`."""
        self.pause()
        try:
            async with asyncio.timeout(grace_s):
                async with self._admission:  # one that is in flight may still bring jobs
                    attempts = list(self._running.values())
                await _all_done(attempts)
        except TimeoutError:
            log.info("worker.setting_aside", jobs=len(self._running))
        async with self._admission:
            self.hurry()
        await _all_done(list(self._running.values()))
        await self._desk.runner.close()
        self._liveness.release()
        self._ended.set()

    def hurry(self) -> None:
        """Set aside now what `leave` would still give time."""
        for attempt in self._running.values():
            attempt.stop(StopReason.SHUTDOWN)

    async def _pump(self, tasks: asyncio.TaskGroup) -> None:
        """Ask for work when the doorbell rings and there is room; twice a second look whether others changed anything.

        However often it rings, nobody else's change and no dead owner stays unseen for longer.
        """
        desk = self._desk
        loop = asyncio.get_running_loop()
        seen, asked_ms, due_ms, rang, look_at = -1, 0, 0, False, 0.0
        while True:
            ticket = desk.work.ticket()
            try:
                now_ms = desk.clock()
                looks = not rang or loop.time() >= look_at
                look_at = loop.time() + POLL_S if looks else look_at
                version = await desk.database(desk.store.version) if looks else seen
                # A clock that was set back makes the time at which to ask next too late.
                is_due = not asked_ms <= now_ms < due_ms or version != seen or (rang and self.room().free > 0)
                if self._admitting and is_due:
                    async with self._admission:
                        due_ms = await self._admit(tasks, now_ms, look_for_dead=looks)
                    asked_ms = now_ms
                seen = version
            except StoreError as error:
                log.error("worker.store_away", code=error.code, error=error.message)
                await asyncio.sleep(POLL_S)
            except (OSError, SubprocessError):  # no file descriptors, `ps` does not answer: nobody is buried this time
                log.exception("worker.pump_stumbled")
                await asyncio.sleep(POLL_S)
            rang = await rung(ticket, min(POLL_S, max(0.0, (due_ms - desk.clock()) / 1000)) if due_ms else POLL_S)

    def room(self) -> Room:
        """How many more jobs it takes now."""
        blocked = sum(attempt.is_held for attempt in self._running.values())
        load = Load(live=len(self._running), blocked=blocked, cores=machine.cores(), free_bytes=machine.free_bytes())
        return room(load, fixed=self._rules.slots, max_live=self._rules.max_live)

    async def _admit(self, tasks: asyncio.TaskGroup, now_ms: int, *, look_for_dead: bool) -> int:
        """One round; when the next is due by the clock."""
        desk = self._desk
        dead = await self._bury() if look_for_dead else frozenset[str]()
        now = self.room()
        request = AdmitRequest(
            owner=self.owner,
            free=now.free,
            pools=self._rules.pools,
            held=desk.tokens.held(),
            limits=desk.rules.limits,
            now_ms=now_ms,
            dead=dead,
            nested_first=now.nested_first,
        )
        admission = await desk.database(desk.store.admit, request)
        self._liveness.forget(dead)
        for grant in admission.grants:
            attempt = self._running[grant.job.id] = RunningAttempt(desk, grant)
            tasks.create_task(self._attempt(attempt, grant), name=f"attempt {grant.job.id}")
        for job_id in admission.overdue:
            if job_id in self._running:
                self._running[job_id].stop(StopReason.DEADLINE)
        if admission.reaped or admission.expired:
            log.info("worker.took_back", reaped=admission.reaped, expired=admission.expired)
            desk.bell.ring()
        try:
            await self._look_ahead(request)
        except (ClaudeJobsError, OSError):  # it only saves time; what is wrong, the job's own attempt will say
            log.exception("worker.look_ahead_failed")
        return admission.next_ms or now_ms + 60_000

    async def _look_ahead(self, request: AdmitRequest) -> None:
        """While all places are taken, the processes of the jobs that come next are started."""
        desk = self._desk
        full = bool(self._running) and self._admitting
        coming = await desk.database(desk.store.peek, request, AHEAD) if full else ()
        orders: list[Order] = []
        for job in coming:
            credential = _likely(job, [held for offer in job.offers if (held := desk.tokens.get(offer))])
            if credential is not None:
                with suppress(InvalidRequest, JobNotFound):  # its attempt will say so
                    orders.append(await order_of(desk, job, job.epoch + 1, credential))
        desk.runner.prepare(orders)

    async def _bury(self) -> frozenset[str]:
        """Owners that died: nothing of theirs may live on before their jobs run again."""
        desk = self._desk
        owners = await desk.database(desk.store.owners)
        dead = await asyncio.to_thread(self._liveness.dead, owners) if set(owners) - {self.owner} else frozenset[str]()
        for owner in dead:
            left = await desk.database(desk.store.owned, owner)
            processes = [attempt.process for attempt in left if attempt.process is not None]
            killed = await asyncio.to_thread(self._sweep, owner, processes)
            log.warning("worker.buried", owner=owner, jobs=len(left), killed=list(killed))
        return dead

    async def _attempt(self, attempt: RunningAttempt, grant: Grant) -> None:
        try:
            await attempt.run()
        except Exception as error:  # the job boundary: the job must not hang and the worker must live on
            log.exception("attempt.crashed", job_id=grant.job.id, epoch=grant.epoch)
            await self._give_up(grant, error)
        finally:
            if self._running.get(grant.job.id) is attempt:  # else the job's next attempt runs here already
                del self._running[grant.job.id]
            self._desk.work.ring()
        await self._collect_orphans()

    async def _give_up(self, grant: Grant, error: Exception) -> None:
        message = f"claude-jobs itself failed ({type(error).__name__}). See the worker's log; `claude-jobs doctor` says where."
        outcome = Outcome(failure=Failure.CLI_ERROR, message=message)
        disposition = Disposition(trigger=Trigger.FAIL, failure=Failure.CLI_ERROR, message=message)
        desk = self._desk
        for wait_s in (*GIVE_UP_RETRY_S, 0.0):
            try:
                await desk.database(
                    desk.store.finish, grant.job.id, grant.epoch, outcome, disposition, None, desk.clock()
                )
            except ClaudeJobsError:
                log.exception("attempt.not_given_up", job_id=grant.job.id, epoch=grant.epoch)
                await asyncio.sleep(wait_s)
            else:
                return

    async def _collect_orphans(self) -> None:
        """A job's processes end with it, those too that left its tree, its group and its marker."""
        began = [attempt.began_ticks for attempt in self._running.values() if attempt.began_ticks is not None]
        try:
            killed = await asyncio.to_thread(self._collect, min(began, default=None))
        except (OSError, SubprocessError):  # no file descriptors, or `ps` does not answer: the next end looks again
            log.exception("worker.orphans_not_looked_for")
            return
        if killed:
            log.warning("worker.orphans_killed", pids=list(killed))

    async def _every(self, period_s: float, chore: Callable[[], Awaitable[None]], name: str) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await chore()
            except StoreError as error:
                log.warning("worker.chore_failed", chore=name, code=error.code)
            except OSError:
                log.exception("worker.chore_failed", chore=name)

    async def _beat(self) -> None:
        desk = self._desk
        held = [(attempt.job.id, attempt.epoch) for attempt in self._running.values()]
        if not held:
            return
        beat = await desk.database(desk.store.beat, self.owner, held, desk.clock())
        for job_id, _ in beat.cancel:
            if job_id in self._running:
                self._running[job_id].stop(StopReason.CANCEL)
        for job_id, epoch in beat.lost:
            attempt = self._running.get(job_id)
            if attempt is not None and attempt.epoch == epoch:
                log.warning("attempt.lost", job_id=job_id, epoch=epoch)
                attempt.stop(StopReason.LOST)

    async def _tidy(self) -> None:
        desk = self._desk
        await desk.tokens.refresh()
        report = await desk.database(desk.store.audit, desk.clock())
        if report.drift or report.problems:
            log.error("audit.repaired", drift=report.drift, problems=report.problems)
        before_ms = desk.clock() - round(self._rules.keep_s * 1000)
        for _ in range(PRUNE_ROUNDS):
            if await desk.database(desk.store.prune, before_ms, PRUNE_BATCH) < PRUNE_BATCH:
                break
        await self._drop_results()
        await desk.runner.tidy(self._is_over)

    async def _is_over(self, job_id: str) -> bool:
        """Whether no attempt of that job will come; nor does another job, which went on with its session, run in its place."""
        if any(job_id in Path(attempt.job.spec.cwd).parts for attempt in self._running.values()):
            return False
        return await self._has_ended(job_id)

    async def _has_ended(self, job_id: str) -> bool:
        try:
            return (await self._desk.database(self._desk.store.get, job_id)).is_terminal
        except JobNotFound:
            return True

    async def _drop_results(self) -> None:
        """Results on disk whose jobs have ended: their worker died after it recorded them, or they were cancelled since."""
        desk = self._desk
        for job_id in await asyncio.to_thread(desk.results.kept):
            if await self._has_ended(job_id):
                desk.results.drop(job_id)


def _likely(job: Job, held: Sequence[Credential]) -> Credential | None:
    """The credential that a coming attempt can be started with: a subscription token can still be exchanged then."""
    exchangeable = [credential for credential in held if credential.kind is TokenKind.OAUTH]
    if exchangeable and len({credential.profile for credential in held}) == 1:
        return exchangeable[0]
    return held[0] if len(held) == 1 else None


async def _all_done(attempts: Sequence[RunningAttempt]) -> None:
    for attempt in attempts:
        await attempt.done.wait()
