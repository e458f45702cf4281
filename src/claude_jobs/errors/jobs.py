"""Errors of jobs, their admission, their processes, the stores and the worker."""

from __future__ import annotations


class ClaudeJobsError(Exception):
    """Base of all errors raised on purpose. `call_id` names the call for `explain`, where one was begun."""

    code = "error"
    retryable = False
    call_id = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class AdmissionError(ClaudeJobsError):
    """The job was not accepted; nothing was stored."""

    code = "refused"


class InvalidRequest(AdmissionError):
    """A field of the request is not usable as it stands."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class QueueFull(AdmissionError):
    """The queue holds as many unfinished jobs as `CLAUDE_QUEUE_SIZE` allows."""

    code = "queue_full"
    retryable = True

    def __init__(self, *, limit: int, queued: int, asked: int) -> None:
        super().__init__(
            f"Queue full: {queued} jobs are queued, {asked} more would exceed the limit of {limit}. "
            "Wait for jobs to finish, cancel some, or raise CLAUDE_QUEUE_SIZE."
        )
        self.limit = limit
        self.queued = queued
        self.asked = asked


class KeyConflict(AdmissionError):
    """The idempotency key was used before, for something else."""

    code = "key_conflict"

    def __init__(self, *, key: str, job_id: str) -> None:
        super().__init__(
            f"Key {key!r} already belongs to job {job_id!r}, which asked for something else. "
            "Use a new key, or read that job with `result`."
        )
        self.job_id = job_id


class NoTokenAvailable(AdmissionError):
    """No credential was offered that could run the job."""

    code = "no_credential"


class LoginUnknown(NoTokenAvailable):
    """No token was offered, and whether the CLI is logged in could not be found out. Unknown is not no: nothing else pays."""

    code = "login_unknown"
    retryable = True


class NotPermitted(AdmissionError):
    """The operator's settings do not allow what was asked for."""

    code = "not_permitted"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class RecursionRefused(AdmissionError):
    """A job may not spawn this job: a limit of its tree is reached, or it would repeat an ancestor.

    Attributes:
        limit: Which rule: "nest", "depth", "total", "rate", "cycle", "budget" or "retries".
        value: The limit's value.
        chain: Ids from the root to the job that asked.
        retry_after_s: When asking again can help; None if it cannot.
    """

    code = "recursion_refused"

    def __init__(
        self, message: str, *, limit: str, value: float, chain: tuple[str, ...], retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value
        self.chain = chain
        self.retry_after_s = retry_after_s
        self.retryable = retry_after_s is not None


class QuotaExceeded(AdmissionError):
    """A quota of this organization, key or model is used up for its window. Nothing was consumed by asking.

    Attributes:
        counter: Which quota, speakable ("org acme, tokens per 3600 s").
        limit, used, asked: In its unit; `used` counts what is reserved now, too.
        resets_ms: When its window ends, epoch milliseconds.
    """

    code = "quota_exceeded"

    def __init__(
        self, message: str, *, counter: str, limit: int, used: int, asked: int, resets_ms: int, retry_after_s: float
    ) -> None:
        super().__init__(message)
        self.counter = counter
        self.limit = limit
        self.used = used
        self.asked = asked
        self.resets_ms = resets_ms
        self.retry_after_s = retry_after_s
        self.retryable = asked <= limit


class RateExceeded(AdmissionError):
    """More requests or tokens per minute than a rate allows; `retry_after_s` says when this one fits."""

    code = "rate_exceeded"
    retryable = True

    def __init__(self, message: str, *, counter: str, limit: int, retry_after_s: float) -> None:
        super().__init__(message)
        self.counter = counter
        self.limit = limit
        self.retry_after_s = retry_after_s


class NoRoute(AdmissionError):
    """No provider, model and key can take the request. `tried` says of each why not."""

    code = "no_route"

    def __init__(
        self, message: str, *, tried: tuple[str, ...] = (), retryable: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.tried = tried
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class JobError(ClaudeJobsError):
    """Something about one job."""

    code = "job_error"


class JobNotFound(JobError):
    """No job has that id (it may have been cleaned up)."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"No job {job_id!r}. List the jobs with `status` to see their ids.")
        self.job_id = job_id


class InvalidTransition(JobError):
    """A state change that the state machine does not know."""

    code = "invalid_transition"

    def __init__(self, state: str, trigger: str) -> None:
        super().__init__(f"A job that is {state!r} cannot {trigger!r}.")
        self.state = state
        self.trigger = trigger


class RunnerError(ClaudeJobsError):
    """The claude process could not be started."""

    code = "runner_error"


class ClaudeNotFound(RunnerError):
    """There is no `claude` to run."""

    code = "claude_not_found"

    def __init__(self, looked: str = "PATH") -> None:
        super().__init__(
            f"No claude executable found ({looked}). Install Claude Code, or `pip install 'claude-jobs[cli]'`, "
            "or set CLAUDE_JOBS_CLI to its absolute path."
        )


class SpawnFailed(RunnerError):
    """The operating system refused to start the process; `retryable` says whether it may do so a little later."""

    code = "spawn_failed"

    def __init__(self, message: str, *, path: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.path = path
        self.retryable = retryable


class StoreError(ClaudeJobsError):
    """The store could not do its work; nothing half-done remains."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The state directory or its disk does not let us write (permissions, full disk, locked)."""

    code = "store_unavailable"
    retryable = True

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StoreCorrupt(StoreError):
    """The database file is not a database we can read."""

    code = "store_corrupt"

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StoreTooNew(StoreError):
    """The database was written by a newer claude-jobs."""

    code = "store_too_new"

    def __init__(self, *, path: str, found: int, supported: int) -> None:
        super().__init__(
            f"The state in {path!r} has schema {found}; this claude-jobs reads up to {supported}. "
            "Upgrade claude-jobs, or set CLAUDE_JOBS_HOME to another directory."
        )
        self.path = path
        self.found = found
        self.supported = supported


class WorkerError(ClaudeJobsError):
    """The resident worker could not be reached."""

    code = "worker_error"
    retryable = True


class WorkerUnavailable(WorkerError):
    """No worker answers and none could be started."""

    code = "worker_unavailable"


class WorkerLost(WorkerError):
    """The worker went away during a request; the request may or may not have taken effect."""

    code = "worker_lost"
