"""What becomes of a request to run ended jobs again: who may ask, what comes back, by when, for how much money.

Nothing is stored here. Every store asks the same questions (`Register`) inside its transaction and stores what comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from claude_jobs.domain.event import NewEvent
from claude_jobs.domain.job import Job, JobState
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import recursion
from claude_jobs.stores import graph
from claude_jobs.stores.acceptance import check_session

Reopened = tuple[Job, NewEvent]


class Register(Protocol):
    """What a store knows about jobs beside those that are asked for."""

    def find(self, job_id: str) -> Job | None:
        """The job; None if it was cleaned up."""
        ...

    def below(self, job: Job) -> Sequence[Job]:
        """All its descendants."""
        ...

    def session_user(self, session_id: str) -> str | None:
        """The unfinished job that runs, or will run, in a session."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """See JobStore.reopen."""

    job_ids: Sequence[str]
    tree: bool
    asker: str
    now_ms: int


def reopen(register: Register, ask: Ask, jobs: Mapping[str, Job], states: graph.States) -> tuple[Reopened, ...]:
    """The reopened jobs, in submit order, and the events that tell of it. Raises what JobStore.reopen raises.

    Args:
        jobs: See graph.to_reopen; `states` likewise.
    """
    return _Reopening(register, ask, jobs, states).decide()


class _Reopening:
    """One request; what it reopens counts for the rest of it."""

    def __init__(self, register: Register, ask: Ask, jobs: Mapping[str, Job], states: graph.States) -> None:
        self._register = register
        self._ask = ask
        self._jobs = jobs
        self._states = states
        self._found: dict[str, Job | None] = {}
        self._below: dict[str, Sequence[Job]] = {}
        self._again: dict[str, Job] = {}
        self._sessions: dict[str, str] = {}

    def decide(self) -> tuple[Reopened, ...]:
        asker = self._ask.asker
        for job_id in self._ask.job_ids if asker else ():
            recursion.check_steers(asker, job_id, self._above(self._jobs[job_id]))
        near = {job_id: job for job_id, job in self._jobs.items() if self._is_steered(job)}
        chosen = graph.to_reopen(
            self._ask.job_ids, near, self._states, tree=self._ask.tree, may_follow=lambda job: self._stop(job) is None
        )
        after = dict(self._states) | dict.fromkeys(chosen, JobState.WAITING)
        return tuple(self._reopened(self._jobs[job_id], after) for job_id in chosen)

    def _is_steered(self, job: Job) -> bool:
        """What strangers have waiting for the same dependency is not the asking job's to run."""
        return not self._ask.asker or any(above.id == self._ask.asker for above in self._above(job))

    def _above(self, job: Job) -> tuple[Job, ...]:
        """Its ancestors, root first, as this request has left them so far. Those that were cleaned up are missing."""
        links: list[Job] = []
        parent_id = job.parent_id
        while parent_id is not None and (parent := self._find(parent_id)) is not None:
            links.append(parent)
            parent_id = parent.parent_id
        return tuple(reversed(links))

    def _find(self, job_id: str) -> Job | None:
        if job_id not in self._found:
            self._found[job_id] = self._register.find(job_id)
        return self._again.get(job_id) or self._found[job_id]

    def _stop(self, job: Job) -> Job | None:
        """The ancestor below which nothing may run again; None if all is well.

        A user may bring back what an ended job spawned; a job could go on for ever that way, and spend what its ended
        child gave back.
        """
        return next(
            (above for above in self._above(job) if _is_cancelled(above) or (self._ask.asker and above.is_terminal)),
            None,
        )

    def _reopened(self, job: Job, after: graph.States) -> Reopened:
        above = self._above(job)
        stop = self._stop(job)
        if stop is not None:
            raise InvalidRequest(_why_stopped(job, stop), field="job_ids")
        if self._ask.asker:
            recursion.check_retries(above, job)
        self._check_budget(job, above)
        now_ms = self._ask.now_ms
        again, event = graph.reopened(job, after, now_ms, deadline_ms=_deadline_ms(job, above, now_ms))
        user = self._sessions.get(again.session_id) or self._register.session_user(again.session_id)
        check_session(again.session_id, user, field="job_ids")
        self._sessions[again.session_id] = job.id
        self._again[job.id] = again
        return again, event

    def _check_budget(self, job: Job, above: Sequence[Job]) -> None:
        """An ended job gives nothing away any more, so it is the nearest one under way whose money is meant."""
        payer = next((one for one in reversed(above) if not one.is_terminal), None)
        if payer is None or payer.spec.max_cost_usd is None:
            return
        if payer.id not in self._below:
            self._below[payer.id] = self._register.below(payer)
        others: list[Job] = []
        own = {job.id}
        for one in sorted(self._below[payer.id], key=lambda one: one.depth):
            if one.id in own or one.parent_id in own:
                own.add(one.id)
            else:
                others.append(self._again.get(one.id, one))
        recursion.check_affords(payer, others, job)


def _is_cancelled(job: Job) -> bool:
    """Whether a cancel has ended it, or is about to. One that succeeded before it was stopped counts as not cancelled."""
    return job.state is JobState.CANCELLED or (job.cancel_why is not None and job.state is not JobState.SUCCEEDED)


def _why_stopped(job: Job, above: Job) -> str:
    if not above.is_terminal:
        word, way_out = "is being cancelled", f"Once it has ended, retry {above.id} instead: it spawns what it needs."
    elif above.state is JobState.SUCCEEDED:
        word, way_out = "has succeeded and would not hear of it", "Spawn the work anew."
    else:
        word = "was cancelled" if _is_cancelled(above) else f"is {above.state.value}"
        way_out = f"Retry {above.id} instead: it spawns what it needs. Or spawn the work anew."
    return f"Job {job.id!r} cannot run again below {above.id!r}, which {word}. {way_out}"


def _deadline_ms(job: Job, above: Sequence[Job], now_ms: int) -> int | None:
    """The earliest of its own and those above it. One that is over binds only below a job that is still to end by it."""
    bound = [one.deadline_ms for one in above if not one.is_terminal]
    ended = [one.deadline_ms for one in (job, *above) if one.is_terminal]
    ahead = [at_ms for at_ms in ended if at_ms is not None and at_ms > now_ms]
    return min([*ahead, *(at_ms for at_ms in bound if at_ms is not None)], default=None)
