"""Exit codes: which end of which command is which number."""

from __future__ import annotations

from collections.abc import Iterable

from claude_jobs.errors import AdmissionError, ClaudeJobsError, InvalidRequest, JobNotFound, StoreError, WorkerError

OK = 0
FAILED = 1
USAGE = 2
REFUSED = 3
UNAVAILABLE = 4
CANCELLED = 5
UNFINISHED = 6
INTERRUPTED = 130

_OF_STATE = {"succeeded": OK, "failed": FAILED, "cancelled": CANCELLED, "expired": CANCELLED}


def of_error(error: ClaudeJobsError) -> int:
    """The code for an error that ends the command."""
    if isinstance(error, (InvalidRequest, JobNotFound)):
        return USAGE
    if isinstance(error, AdmissionError):
        return REFUSED
    if isinstance(error, (WorkerError, StoreError)):
        return UNAVAILABLE
    return FAILED


def of_states(states: Iterable[str]) -> int:
    """The code for jobs in these public states: the worst of them counts."""
    codes = {_OF_STATE.get(state, UNFINISHED) for state in states}
    return next((code for code in (FAILED, CANCELLED, UNFINISHED) if code in codes), OK)
