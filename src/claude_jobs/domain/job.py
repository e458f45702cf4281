"""Jobs as frozen values: what was asked, where it stands, what came out. No behaviour, no IO, no clock.

Times are integer milliseconds since the epoch (`_ms`), money is integer nano-dollars (`_nusd`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from claude_jobs.domain.failure import Failure as Failure

if TYPE_CHECKING:
    from claude_jobs.domain.usage import Usage


class JobState(StrEnum):
    """Where a job stands in the store. `BLOCKED` runs, but waits for other jobs and holds no permit meanwhile."""

    WAITING = "waiting"
    READY = "ready"
    DELAYED = "delayed"
    ADMITTED = "admitted"
    RUNNING = "running"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})
QUEUED = frozenset({JobState.WAITING, JobState.READY, JobState.DELAYED})
OWNED = frozenset({JobState.ADMITTED, JobState.RUNNING, JobState.BLOCKED})


class PublicState(StrEnum):
    """What callers see; the four states before `running` are one word to them."""

    QUEUED = "queued"
    RUNNING = "running"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Reason(StrEnum):
    """Why a queued job does not run yet."""

    NONE = ""
    DEPENDENCY = "dependency"
    LIMIT = "limit"
    RATE_LIMIT = "rate_limit"
    NEEDS_CREDENTIAL = "needs_credential"
    BACKOFF = "backoff"
    CAPACITY = "capacity"


class PermissionMode(StrEnum):
    """Permission modes of the claude CLI that a job may ask for."""

    ACCEPT_EDITS = "acceptEdits"
    DONT_ASK = "dontAsk"
    PLAN = "plan"
    BYPASS = "bypassPermissions"


class ProjectFiles(StrEnum):
    """What of the working directory's own configuration a job may see.

    NONE: nothing. INSTRUCTIONS: CLAUDE.md as text, no settings, hooks or servers. FULL: all of it.
    """

    NONE = "none"
    INSTRUCTIONS = "instructions"
    FULL = "full"


class DependencyMode(StrEnum):
    """How many of its dependencies a job needs."""

    ALL = "all"
    ANY = "any"


class DependencyOn(StrEnum):
    """What a dependency must come to: success, or just an end of whatever kind."""

    SUCCESS = "success"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A job that must come first.

    Attributes:
        name: What the prompt calls it: `{{name.result}}` is its answer.
        job_id: Its id; in a Submission also "#<index>", the index of a job of the same request.
    """

    name: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What one attempt needs to know, as the caller asked and the service resolved it.

    Attributes:
        prompt: The task, as text. Reaches the CLI over stdin only.
        model: Alias or full id; always set.
        cwd: Absolute directory to run in.
        system: Text appended to the system prompt.
        tools: Tool names or permission rules ("Bash(git *)"); None means the default set, () none.
        effort: Reasoning effort of the CLI ("" leaves the model's default).
        max_cost_usd: Budget of the whole job in dollars; None is no budget.
        timeout_s: Longest running time of the first attempt, doubled whenever it was used up; None lets policy estimate it.
        max_attempts: Attempts in all. Moves because of a usage limit are none, nor is what passes by itself (an outage,
            say) and is waited out; but with 1 that is not, and fails the job.
        strict: A denied tool makes the job fail.
        fresh: True: a claude process of its own. None: shared if the job has no tools. False: shared with tools, too.
        nest: Whether the job gets our MCP server, and so is told that it may spawn jobs.
        forbids_nest: Its submitter said no: it spawns nothing, by whatever way it asks.
        output_schema: JSON Schema (as JSON text) that the answer must satisfy, "" for none.
        worktree: Run in a git worktree of its own, made from `cwd`.
        accept: Shell command that must exit 0 in the job's directory after its answer, "" for none.
        accept_timeout_s: How long that command may take.
        resume_session: Session of an earlier job that this one goes on with, "" for none.
        fork: Go on in a copy of that session; the earlier one stays as it is.
        env: The submitter's allow-listed environment, sorted pairs.
    """

    prompt: str
    model: str
    cwd: str
    system: str = ""
    tools: tuple[str, ...] | None = None
    permission_mode: PermissionMode = PermissionMode.ACCEPT_EDITS
    project: ProjectFiles = ProjectFiles.INSTRUCTIONS
    effort: str = ""
    max_cost_usd: float | None = None
    timeout_s: float | None = None
    max_attempts: int = 3
    strict: bool = False
    fresh: bool | None = None
    nest: bool = False
    forbids_nest: bool = False
    output_schema: str = ""
    worktree: bool = False
    accept: str = ""
    accept_timeout_s: float = 300.0
    resume_session: str = ""
    fork: bool = False
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job as handed to the store.

    Attributes:
        offers: Fingerprints of the credentials the submitter offered, in their order.
        submitter: Whose idempotency keys these are ("uid:1000", "job:<id>").
        key: Idempotency key, "" for none.
        priority: Each level is worth 60 s of waiting (see policy.rank).
        pool: Which workers may run it ("host:<id>" for CLI jobs).
        parent_id: The job that spawned it, None for a root.
        depends_on: Jobs that must come first.
        session_id: Session to run in, "" for a new one (set where an earlier job's session goes on).
        session_cost_nusd: What that session has cost so far.
    """

    spec: JobSpec
    offers: tuple[str, ...]
    submitter: str
    pool: str
    key: str = ""
    priority: int = 0
    label: str = ""
    labels: tuple[str, ...] = ()
    org: str = ""
    parent_id: str | None = None
    depends_on: tuple[Dependency, ...] = ()
    needs: DependencyMode = DependencyMode.ALL
    on: DependencyOn = DependencyOn.SUCCESS
    session_id: str = ""
    session_cost_nusd: int = 0
    not_before_ms: int | None = None
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a running job is doing right now, as last reported.

    Attributes:
        doing: One short phrase ("Bash: run the tests", "thinking").
        turns: Model answers so far in this attempt.
        output_tokens: Tokens written so far in this attempt.
    """

    doing: str = ""
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt came to, before any decision about a retry.

    Attributes:
        failure: `Failure.NONE` exactly when the attempt succeeded.
        message: One line for people: what went wrong and the next step.
        text: The final answer (partial text of a failed attempt is kept).
        usage: Tokens and cost of this attempt alone (differences over a resumed session).
        session_cost_nusd: The session's cumulative cost as the CLI reported it last; None if it did not.
        denied: Names of tools that were denied, in order.
        resets_at_ms: For a usage limit: when the window opens again; None if not announced.
        limit_window: For a usage limit: "five_hour", "seven_day", "seven_day_opus", ….
        retry_after_ms: The server's own wish, a minimum.
        duration_ms: How long its process ran, without the time in which it waited for other jobs or for a token.
        exit_code: The CLI's; negative for a signal, None if it never ran or was moved on.
        stderr_tail: The last bytes of its stderr, secrets redacted.
        signalled: pids that were sent a signal when it was stopped.
        survivors: pids that outlived SIGKILL; empty in every sane world.
        worktree: Directory of its worktree if that was kept because it holds changes.
        diff: What it changed there, as a bounded patch.
        corrections: Times it was sent back (invalid output, failed acceptance).
    """

    failure: Failure = Failure.NONE
    message: str = ""
    text: str = ""
    structured: str = ""
    usage: Usage | None = None
    session_cost_nusd: int | None = None
    model: str = ""
    turns: int = 0
    denied: tuple[str, ...] = ()
    resets_at_ms: int | None = None
    limit_window: str = ""
    retry_after_ms: int | None = None
    exit_code: int | None = None
    stderr_tail: str = ""
    duration_ms: int = 0
    signalled: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    worktree: str = ""
    diff: str = ""
    corrections: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the attempt reached a verified result."""
        return self.failure is Failure.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the store.

    Attributes:
        rank: Queue order, smaller first (policy.rank).
        epoch: Raised by each admission; a write with an older one is refused.
        attempts: Attempts that count against `spec.max_attempts`.
        moves: Times it changed token because of a limit or a refusal.
        losses: Times its worker died under it.
        timeouts: Attempts that ran out of time; each lengthens the next.
        trouble: What it waits out (a key of policy.retry.PATIENCE_MS), NONE for nothing.
        trouble_ms: What that has taken so far, attempts and waiting.
        troubles: How often it met any.
        refused_by: Tokens that refused this very job.
        owner: Id of the worker that holds it, "" when nobody does.
        permits: The limit keys it took; exactly these are given back.
        session_cost_nusd: Cumulative cost of its session as last reported by the CLI.
        usage: Sum over all attempts.
        queued_since_ms: When it last entered the queue.
        read_ms: When its result was first fetched; None while unread.
        ordinal: Its number among all jobs ever made in its tree, the root being 1.
        reopened: Times it was run again by hand after it had ended.
    """

    id: str
    spec: JobSpec
    state: JobState
    root_id: str
    depth: int
    offers: tuple[str, ...]
    submitter: str
    pool: str
    session_id: str
    rank: int
    created_ms: int
    queued_since_ms: int
    usage: Usage
    parent_id: str | None = None
    ordinal: int = 1
    depends_on: tuple[Dependency, ...] = ()
    needs: DependencyMode = DependencyMode.ALL
    on: DependencyOn = DependencyOn.SUCCESS
    reopened: int = 0
    batch_id: str = ""
    reason: Reason = Reason.NONE
    key: str = ""
    priority: int = 0
    label: str = ""
    labels: tuple[str, ...] = ()
    org: str = ""
    epoch: int = 0
    attempts: int = 0
    moves: int = 0
    losses: int = 0
    timeouts: int = 0
    trouble: Failure = Failure.NONE
    trouble_ms: int = 0
    troubles: int = 0
    refused_by: tuple[str, ...] = ()
    owner: str = ""
    token: str = ""
    permits: tuple[str, ...] = ()
    not_before_ms: int | None = None
    deadline_ms: int | None = None
    cancel_why: str | None = None
    session_cost_nusd: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    read_ms: int | None = None
    progress: Progress = field(default_factory=Progress)
    outcome: Outcome | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRef:
    """A child process so that nobody else can be mistaken for it.

    Attributes:
        started_ticks: Kernel start time in clock ticks since boot (field 22 of /proc/pid/stat), 0 if unknown.
    """

    pid: int
    pgid: int
    started_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a job, for the record."""

    job_id: str
    epoch: int
    token: str
    owner: str
    admitted_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None
    process: ProcessRef | None = None
    failure: Failure | None = None
    message: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An admitted job, handed to one owner: run it as `epoch` with `token`."""

    job: Job
    epoch: int
    token: str
