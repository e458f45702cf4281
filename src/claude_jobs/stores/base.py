"""The JobStore Protocol and its request and answer values. Every method is ONE transaction (SQLite) or ONE script (Redis).

Rules for all methods: synchronous and safe to call from any one thread at a time; atomic: on an error nothing happened;
`now_ms` is the caller's wall clock (a store with a clock of its own may ignore it); ids are strings; nothing blocks
longer than its lock and disk. Errors: StoreUnavailable (disk full, no permission, lock not had), StoreCorrupt, StoreTooNew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from claude_jobs.domain.event import Event, NewEvent
from claude_jobs.domain.job import Attempt, Grant, Job, Outcome, ProcessRef, Progress, PublicState, Submission
from claude_jobs.domain.token import TokenKind, TokenNote, TokenState
from claude_jobs.policy.eta import Place
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import Disposition

MAX_EVENTS_PER_JOB = 2_000
"""Beyond it droppable events (domain.event.DROPPABLE) are no longer stored."""
HOLD_MS = 60_000
"""A job over its tree's total is looked at again after this time."""
INLINE_TEXT_BYTES = 64 * 1024
"""Longer prompts and results live in files beside the database; the row holds the path (engines.md §5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps that `admit` enforces. None is no cap; 0 means 0.

    Attributes:
        running: Jobs admitted or running over all workers of the store ("g").
        per_token: Jobs holding one token ("t:<fingerprint>").
        at_depth: Jobs admitted or running at one depth ("d:<depth>"); CLAUDE_MAX_CONCURRENT_AT_DEPTH.
        depth: Deepest depth that is admitted at all; CLAUDE_MAX_RECURSION_DEPTH.
        total: Highest `Job.ordinal` that is admitted in a tree; CLAUDE_MAX_TOTAL_JOBS. A job beyond is held back for
            HOLD_MS (delayed, reason `limit`), since limits may have been lowered after it was accepted.
    """

    running: int | None = None
    per_token: int = 8
    at_depth: int | None = None
    depth: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A batch: all are accepted or none.

    Attributes:
        batch_id: "" for a single job; it groups jobs for `status` and for `max_parallel`. The jobs may join a batch that
            is there; the rules of the latest request hold for all of it.
        max_parallel: At most this many of the batch admitted or running at once; None is no cap.
        queue_size: Refuse (QueueFull) if the queued jobs would exceed it.
        fail_fast: When one of the batch fails or expires, the rest of the batch is cancelled.
        recursion: Limits that submissions with a parent are held against (policy.recursion); None checks nothing.
    """

    submissions: tuple[Submission, ...]
    now_ms: int
    batch_id: str = ""
    max_parallel: int | None = None
    queue_size: int = 1_000
    fail_fast: bool = False
    recursion: RecursionLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`is_new` is False where an idempotency key named an existing job."""

    job: Job
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitRequest:
    """A worker asking for work.

    Attributes:
        owner: The worker's id.
        free: Slots it has.
        pools: Pools it serves.
        held: Fingerprints of the credentials it has in memory.
        dead: Owners known to be dead (their liveness lock was had): their jobs are taken back first.
        nested_first: Only jobs of jobs, the deepest first, whatever their rank: every running job waits, and only
            a job of its own tree can set it free.
    """

    owner: str
    free: int
    pools: tuple[str, ...]
    held: frozenset[str]
    limits: Limits
    now_ms: int
    dead: frozenset[str] = frozenset()
    nested_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a worker got.

    Attributes:
        next_ms: When asking again can first change something without a doorbell (a delay, deadline or cool-down ends);
            None if only an event can.
        reaped: Jobs taken back from dead owners.
        expired: Jobs whose deadline passed while they waited.
        overdue: Jobs that this owner holds past their deadline, to be stopped by it.
    """

    grants: tuple[Grant, ...] = ()
    next_ms: int | None = None
    reaped: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What an owner must know about its jobs.

    Attributes:
        cancel: Jobs of this owner with a cancel requested, and why.
        lost: (job, epoch) pairs named in the call that are no longer this owner's: their processes must die.
    """

    cancel: tuple[tuple[str, str], ...] = ()
    lost: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAck:
    """`was` is the state the cancel met; `is_done` is False while an owner still has to stop it."""

    job_id: str
    was: PublicState
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list, newest first; unread terminal ones first when `unread_first`. Empty means all.

    Attributes:
        root_id: Jobs of one tree, its root included.
        parent_id: Jobs spawned by this one itself.
        cursor: Opaque, from `Page.cursor`; "" for the first page.
    """

    ids: tuple[str, ...] = ()
    states: tuple[PublicState, ...] = ()
    batch_id: str = ""
    root_id: str = ""
    parent_id: str = ""
    label: str = ""
    unread_first: bool = False
    limit: int = 20
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Prompt texts in listed jobs may be cut to 200 characters, result texts are left out."""

    jobs: tuple[Job, ...]
    cursor: str = ""
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Jobs by public state, and how many finished ones are unread."""

    by_state: dict[PublicState, int] = field(default_factory=dict[PublicState, int])
    unread: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Counters against the rows they count.

    Attributes:
        drift: Limit key -> (counter, truth) for each that differed; they were repaired.
        problems: Sentences about rows that break an invariant; empty in every sane world.
    """

    drift: dict[str, tuple[int, int]]
    problems: tuple[str, ...] = ()


