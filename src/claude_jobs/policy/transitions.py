"""Pure state machine of a job. The store applies what this allows, in the same transaction, and nothing else."""

from __future__ import annotations

from enum import StrEnum

from claude_jobs.domain.job import JobState, PublicState
from claude_jobs.errors import InvalidTransition


class Trigger(StrEnum):
    """What can happen to a job."""

    DEPENDENCIES_MET = "dependencies_met"
    DEPENDENCY_FAILED = "dependency_failed"
    PROMOTE = "promote"
    ADMIT = "admit"
    BEGIN = "begin"
    BLOCK = "block"
    UNBLOCK = "unblock"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY_NOW = "retry_now"
    RETRY_LATER = "retry_later"
    LOSE_OWNER = "lose_owner"
    CANCEL = "cancel"
    EXPIRE = "expire"
    HOLD = "hold"
    REOPEN = "reopen"
    REOPEN_WAITING = "reopen_waiting"


_S, _T = JobState, Trigger

TRANSITIONS: dict[tuple[JobState, Trigger], JobState] = {
    (_S.WAITING, _T.DEPENDENCIES_MET): _S.READY,
    (_S.READY, _T.HOLD): _S.DELAYED,
    (_S.WAITING, _T.DEPENDENCY_FAILED): _S.FAILED,
    (_S.DELAYED, _T.PROMOTE): _S.READY,
    (_S.READY, _T.ADMIT): _S.ADMITTED,
    (_S.ADMITTED, _T.BEGIN): _S.RUNNING,
    (_S.RUNNING, _T.BLOCK): _S.BLOCKED,
    (_S.BLOCKED, _T.UNBLOCK): _S.RUNNING,
    (_S.RUNNING, _T.SUCCEED): _S.SUCCEEDED,
    (_S.BLOCKED, _T.SUCCEED): _S.SUCCEEDED,  # its wait went on in a background shell
    **{(state, _T.FAIL): _S.FAILED for state in (_S.ADMITTED, _S.RUNNING, _S.BLOCKED)},
    **{(state, _T.RETRY_NOW): _S.READY for state in (_S.ADMITTED, _S.RUNNING, _S.BLOCKED)},
    **{(state, _T.RETRY_LATER): _S.DELAYED for state in (_S.ADMITTED, _S.RUNNING, _S.BLOCKED)},
    **{(state, _T.LOSE_OWNER): _S.READY for state in (_S.ADMITTED, _S.RUNNING, _S.BLOCKED)},
    **{
        (state, trigger): target
        for state in (_S.WAITING, _S.READY, _S.DELAYED, _S.ADMITTED, _S.RUNNING, _S.BLOCKED)
        for trigger, target in ((_T.CANCEL, _S.CANCELLED), (_T.EXPIRE, _S.EXPIRED))
    },
    **{
        (state, trigger): target
        for state in (_S.FAILED, _S.CANCELLED, _S.EXPIRED)
        for trigger, target in ((_T.REOPEN, _S.READY), (_T.REOPEN_WAITING, _S.WAITING))
    },
}


def advance(state: JobState, trigger: Trigger) -> JobState:
    """The state after `trigger`.

    Raises:
        InvalidTransition: The pair is not in the table. Only a retry by hand leads out of a failed, cancelled or expired
            job, and nothing out of a succeeded one.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise InvalidTransition(state.value, trigger.value) from None


_PUBLIC = {
    JobState.WAITING: PublicState.QUEUED,
    JobState.READY: PublicState.QUEUED,
    JobState.DELAYED: PublicState.QUEUED,
    JobState.ADMITTED: PublicState.QUEUED,
}


def public(state: JobState) -> PublicState:
    """The word for callers."""
    return _PUBLIC.get(state) or PublicState(state.value)
