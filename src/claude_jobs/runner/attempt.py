"""One attempt: its directory, its claude process and the conversation in it, to the last process that it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.errors import ClaudeNotFound, InvalidRequest, SpawnFailed
from claude_jobs.policy.retry import MOVES, PATIENCE_MS, REFUSALS, TRANSIENT
from claude_jobs.runner.acceptance import Acceptance
from claude_jobs.runner.ahead import Ahead
from claude_jobs.runner.command import Command
from claude_jobs.runner.conversation import Conversation
from claude_jobs.runner.family import Waits
from claude_jobs.runner.host import Host
from claude_jobs.runner.order import Hooks, Order, StopReason
from claude_jobs.runner.redact import redact
from claude_jobs.runner.review import Review, Reviewer
from claude_jobs.runner.structured import StructuredOutput
from claude_jobs.runner.warm import WarmPool, key_of
from claude_jobs.runner.watchdog import Watchdog
from claude_jobs.runner.worktree import NoWorktree, Worktree, Worktrees

CLEAR_S = 10.0
"""How long a warm process may take to begin a new conversation (measured: 0.03 s), before one of its own is started."""

_MAY_GO_ON = TRANSIENT | MOVES | REFUSALS | PATIENCE_MS.keys() | {Failure.INTERRUPTED}
"""Another attempt may come, and find its worktree as this one left it."""
_STOPPED = {
    StopReason.CANCEL: (Failure.CANCELLED, "Cancelled."),
    StopReason.TIMEOUT: (Failure.TIMED_OUT, "It ran out of time."),
    StopReason.DEADLINE: (Failure.DEADLINE, "Its deadline passed."),
    StopReason.LOST: (Failure.OWNER_LOST, "Another worker took it over."),
    StopReason.SHUTDOWN: (Failure.INTERRUPTED, "Its worker stopped."),
}


class Attempt:
    """Implements AttemptHandle. `prepare` finds the executable and builds the command; it may raise like `Host`."""

    def __init__(
        self,
        order: Order,
        hooks: Hooks,
        prepare: Callable[[Order], Command],
        waits: Waits,
        pool: WarmPool | None = None,
        ahead: Ahead | None = None,
        worktrees: Worktrees | None = None,
    ) -> None:
        self._hooks = hooks
        self._prepare = prepare
        self._waits = waits
        self._pool = None if order.spec.worktree else pool
        self._worktrees = worktrees
        self._ahead = ahead
        self._gently = True
        self._is_held = False
        self._watchdog = Watchdog(
            timeout_s=order.timeout_s,
            ceiling_s=order.ceiling_s,
            stall_s=order.stall_s,
            on_timeout=self._on_timeout,
            on_stall=self._on_stall,
        )
        self._talk = Conversation(order, hooks, self._watchdog, self._pool, ahead)
        self._task = asyncio.create_task(self._run(), name=f"attempt {order.job_id}:{order.epoch}")

    def stop(self, reason: StopReason) -> None:
        """See AttemptHandle."""
        # A lost job may run elsewhere already: not one more word may reach its transcript.
        self._gently = self._gently and reason is not StopReason.LOST
        self._talk.end(*_STOPPED[reason])

    def hold(self) -> None:
        """See AttemptHandle."""
        if not self._is_held:
            self._is_held = True
            self._talk.hold()
            self._watchdog.pause()

    def go_on(self) -> None:
        """See AttemptHandle."""
        if self._is_held:
            self._is_held = False
            self._talk.go_on()
            self._watchdog.start()

    async def outcome(self) -> Outcome:
        """See AttemptHandle. If the waiter is cancelled, the attempt is stopped first."""
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            self.stop(StopReason.SHUTDOWN)
            await asyncio.wait([self._task])
            raise

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when nothing of it lives on."""
        self._task.add_done_callback(lambda _: callback())

    def _on_timeout(self, why: str) -> None:
        self._talk.end(Failure.TIMED_OUT, why)

    def _on_stall(self) -> None:
        self._talk.end(Failure.STALLED, f"claude was silent for {self._talk.order.stall_s:g} s.")

    async def _run(self) -> Outcome:
        if not self._talk.order.spec.worktree:
            return await self._work()
        if self._worktrees is None:
            return Outcome(failure=Failure.WORKTREE, message="This worker has no place for worktrees.")
        try:
            tree = await self._talk.unless_ended(self._worktrees.open(self._talk.order))
        except NoWorktree as error:
            return Outcome(failure=Failure.WORKTREE, message=error.message)
        if tree is None:
            return self._stopped_early()
        return await self._work_in(tree, self._worktrees)

    async def _work_in(self, tree: Worktree, worktrees: Worktrees) -> Outcome:
        order = self._talk.order
        self._talk.order = replace(order, spec=replace(order.spec, cwd=tree.cwd))
        outcome = await self._work()
        if outcome.failure is Failure.OWNER_LOST:
            return outcome  # another attempt is in it already
        left = await worktrees.close(tree, order, is_over=outcome.failure not in _MAY_GO_ON)
        return replace(outcome, worktree=left.path, diff=redact(left.diff, self._talk.secrets))

    async def _work(self) -> Outcome:
        try:
            command = self._prepare(self._talk.order)
            review = Review(_reviewers(self._talk.order))
        except ClaudeNotFound as error:
            return Outcome(failure=Failure.CLI_MISSING, message=error.message)
        except InvalidRequest as error:
            return Outcome(failure=Failure.BAD_REQUEST, message=error.message)
        if not _is_directory(command.cwd):
            message = f"The working directory {command.cwd!r} does not exist. Create it, or submit with another cwd."
            return Outcome(failure=Failure.CWD_MISSING, message=message)
        if self._is_stopped:
            return self._stopped_early()
        self._talk.secrets = command.secrets
        try:
            host = await self._find_host(command)
        except SpawnFailed as error:
            failure = Failure.SPAWN_FAILED if error.retryable else Failure.CLI_ERROR
            return Outcome(failure=failure, message=error.message)
        if self._is_stopped:
            await host.bury(self._waits, gently=self._gently)
            return replace(self._stopped_early(), signalled=tuple(sorted(host.family.signalled)))
        return await self._attend(host, command, review)

    @property
    def _is_stopped(self) -> bool:
        return self._talk.stopped is not Failure.NONE

    def _stopped_early(self) -> Outcome:
        return Outcome(failure=self._talk.stopped, message=self._talk.why)

    async def _find_host(self, command: Command) -> Host:
        order = self._talk.order
        key = key_of(order, command) if self._pool is not None else None
        if self._pool is None or key is None:
            ready = await self._ahead.take(order, command) if self._ahead is not None else None
            self._talk.secrets = ready.secrets if ready is not None else self._talk.secrets
            return ready or Host(command)
        warm = self._pool.take(key, order.credential)
        if warm is None or not await self._has_moved_in(warm, self._pool):
            return self._pool.start(order, command, key)
        return warm

    async def _has_moved_in(self, warm: Host, pool: WarmPool) -> bool:
        """Whether the attempt may begin there, in a session that is on record. If not, that process is gone.

        A stop meanwhile counts as yes: it is the caller's to see.
        """
        session_id = await warm.clear(CLEAR_S)
        if not session_id and not self._is_stopped:
            if session_id is not None:
                pool.give_up()
            await warm.bury(self._waits)
            return False
        self._talk.secrets = warm.secrets
        if session_id and not self._is_stopped:
            self._talk.move(session_id)
            await self._put_on_record(warm, session_id)
        return True

    async def _put_on_record(self, warm: Host, session_id: str) -> None:
        is_on_record = False
        try:
            is_on_record = await self._hooks.session(session_id)
        finally:
            if not is_on_record:
                self._talk.end(Failure.INTERRUPTED, "Its new session could not be recorded.")
                await warm.bury(self._waits, gently=self._gently)

    async def _attend(self, host: Host, command: Command, review: Review) -> Outcome:
        self._hooks.started(host.child.ref)
        self._watchdog.start()
        try:
            await self._talk.run(host, command, review)
        finally:
            self._watchdog.close()
            await self._part(host)
        return self._talk.judge()

    async def _part(self, host: Host) -> None:
        """Nothing of the attempt lives on, whether it succeeded or not: at most the bare process, if it is kept."""
        if self._pool is not None and self._talk.may_stay and not self._is_stopped and not host.has_ended:
            self._pool.give_back(host)
        else:
            await host.bury(self._waits, gently=self._gently)


def _reviewers(order: Order) -> list[Reviewer]:
    reviewers: list[Reviewer] = []
    if order.spec.output_schema:
        reviewers.append(StructuredOutput(order))
    if order.spec.accept:
        reviewers.append(Acceptance(order))
    return reviewers


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a network file system that is away, a parent that may not be entered
        return False
