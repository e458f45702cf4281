"""What a runner is told and what it tells back: the seam between the worker and one attempt. Values and Protocols only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from claude_jobs.domain.event import NewEvent
from claude_jobs.domain.job import JobSpec, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import Credential, Window


class StopReason(StrEnum):
    """Why a running attempt is told to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    LOST = "lost"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt to run.

    Attributes:
        home_mark: Value of the marker variable in the environment of every process of this attempt
            (CLAUDE_JOBS_MARK="<home id>:<owner>:<job>:<epoch>"): what a sweep may kill.
        session_id: UUID fixed at submit. Whether to start or resume it is found out from the transcript.
        spent_nusd: What of its budget is gone: what the job has cost so far, and what it has given to its children.
        timeout_s: Running time expected; beyond it the attempt ends once it is silent for a while.
        ceiling_s: Running time allowed in any case. Time in which it is held does not count.
        stall_s: Longest silence without any event from the CLI.
        org: Who is billed: jobs of two never share a process.
        lineage_secret: Proves to the worker that its MCP server's spawns come from this job; "" gives it no such server.
    """

    job_id: str
    epoch: int
    spec: JobSpec
    session_id: str
    credential: Credential
    timeout_s: float
    stall_s: float
    home_mark: str
    ceiling_s: float
    org: str = ""
    spent_nusd: int = 0
    lineage_secret: str = field(default="", repr=False)


class Hooks(Protocol):
    """What happens during an attempt, told as it happens. Calls must return quickly; coroutines may await the store."""

    async def session(self, session_id: str) -> bool:
        """The attempt runs in a new session of this id instead of the order's. Told before its first word, and before `started`.

        False: it could not be recorded, and the attempt must not run.
        """
        ...

    def started(self, process: ProcessRef) -> None:
        """The CLI process runs."""
        ...

    def events(self, events: Sequence[NewEvent], progress: Progress | None) -> None:
        """Something to log, and what the job does now. May be called often; the receiver coalesces."""
        ...

    def utilization(self, windows: dict[str, Window]) -> None:
        """The API told how full the token's windows are."""
        ...

    def answered(self) -> None:
        """The first model answer of this attempt arrived: the credential works."""
        ...

    def works_on(self) -> None:
        """It is held, but works: what waits for other jobs does so in the background."""
        ...

    async def on_limit(self, outcome: Outcome) -> Credential | None:
        """The credential hit a usage limit. Another OAuth credential continues the same process (hot swap); None ends it."""
        ...


class AttemptHandle(Protocol):
    """A running attempt."""

    def stop(self, reason: StopReason) -> None:
        """Ask it to end: interrupt, TERM, KILL over its whole tree, with bounded waits. The first reason wins."""
        ...

    def hold(self) -> None:
        """It waits for other jobs: its clocks (time-out, stall) stand still until `go_on`."""
        ...

    def go_on(self) -> None:
        """It waits no longer."""
        ...

    async def outcome(self) -> Outcome:
        """Wait for the end. Never raises for what the job did; nothing of its tree is alive afterwards."""
        ...


class Runner(Protocol):
    """Starts attempts."""

    def start(self, order: Order, hooks: Hooks) -> AttemptHandle:
        """Start at once, in the caller's running event loop (the main thread)."""
        ...

    def prepare(self, orders: Sequence[Order]) -> None:
        """Start processes for orders that will probably come next (same job and epoch), to be taken by `start`.

        Called often, with all that are wanted now, best first; others that were prepared are ended. Never raises;
        does nothing where a process cannot be prepared.
        """
        ...

    async def forget(self, job_ids: Collection[str]) -> None:
        """End the processes that were prepared for these jobs, which will not come; wait until they are gone."""
        ...

    async def tidy(self, is_over: Callable[[str], Awaitable[bool]]) -> None:
        """Clear away what attempts kept for further ones of their jobs, where none will come.

        Args:
            is_over: Whether the job of that id has ended, and no other works in its place.
        """
        ...

    async def close(self) -> None:
        """End the processes that wait for further attempts. Nothing is kept from now on; running attempts go on."""
        ...
