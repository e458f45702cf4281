"""JobManager: what callers can ask of jobs. Every front (MCP, socket, HTTP) goes through here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import replace

from claude_jobs.domain.event import Event
from claude_jobs.domain.job import TERMINAL, Attempt, Job, JobState, PublicState
from claude_jobs.errors import AdmissionError, JobNotFound
from claude_jobs.policy import estimate
from claude_jobs.policy.recursion import RecursionLimits, check_steers, room
from claude_jobs.runner.order import StopReason
from claude_jobs.services.attempts import RunningAttempt
from claude_jobs.services.batches import BatchReport, collected, no_batch
from claude_jobs.services.bell import rung
from claude_jobs.services.caller import Caller
from claude_jobs.services.desk import Desk
from claude_jobs.services.job_replies import Cancelled, Retried, Submitted
from claude_jobs.services.recursion import RecursionManager
from claude_jobs.services.request import JobRequest, RequestRules
from claude_jobs.services.situation import Outlook, Situation, placed
from claude_jobs.services.submission import MAX_BATCH, prepare, repeated
from claude_jobs.stores.base import Counts, JobFilter, Page, Receipt, SubmitRequest

__all__ = ["MAX_BATCH", "Cancelled", "JobManager", "Retried", "Situation", "Submitted"]

POLL_S = 0.5
CANCEL_WAIT_S = 12.0
"""Longer than a stop can take (interrupt, TERM and KILL each have their own bound)."""
SHOWN_TREES = 5
"""Trees whose room is told after a retry."""


class JobManager:
    """The one code path of submit, watch, read and cancel.

    Args:
        running: The attempt of a job if it runs in this process (Worker.attempt).
        clear_away: Ends what this process still runs for cancelled jobs beside their attempts (Worker.clear_away).
        slots: How many jobs may run at once here, for forecasts (Worker.slots).
        queue_size: CLAUDE_QUEUE_SIZE.
    """

    def __init__(
        self,
        *,
        desk: Desk,
        rules: RequestRules,
        recursion: RecursionManager,
        queue_size: int,
        running: Callable[[str], RunningAttempt | None],
        clear_away: Callable[[Collection[str]], Awaitable[None]],
        slots: Callable[[], int],
    ) -> None:
        self._desk = desk
        self._rules = rules
        self._recursion = recursion
        self._queue_size = queue_size
        self._running = running
        self._clear_away = clear_away
        self._slots = slots

    @property
    def limits(self) -> RecursionLimits:
        """What trees of jobs are held against."""
        return self._recursion.limits

    async def submit(
        self,
        requests: Sequence[JobRequest],
        caller: Caller,
        *,
        is_batch: bool = False,
        max_parallel: int | None = None,
        fail_fast: bool = False,
        batch_id: str = "",
    ) -> Submitted:
        """Accept all of `requests` durably, or none. From inside a job they become its children.

        Args:
            batch_id: A batch that they join, "" for one of their own (`is_batch`). Its rules are then the ones given here.

        Raises:
            AdmissionError: InvalidRequest, NotPermitted, NoTokenAvailable, QueueFull, KeyConflict or RecursionRefused;
                nothing was stored.
        """
        desk = self._desk
        if batch_id:
            await self._check_batch(batch_id, caller)
        try:
            prepared = await prepare(desk, self._rules, requests, caller)
        except AdmissionError:
            before = await repeated(desk, requests, caller)
            if not before:
                raise
            receipts = tuple(Receipt(job=job, is_new=False) for job in before)
            return Submitted(receipts=receipts, payer="whoever paid before", batch_id=before[0].batch_id)
        receipts = await desk.database(
            desk.store.submit,
            SubmitRequest(
                submissions=prepared.submissions,
                now_ms=desk.clock(),
                batch_id=batch_id or (f"b-{secrets.token_hex(4)}" if is_batch else ""),
                max_parallel=max_parallel,
                fail_fast=fail_fast,
                queue_size=self._queue_size,
                recursion=self._recursion.limits,
            ),
        )
        desk.work.ring()
        desk.bell.ring()
        made = [receipt.job for receipt in receipts if receipt.is_new] or [receipts[0].job]
        return Submitted(receipts=receipts, payer=prepared.payer, batch_id=made[0].batch_id)

    async def set_batch(
        self, batch_id: str, caller: Caller, *, max_parallel: int | None = None, fail_fast: bool = False
    ) -> None:
        """Other rules for a batch, from now on.

        Raises:
            InvalidRequest: There is none.
            NotPermitted: A job asks for one that it did not spawn.
        """
        desk = self._desk
        await self._check_batch(batch_id, caller)
        await desk.database(lambda: desk.store.set_batch(batch_id, max_parallel=max_parallel, fail_fast=fail_fast))
        desk.work.ring()

    async def _check_batch(self, batch_id: str, caller: Caller) -> None:
        page = await self._desk.database(self._desk.store.list, JobFilter(batch_id=batch_id, limit=1))
        if not batch_id or not page.jobs:
            raise no_batch(batch_id)
        await self._check_descends([page.jobs[0].id], caller)

    async def retry(self, job_ids: Sequence[str], *, tree: bool = False, caller: Caller | None = None) -> Retried:
        """Run ended jobs again under their ids, or (`tree`) what failed of them, their descendants and dependents.

        Raises:
            JobNotFound: One of them does not exist; then none was reopened.
            InvalidRequest: There is nothing to run again; a job above one of them was cancelled; or a job asks for what
                an ended one had spawned.
            NotPermitted: A job asks for one outside its own descendants.
            RecursionRefused: A job asks for one that was run again often enough, or its budget has been given away.
        """
        desk = self._desk
        asker = caller.inside_job if caller else ""
        reopened = await desk.database(desk.store.reopen, job_ids, desk.clock(), tree=tree, asker=asker)
        desk.work.ring()
        desk.bell.ring()
        return Retried(jobs=reopened, note=await desk.database(self._room, reopened))

    def _room(self, jobs: Sequence[Job]) -> str:
        """What is left in the trees of those that had spawned jobs. Call it on the store's thread."""

        def total(query: JobFilter) -> int:
            return self._desk.store.list(replace(query, limit=1)).total

        roots = dict.fromkeys(job.root_id for job in jobs if total(JobFilter(parent_id=job.id)))
        limits = self._recursion.limits
        shown = list(roots)[:SHOWN_TREES]
        return " ".join(room(root_id, total(JobFilter(root_id=root_id)), limits) for root_id in shown)

    async def _check_descends(self, job_ids: Sequence[str], caller: Caller | None) -> None:
        """A job steers its descendants and nobody else."""
        asker = caller.inside_job if caller else ""
        for job_id in job_ids if asker else ():
            check_steers(asker, job_id, (await self._recursion.chain(job_id))[:-1])

    async def _check_visible(self, job: Job, caller: Caller | None) -> None:
        """A job reads its own tree: what others were told and answered is none of its business."""
        asker = caller.inside_job if caller else ""
        if asker and (await self.get(asker)).root_id != job.root_id:
            raise JobNotFound(job.id)

    async def get(self, job_id: str, caller: Caller | None = None) -> Job:
        """The job. Raises JobNotFound, also for a caller in a job of another tree."""
        job = await self._desk.database(self._desk.store.get, job_id)
        await self._check_visible(job, caller)
        return job

    async def wait(self, job_id: str, timeout_s: float, caller: Caller | None = None) -> AsyncIterator[Situation]:
        """The job now, then again after each change, until it ended or the time is over.

        A job that waits for another one gives its permits back meanwhile.

        Raises:
            JobNotFound: There is none, or the caller is a job of another tree.
            NotPermitted: The caller is a job that this one can only end after.
        """
        job = await self.get(job_id, caller)
        asker = caller.inside_job if caller else ""
        if not asker or job.is_terminal or timeout_s <= 0:
            async for situation in self._changes(job_id, timeout_s):
                yield situation
            return
        async with self._recursion.waiting(asker, job_id):
            async for situation in self._changes(job_id, timeout_s):
                yield situation

    async def _changes(self, job_id: str, timeout_s: float) -> AsyncIterator[Situation]:
        desk = self._desk
        end = asyncio.get_running_loop().time() + timeout_s
        last: Situation | None = None
        while True:
            ticket = desk.bell.ticket()
            now = await self.situation(await self.get(job_id))
            if now != last:
                yield now
                last = now
            left_s = end - asyncio.get_running_loop().time()
            if now.job.is_terminal or left_s <= 0:
                return
            await rung(ticket, min(POLL_S, left_s))

    async def situation(self, job: Job) -> Situation:
        """`job` with its reason, its wait and its place in the queue."""
        (situation,) = await self._situations([job])
        return situation

    async def _situations(self, jobs: Sequence[Job]) -> tuple[Situation, ...]:
        desk = self._desk
        ready = [job for job in jobs if job.state is JobState.READY]
        if not ready:
            outlook = Outlook(now_ms=desk.clock(), waits=self._recursion.waits())
            return tuple(placed(job, outlook) for job in jobs)
        kinds = {estimate.kind(job.spec) for job in ready}
        outlook = Outlook(
            now_ms=desk.clock(),
            states=await desk.tokens.states(),
            held=desk.tokens.held(),
            places=await desk.database(desk.store.places, [job.id for job in ready]),
            run_times={kind: await desk.database(desk.store.run_times, kind) for kind in kinds},
            slots=max(1, self._slots()),
            waits=self._recursion.waits(),
            limits=desk.rules.limits,
        )
        return tuple(placed(job, outlook) for job in jobs)

    async def list(self, query: JobFilter, caller: Caller | None = None) -> tuple[Page, tuple[Situation, ...]]:
        """Jobs by filter, each with its situation. A job sees its own tree."""
        page = await self._desk.database(self._desk.store.list, await self._visible(query, caller))
        return page, await self._situations(page.jobs)

    async def _visible(self, query: JobFilter, caller: Caller | None) -> JobFilter:
        if caller is None or not caller.inside_job:
            return query
        return replace(query, root_id=(await self.get(caller.inside_job)).root_id)

    async def report(self, query: JobFilter, caller: Caller | None = None, *, wait_s: float = 0.0) -> BatchReport:
        """Figures of a batch, or of other jobs together. A job sees its own tree.

        Args:
            wait_s: A job that asks waits so long for one of them to end, its permits given back meanwhile.

        Raises:
            InvalidRequest: There are none.
            NotPermitted: The caller is a job that one of them can only end after.
        """
        desk = self._desk
        query = await self._visible(query, caller)
        if caller is not None and caller.inside_job and wait_s > 0:
            await self._wait_for_one(query, caller.inside_job, wait_s)

        async def pages(query: JobFilter) -> Page:
            return await desk.database(desk.store.list, query)

        async def attempts(job_id: str) -> tuple[Attempt, ...]:
            return await desk.database(desk.store.attempts, job_id)

        return await collected(pages, attempts, query, desk.clock())

    async def _wait_for_one(self, query: JobFilter, asker: str, wait_s: float) -> None:
        unfinished = (PublicState.RUNNING, PublicState.BLOCKED, PublicState.QUEUED)
        page = await self._desk.database(self._desk.store.list, replace(query, states=unfinished, limit=1))
        for job in page.jobs:
            async with self._recursion.waiting(asker, job.id):
                async for _ in self._changes(job.id, wait_s):
                    pass

    async def counts(self) -> Counts:
        """How many jobs are where."""
        return await self._desk.database(self._desk.store.counts)

    async def mark_read(self, situation: Situation) -> Situation:
        """Somebody fetches this result now. The situation as it is then."""
        job = situation.job
        if not job.is_terminal or job.read_ms is not None:
            return situation
        now_ms = self._desk.clock()
        await self._desk.database(self._desk.store.mark_read, [job.id], now_ms)
        return replace(situation, job=replace(job, read_ms=now_ms))

    async def events(self, after: int, job_id: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """Events with seq > `after`."""
        return await self._desk.database(self._desk.store.read, after, job_id, limit)

    async def follow(self, after: int, job_id: str, caller: Caller | None = None) -> AsyncIterator[Event]:
        """Events of a job as they come, until it has ended and all were told. A job that follows another waits for it.

        Raises:
            JobNotFound: There is none, or the caller is a job of another tree.
            NotPermitted: The caller is a job that this one can only end after.
        """
        is_over = (await self.get(job_id, caller)).is_terminal
        if caller is None or not caller.inside_job or is_over:
            async for event in self._events_of(after, job_id):
                yield event
            return
        async with self._recursion.waiting(caller.inside_job, job_id):
            async for event in self._events_of(after, job_id):
                yield event

    async def _events_of(self, after: int, job_id: str) -> AsyncIterator[Event]:
        desk = self._desk
        while True:
            ticket = desk.bell.ticket()
            job = await self.get(job_id)
            events = await self.events(after, job_id)
            for event in events:
                after = event.seq
                yield event
            if not events and job.state in TERMINAL:
                return
            if not events:
                await rung(ticket, POLL_S)

    async def cancel(self, job_ids: Sequence[str], why: str, caller: Caller | None = None) -> tuple[Cancelled, ...]:
        """Cancel jobs with all their descendants, and wait (bounded) for the proof that nothing of them runs.

        Raises:
            JobNotFound: One of them does not exist; then none was cancelled.
            NotPermitted: A job asks for one that it did not spawn.
        """
        desk = self._desk
        await self._check_descends(job_ids, caller)
        acks = await desk.database(desk.store.cancel, job_ids, why, desk.clock())
        attempts = {ack.job_id: attempt for ack in acks if (attempt := self._running(ack.job_id)) is not None}
        for attempt in attempts.values():
            attempt.stop(StopReason.CANCEL)
        desk.work.ring()
        desk.bell.ring()
        await asyncio.gather(*(self._ended(ack.job_id, attempts.get(ack.job_id)) for ack in acks if not ack.is_done))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_WAIT_S):
                await self._clear_away({ack.job_id for ack in acks})
        cancelled: list[Cancelled] = []
        for ack in acks:
            job = await self.get(ack.job_id)
            attempt = attempts.get(ack.job_id)
            outcome = (attempt.outcome if attempt is not None else None) or job.outcome
            cancelled.append(
                Cancelled(
                    ack=ack,
                    job=job,
                    is_done=job.is_terminal,
                    signalled=outcome.signalled if outcome else (),
                    survivors=outcome.survivors if outcome else (),
                )
            )
        return tuple(cancelled)

    async def _ended(self, job_id: str, attempt: RunningAttempt | None) -> None:
        if attempt is not None:
            await rung(attempt.done, CANCEL_WAIT_S)
            return
        async for _ in self._changes(job_id, CANCEL_WAIT_S):
            pass
