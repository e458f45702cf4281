"""One running attempt as the worker sees it: told to the store as it happens, coalesced, and ended exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog

from claude_jobs.domain.event import NewEvent
from claude_jobs.domain.job import Failure, Grant, Job, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import Credential, TokenKind, TokenNote, Window
from claude_jobs.errors import ClaudeJobsError, InvalidRequest, JobNotFound, StoreError
from claude_jobs.policy.retry import Disposition, decide
from claude_jobs.policy.tokens import lesson
from claude_jobs.runner import proctree
from claude_jobs.runner.order import AttemptHandle, StopReason
from claude_jobs.services.desk import Desk
from claude_jobs.services.orders import order_of

T = TypeVar("T")

log = structlog.get_logger()

FLUSH_S = 0.2
"""Events of one job are written at most five times a second."""
MAX_PENDING = 200
"""Events of one job kept between two writes; beyond it the oldest are dropped."""
_NEW_TICKS = 100
"""A process younger than this was started for its attempt, and may have started others already."""
STORE_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries to record a beginning or an end while the store refuses (disk full, locked); the last one repeats."""


class RunningAttempt:
    """Runs one grant to its recorded end. Implements the runner's Hooks."""

    def __init__(self, desk: Desk, grant: Grant) -> None:
        self._desk = desk
        self.job: Job = grant.job
        self.epoch = grant.epoch
        self.token = grant.token
        self.outcome: Outcome | None = None
        self.process: ProcessRef | None = None
        self.began_ticks: int | None = None
        self._handle: AttemptHandle | None = None
        self._stop: StopReason | None = None
        self._is_given_up = False
        self.is_held = False
        self._has_to_wake = False
        self._pending: list[NewEvent] = []
        self._progress: Progress | None = None
        self._unrecorded: ProcessRef | None = None
        self._notes: list[TokenNote] = []
        self._dirty = asyncio.Event()
        self.done = asyncio.Event()

    def stop(self, reason: StopReason) -> None:
        """End it; see AttemptHandle.stop. The first reason wins."""
        self._is_given_up = self._is_given_up or reason in {StopReason.SHUTDOWN, StopReason.LOST}
        if self._stop is None:
            self._stop = reason
            if self._handle is not None:
                self._handle.stop(reason)

    def hold(self) -> None:
        """The job waits for others: its clocks stand still, and its place is another one's."""
        self.is_held = True
        if self._handle is not None:
            self._handle.hold()

    def go_on(self) -> None:
        """It waits no longer."""
        self.is_held = False
        if self._handle is not None:
            self._handle.go_on()

    async def run(self) -> None:
        """begin → process → finish. Never raises for what the job or the store did."""
        try:
            if await self._begin():
                outcome = self._desk.results.load(self.job.id) or await self._paid()
                self.outcome = outcome
                if self._stop is not StopReason.LOST:
                    await self._record(outcome)
        except StoreError as error:
            log.error(
                "attempt.store_failed", job_id=self.job.id, epoch=self.epoch, code=error.code, error=error.message
            )
        finally:
            self.done.set()
            self._desk.bell.ring()

    async def _begin(self) -> bool:
        desk = self._desk

        async def begin() -> bool:
            return await desk.database(desk.store.begin, self.job.id, self.epoch, None, desk.clock())

        begun = await self._insist(begin, "begin")
        if begun:
            desk.bell.ring()
            log.info("job.running", job_id=self.job.id, epoch=self.epoch, token=self.token)
        return begun

    async def _paid(self) -> Outcome:
        """Run it if a quota of its organization does not forbid it."""
        return await self._desk.budget.refusal(self.job, self.epoch) or await self._execute()

    async def _execute(self) -> Outcome:
        credential = self._desk.tokens.get(self.token)
        if credential is None:
            return Outcome(failure=Failure.INTERRUPTED, message="Its credential left this worker's memory.")
        if self._stop is not None:
            return Outcome(failure=_STOPPED[self._stop], message="Stopped before it started.")
        try:
            order = await order_of(self._desk, self.job, self.epoch, credential)
        except (InvalidRequest, JobNotFound) as error:
            return Outcome(failure=Failure.BAD_REQUEST, message=error.message)
        async with asyncio.TaskGroup() as tasks:
            flusher = tasks.create_task(self._flush_forever(), name=f"flush {self.job.id}")
            try:
                self._handle = self._desk.runner.start(order, self)
                if self._stop is not None:
                    self._handle.stop(self._stop)
                outcome = await self._handle.outcome()
            except ClaudeJobsError as error:
                outcome = Outcome(failure=_start_failure(error), message=error.message)
            flusher.cancel()
        await self._try_flush()
        return outcome

    async def _record(self, outcome: Outcome) -> None:
        """Write the end down: to a file first, so that it survives our death, then to the store, for as long as it takes."""
        self._desk.results.save(self.job.id, self.epoch, outcome)
        if outcome.failure is not Failure.QUOTA:
            await self._desk.budget.settle(self.job, self.epoch, outcome)
        await self._insist(lambda: self._finish(outcome), "finish")
        self._desk.results.drop(self.job.id)

    async def _insist(self, write: Callable[[], Awaitable[T]], what: str) -> T:
        """Try until the store takes it: a job of ours that it does not hear of would be nobody's.

        Raises:
            StoreError: It did not, and we are leaving: the next worker takes the job from us.
        """
        waits = iter(STORE_RETRY_S)
        wait_s = 0.0
        while True:
            try:
                return await write()
            except StoreError as error:
                if self._is_given_up:
                    raise
                wait_s = next(waits, wait_s)
                log.warning("attempt.store_refused", job_id=self.job.id, what=what, code=error.code, wait_s=wait_s)
                await asyncio.sleep(wait_s)

    async def _finish(self, outcome: Outcome) -> None:
        desk = self._desk
        now_ms = desk.clock()
        job = await desk.database(desk.store.get, self.job.id)
        disposition: Disposition = decide(job, outcome, desk.rules.retry, now_ms=now_ms, jitter=desk.jitter())
        note = lesson(outcome, model=job.spec.model, now_ms=now_ms)
        kept = await desk.database(desk.store.finish, job.id, self.epoch, outcome, disposition, note, now_ms)
        if kept and note is not None:
            await desk.tokens.tell_siblings(self.token, note)
        log.info(
            "job.attempt_ended" if kept else "job.attempt_was_stale",
            job_id=job.id,
            epoch=self.epoch,
            token=self.token,
            decision=disposition.trigger.value,
            failure=outcome.failure.value,
            duration_ms=outcome.duration_ms,
        )

    # Hooks: called by the runner on the event loop. What is not a coroutine must not wait.

    async def session(self, session_id: str) -> bool:
        """Record the session before anything is said in it: whoever takes over resumes that one."""
        desk = self._desk
        try:
            kept = await desk.database(
                desk.store.begin, self.job.id, self.epoch, None, desk.clock(), session_id=session_id
            )
        except StoreError as error:
            log.warning("attempt.session_not_recorded", job_id=self.job.id, code=error.code)
            return False
        if kept:
            self.job = replace(self.job, session_id=session_id, session_cost_nusd=0)
        return kept

    def started(self, process: ProcessRef) -> None:
        """Remember the process, so that a successor can sweep it."""
        self.process = self._unrecorded = process
        now = proctree.now_ticks()
        # A process that waited for the attempt is older than all that the attempt can start.
        self.began_ticks = process.started_ticks if now - process.started_ticks < _NEW_TICKS else now - 1
        self._dirty.set()

    def events(self, events: Sequence[NewEvent], progress: Progress | None) -> None:
        """Keep for the next flush; watchers are woken then."""
        self._pending.extend(events)
        del self._pending[:-MAX_PENDING]
        self._progress = progress or self._progress
        self._dirty.set()

    def utilization(self, windows: dict[str, Window]) -> None:
        """Remember how full the token is."""
        self._notes.append(TokenNote(windows=windows))
        self._dirty.set()

    def answered(self) -> None:
        """The credential works. For a login that matters now: others wait for it."""
        credential = self._desk.tokens.get(self.token)
        if credential is not None and credential.kind is TokenKind.LOGIN:
            self._notes.append(TokenNote(warm=True))
            self._dirty.set()

    def works_on(self) -> None:
        """Its wait does not keep it from working: it gets its places back with the next flush, and its clocks run."""
        self._has_to_wake = True
        self._dirty.set()

    async def on_limit(self, outcome: Outcome) -> Credential | None:
        """Hot swap: take another OAuth token for the same process, atomically with the cool-down of this one."""
        desk = self._desk
        now_ms = desk.clock()
        note = lesson(outcome, model=self.job.spec.model, now_ms=now_ms)
        current = desk.tokens.get(self.token)
        if note is None or current is None or current.kind is not TokenKind.OAUTH:
            return None
        await self._try_flush()
        held = frozenset(fp for fp in desk.tokens.held() if _same_door(desk.tokens.get(fp), current))
        try:
            token = await desk.database(desk.store.move, self.job.id, self.epoch, note, held, desk.rules.limits, now_ms)
        except StoreError as error:
            log.warning("attempt.not_moved", job_id=self.job.id, code=error.code)
            return None
        if token is None:
            return None
        log.info("job.moved", job_id=self.job.id, epoch=self.epoch, from_token=self.token, token=token)
        await desk.tokens.tell_siblings(self.token, note)
        self.token = token
        desk.work.ring()
        return desk.tokens.get(token)

    async def _flush_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._try_flush()
            await asyncio.sleep(FLUSH_S)

    async def _try_flush(self) -> None:
        try:
            await self._flush()
        except StoreError as error:
            log.warning("attempt.events_lost", job_id=self.job.id, code=error.code)

    async def _flush(self) -> None:
        desk, now_ms = self._desk, self._desk.clock()
        if self._has_to_wake:
            self._has_to_wake = False
            await desk.wake(self.job.id)
        if self._unrecorded is not None:
            await desk.database(desk.store.begin, self.job.id, self.epoch, self._unrecorded, now_ms)
            self._unrecorded = None
        notes, self._notes = self._notes, []
        for note in notes:
            await desk.tokens.note(self.token, note)
        events, self._pending = self._pending, []
        progress, self._progress = self._progress, None
        if events or progress is not None:
            await desk.database(desk.store.append, self.job.id, self.epoch, events, progress, now_ms)
        if any(note.warm for note in notes):
            desk.work.ring()
        if events or progress is not None:
            desk.bell.ring()


_STOPPED = {
    StopReason.CANCEL: Failure.CANCELLED,
    StopReason.TIMEOUT: Failure.TIMED_OUT,
    StopReason.DEADLINE: Failure.DEADLINE,
    StopReason.LOST: Failure.OWNER_LOST,
    StopReason.SHUTDOWN: Failure.INTERRUPTED,
}


def _start_failure(error: ClaudeJobsError) -> Failure:
    if error.code == "claude_not_found":
        return Failure.CLI_MISSING
    return Failure.CWD_MISSING if error.code == "cwd_missing" else Failure.CLI_ERROR


def _same_door(credential: Credential | None, current: Credential) -> bool:
    """Whether a running process can go over to it: the base URL and profile of a process are fixed at its start."""
    return credential is not None and credential.kind is current.kind and credential.profile == current.profile