class JobStore(Protocol):
    """The durable state machine."""

    def submit(self, request: SubmitRequest) -> tuple[Receipt, ...]:
        """Accept jobs durably (survives power loss), in order; duplicates of a (submitter, key) return the first job.

        A job with unmet dependencies is `waiting`; its rank is never behind its parent's. The budget of a child is what
        policy.recursion grants it: first to those of a request that name one, then in even shares.

        Raises QueueFull; KeyConflict if a key was used for another spec; JobNotFound for an unknown parent or
        dependency; RecursionRefused; InvalidRequest if the parent's tree was cancelled or ended, if a dependency can
        never be met, or if the session it would go on with belongs to an unfinished job.
        """
        ...

    def set_batch(self, batch_id: str, *, max_parallel: int | None, fail_fast: bool) -> None:
        """Other rules for a batch, from now on. One without jobs is ignored."""
        ...

    def admit(self, request: AdmitRequest) -> Admission:
        """Take back dead owners' jobs, promote due, expire overdue, then pick by rank while slots, caps and tokens last.

        A picked job is `admitted` with epoch+1, owner, token, and its permits ("g", "d:<depth>", "r:<root>",
        "b:<batch>", "t:<token>", "h:<owner>") taken and listed in its row, in one step. Never scans past blocked jobs.
        What only waits for a cap has no part in `next_ms`: an end, not time, makes room for it.
        """
        ...

    def begin(
        self, job_id: str, epoch: int, process: ProcessRef | None, now_ms: int, *, session_id: str | None = None
    ) -> bool:
        """admitted -> running. False (and the job goes where a cancel sends it) if the epoch is stale or a cancel is due.

        A second call with the same epoch records the process of the running attempt and returns True; with
        `session_id` the job runs in that session from now on, which has cost nothing yet.
        """
        ...

    def beat(self, owner: str, held: Sequence[tuple[str, int]], now_ms: int) -> Beat:
        """Tell the owner which of its jobs to stop and which (job, epoch) it no longer holds."""
        ...

    def block(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """running -> blocked: it waits for other jobs, and its permits are free. False if stale or not running."""
        ...

    def unblock(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """blocked -> running: permits taken again, past their caps if need be. False if stale or not blocked."""
        ...

    def reopen(self, job_ids: Sequence[str], now_ms: int, *, tree: bool = False, asker: str = "") -> tuple[Job, ...]:
        """Run ended jobs again under their ids: a new session, counters of attempts at zero, what was spent stays.

        Each must be failed, cancelled or expired. With `tree`, what is reopened is every such job among the named ones,
        those below them, and the jobs of their batches that depend on one of these; but none below another reopened
        job, whose parent will spawn what it needs. Either way, jobs that never ran because of a reopened one
        (Failure.DEPENDENCY) come back with it, unless they would be refused for what is above them. A job that goes on
        with an earlier one's session stays in it. A deadline that is over is dropped, but not that of a job above it.

        `asker` is the job that asks, "" for a user: it brings back what is below it and nothing else, each job at most
        policy.recursion.MAX_RETRIES_BY_JOB times, and nothing below an ended job.

        Returns the reopened jobs, in submit order. Raises JobNotFound; NotPermitted if one is not below the asker;
        RecursionRefused if one was run again too often, or if its budget has been given away since; InvalidRequest if
        there is nothing to reopen, if an ancestor was cancelled and not reopened itself, if a session is in use by now,
        or (without `tree`) if one has not so ended or needs a job that stays failed.
        """
        ...

    def move(
        self, job_id: str, epoch: int, note: TokenNote, held: frozenset[str], limits: Limits, now_ms: int
    ) -> str | None:
        """Hot swap: apply `note` to the running job's token and exchange it for another free one of the same kind.

        Returns the new fingerprint (permits exchanged, moves+1, event `moved`), or None if none is free, the
        epoch is stale, a cancel is due or the job moved too often; then nothing but the note was applied.
        """
        ...

    def finish(
        self, job_id: str, epoch: int, outcome: Outcome, disposition: Disposition, note: TokenNote | None, now_ms: int
    ) -> bool:
        """End the attempt durably: state by `disposition`, permits freed, usage added, attempt closed, token told.

        A cancel that was requested meanwhile turns a retry into `cancelled`. False if the epoch is stale.

        Whatever ends a job, here or elsewhere, decides in the same step about its dependents (ready, or failed with
        Failure.DEPENDENCY) and, if it failed or expired, cancels the rest of a batch with `fail_fast`.
        """
        ...

    def cancel(self, job_ids: Sequence[str], why: str, now_ms: int) -> tuple[CancelAck, ...]:
        """Cancel jobs and all their descendants: queued ones end at once, owned ones get a flag (see `beat`).

        Raises JobNotFound, and then cancels none.
        """
        ...

    def append(
        self, job_id: str, epoch: int, events: Sequence[NewEvent], progress: Progress | None, now_ms: int
    ) -> bool:
        """Add events to the job's log and replace its progress. False if the epoch is stale or the job not running."""
        ...

    def read(self, after: int, job_id: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """Events with seq > after, in order, of one job or of all."""
        ...

    def version(self) -> int:
        """A number that changes whenever anyone wrote. Cheap enough to poll."""
        ...

    def get(self, job_id: str) -> Job:
        """The whole job. Raises JobNotFound."""
        ...

    def find_key(self, submitter: str, key: str) -> Job | None:
        """The job that owns an idempotency key, if any."""
        ...

    def list(self, query: JobFilter) -> Page:
        """Jobs by filter, paged."""
        ...

    def counts(self) -> Counts:
        """How many jobs are where."""
        ...

    def places(self, job_ids: Sequence[str]) -> dict[str, Place]:
        """Where jobs stand among the ready ones (policy.eta.places), in one look. What is not ready has nobody ahead.

        Unknown ids are left out. Behind the first 10,000 ready jobs, those count as the ones ahead.
        """
        ...

    def peek(self, request: AdmitRequest, limit: int) -> tuple[Job, ...]:
        """The jobs that `admit` would hand out next if nothing else ran, whole, best first. Changes nothing.

        Its caps count as free places (0 stays 0); a batch's own cap and cooling tokens still hold.
        """
        ...

    def run_times(self, kind: str, limit: int = 50) -> tuple[int, ...]:
        """Running times in ms of the latest successful attempts of a kind (policy.estimate.kind), newest first."""
        ...

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """All attempts of a job, oldest first."""
        ...

    def mark_read(self, job_ids: Sequence[str], now_ms: int) -> None:
        """Remember that a caller has fetched these results."""
        ...

    def owners(self) -> tuple[str, ...]:
        """Owners of admitted, running or blocked jobs."""
        ...

    def owned(self, owner: str) -> tuple[Attempt, ...]:
        """The open attempts of one owner, with their processes, for sweeping after its death."""
        ...

    def register_tokens(self, tokens: Sequence[tuple[str, str, TokenKind]], now_ms: int) -> None:
        """Make (fingerprint, name, kind) known; what is known already keeps its state and takes the new name."""
        ...

    def note_token(self, fingerprint: str, note: TokenNote, now_ms: int) -> None:
        """Apply policy.tokens.apply to a token; unknown fingerprints are ignored."""
        ...

    def tokens(self) -> tuple[TokenState, ...]:
        """All known tokens, by name."""
        ...

    def prune(self, before_ms: int, limit: int = 200) -> int:
        """Delete up to `limit` terminal jobs that ended before, with their events, attempts and files. Returns how many.

        Kept is what is in a tree with an unfinished job, what one depends on, and whose session one goes on with.
        Tokens that nobody has registered since go too, but for those that rest, are quarantined or that an unfinished
        job offers.
        """
        ...

    def audit(self, now_ms: int) -> AuditReport:
        """Compare every counter with the rows it counts, and repair."""
        ...

    def close(self) -> None:
        """Release files. Idempotent."""
        ...
