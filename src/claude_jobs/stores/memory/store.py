"""The store as a model: dictionaries and plain scans. The executable specification of JobStore, not a product.

Everything is decided by looking at all jobs again, so there is no index or counter that could be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from claude_jobs.domain.event import DROPPABLE, Event, EventKind, NewEvent
from claude_jobs.domain.job import OWNED, QUEUED, Attempt, Job, JobState, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import TokenKind, TokenNote, TokenState
from claude_jobs.policy import eta
from claude_jobs.policy import tokens as token_rules
from claude_jobs.policy.eta import Place
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import public
from claude_jobs.stores import lifecycle, reopening
from claude_jobs.stores.base import (
    MAX_EVENTS_PER_JOB,
    Admission,
    AdmitRequest,
    AuditReport,
    Beat,
    CancelAck,
    Counts,
    JobFilter,
    Limits,
    Page,
    Receipt,
    SubmitRequest,
)
from claude_jobs.stores.memory import queue
from claude_jobs.stores.memory.world import Batch, World


class MemoryStore:
    """JobStore in one process's memory."""

    def __init__(self) -> None:
        self._world = World()

    def submit(self, request: SubmitRequest) -> tuple[Receipt, ...]:
        """See JobStore."""
        return queue.submit(self._world, request)

    def set_batch(self, batch_id: str, *, max_parallel: int | None, fail_fast: bool) -> None:
        """See JobStore."""
        if batch_id and any(job.batch_id == batch_id for job in self._world.jobs.values()):
            self._world.batches[batch_id] = Batch(max_parallel, fail_fast)

    def admit(self, request: AdmitRequest) -> Admission:
        """See JobStore."""
        return queue.admit(self._world, request)

    def peek(self, request: AdmitRequest, limit: int) -> tuple[Job, ...]:
        """See JobStore."""
        return queue.peek(self._world, request, limit)

    def begin(
        self, job_id: str, epoch: int, process: ProcessRef | None, now_ms: int, *, session_id: str | None = None
    ) -> bool:
        """See JobStore."""
        job = self._world.held(job_id, epoch)
        if job is None:
            return False
        if job.state is JobState.ADMITTED and job.cancel_why is not None:
            self._world.settle(job, *lifecycle.cancel_disposition(job.cancel_why), now_ms)
            self._world.follow(now_ms)
            return False
        attempts = self._world.attempts[job_id]
        attempts[-1] = lifecycle.started(attempts[-1], process, now_ms)
        placed = lifecycle.in_session(job, session_id) if session_id else job
        if job.state is JobState.ADMITTED:
            self._world.put(lifecycle.begun(placed, now_ms), now_ms, lifecycle.started_event(process))
        elif placed is not job:
            self._world.put(placed, now_ms)
        return True

    def block(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """See JobStore."""
        job = self._world.held(job_id, epoch)
        if job is None or job.state is not JobState.RUNNING:
            return False
        self._world.put(lifecycle.blocked(job), now_ms, lifecycle.blocked_event())
        return True

    def unblock(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """See JobStore."""
        job = self._world.held(job_id, epoch)
        if job is None or job.state is not JobState.BLOCKED:
            return False
        self._world.put(lifecycle.unblocked(job), now_ms, lifecycle.unblocked_event())
        return True

    def reopen(self, job_ids: Sequence[str], now_ms: int, *, tree: bool = False, asker: str = "") -> tuple[Job, ...]:
        """See JobStore."""
        world = self._world
        named = [world.get(job_id).id for job_id in job_ids]
        ask = reopening.Ask(job_ids=named, tree=tree, asker=asker, now_ms=now_ms)
        again = reopening.reopen(queue.Register(world), ask, world.jobs, world.states())
        for job, event in again:
            world.put(job, now_ms, event)
        return tuple(job for job, _ in again)

    def beat(self, owner: str, held: Sequence[tuple[str, int]], now_ms: int) -> Beat:
        """See JobStore."""
        mine = [job for job in self._world.with_state(*OWNED) if job.owner == owner]
        alive = {(job.id, job.epoch) for job in mine}
        return Beat(
            cancel=tuple((job.id, job.cancel_why) for job in mine if job.cancel_why is not None),
            lost=tuple(pair for pair in held if pair not in alive),
        )

    def move(
        self, job_id: str, epoch: int, note: TokenNote, held: frozenset[str], limits: Limits, now_ms: int
    ) -> str | None:
        """See JobStore."""
        attempt = next((one for one in self._world.attempts.get(job_id, []) if one.epoch == epoch), None)
        if attempt is None:
            return None
        self.note_token(attempt.token, note, now_ms)
        job = self._world.held(job_id, epoch)
        if job is None or not lifecycle.may_move(job):
            return None
        limited = lifecycle.limited_event(job.token, note)
        kind = self._world.tokens[job.token].kind
        offered = token_rules.states_of(job.offers, self._world.token_states(), held)
        others = [state for state in offered if state.kind is kind and state.fingerprint != job.token]
        token = token_rules.choose(
            others, model=job.spec.model, concurrency=limits.per_token, now_ms=now_ms, avoid=job.refused_by
        )
        if token is None:
            return None
        self._world.use(token.fingerprint)
        self._world.attempts[job_id][-1] = replace(self._world.attempts[job_id][-1], token=token.fingerprint)
        swapped = lifecycle.moved(job, token.fingerprint)
        self._world.put(swapped, now_ms, *limited, lifecycle.moved_event(job.token, swapped))
        return token.fingerprint

    def finish(
        self, job_id: str, epoch: int, outcome: Outcome, disposition: Disposition, note: TokenNote | None, now_ms: int
    ) -> bool:
        """See JobStore."""
        job = self._world.held(job_id, epoch)
        if job is None:
            return False
        limited = lifecycle.limited_event(job.token, note) if note else ()
        self._world.settle(job, outcome, disposition, now_ms, *limited)
        run = lifecycle.run_of(job, outcome, now_ms)
        if run:
            self._world.runs.append(run)
        self._world.follow(now_ms)
        if note:
            self.note_token(job.token, note, now_ms)
        if outcome.usage and job.token in self._world.tokens:
            state = self._world.tokens[job.token]
            self._world.tokens[job.token] = replace(state, cost_nusd=state.cost_nusd + outcome.usage.cost_nusd)
        return True

    def cancel(self, job_ids: Sequence[str], why: str, now_ms: int) -> tuple[CancelAck, ...]:
        """See JobStore."""
        world = self._world
        named = {world.get(job_id).id for job_id in job_ids}
        tree = world.cancel_tree(named, why, now_ms)
        world.follow(now_ms)
        return tuple(
            CancelAck(job_id=job.id, was=public(job.state), is_done=job.is_terminal or job.state in QUEUED)
            for job in tree
            if job.id in named or not job.is_terminal
        )

    def append(
        self, job_id: str, epoch: int, events: Sequence[NewEvent], progress: Progress | None, now_ms: int
    ) -> bool:
        """See JobStore."""
        job = self._world.held(job_id, epoch)
        if job is None or job.state is JobState.ADMITTED:
            return False
        room = MAX_EVENTS_PER_JOB - len(self._log(job_id))
        kept = [event for place, event in enumerate(events) if place < room or event.kind not in DROPPABLE]
        self._world.put(replace(job, progress=progress or job.progress), now_ms, *kept)
        return True

    def _log(self, job_id: str) -> list[Event]:
        """What happened to a job since it was last reopened."""
        events = [event for event in self._world.events if event.job_id == job_id]
        starts = [place for place, event in enumerate(events) if event.kind is EventKind.REOPENED]
        return events[starts[-1] :] if starts else events

    def read(self, after: int, job_id: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """See JobStore."""
        return tuple(e for e in self._world.events if e.seq > after and job_id in (None, e.job_id))[:limit]

    def version(self) -> int:
        """See JobStore."""
        return self._world.version

    def get(self, job_id: str) -> Job:
        """See JobStore."""
        return self._world.get(job_id)

    def find_key(self, submitter: str, key: str) -> Job | None:
        """See JobStore."""
        return queue.Register(self._world).find_key(submitter, key)

    def list(self, query: JobFilter) -> Page:
        """See JobStore."""
        found = [job for job in reversed(self._world.jobs.values()) if _matches(job, query)]
        if query.unread_first:
            found.sort(key=lambda job: not (job.is_terminal and job.read_ms is None))
        start = next((place + 1 for place, job in enumerate(found) if job.id == query.cursor), 0)
        rest = found[start:]
        page = rest[: query.limit]
        cursor = page[-1].id if len(rest) > len(page) > 0 else ""
        return Page(jobs=tuple(map(lifecycle.listed, page)), cursor=cursor, total=len(found))

    def counts(self) -> Counts:
        """See JobStore."""
        unread = sum(job.is_terminal and job.read_ms is None for job in self._world.jobs.values())
        return Counts(by_state=dict(Counter(public(job.state) for job in self._world.jobs.values())), unread=unread)

    def places(self, job_ids: Sequence[str]) -> dict[str, Place]:
        """See JobStore."""
        world = self._world
        ready = sorted(world.with_state(JobState.READY), key=lambda job: job.rank)
        caps = {
            batch_id: eta.Cap(max_parallel=rules.max_parallel, room=rules.max_parallel - world.running(f"b:{batch_id}"))
            for batch_id, rules in world.batches.items()
            if rules.max_parallel is not None
        }
        found = dict(eta.places([(job.id, job.batch_id) for job in ready], caps, job_ids))
        return {job_id: found.get(job_id, Place()) for job_id in job_ids if job_id in world.jobs}

    def run_times(self, kind: str, limit: int = 50) -> tuple[int, ...]:
        """See JobStore."""
        fitting = [run.ran_ms for run in reversed(self._world.runs) if run.kind == kind and not run.failure]
        return tuple(fitting[:limit])

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """See JobStore."""
        return tuple(self._world.attempts.get(job_id, ()))

    def mark_read(self, job_ids: Sequence[str], now_ms: int) -> None:
        """See JobStore."""
        for job_id in job_ids:
            job = self._world.jobs.get(job_id)
            if job and job.is_terminal and job.read_ms is None:
                self._world.put(replace(job, read_ms=now_ms), now_ms)

    def owners(self) -> tuple[str, ...]:
        """See JobStore."""
        return tuple(sorted({job.owner for job in self._world.with_state(*OWNED)}))

    def owned(self, owner: str) -> tuple[Attempt, ...]:
        """See JobStore."""
        return tuple(self._world.attempts[job.id][-1] for job in self._world.with_state(*OWNED) if job.owner == owner)

    def register_tokens(self, tokens: Sequence[tuple[str, str, TokenKind]], now_ms: int) -> None:
        """See JobStore."""
        for fingerprint, name, kind in tokens:
            known = self._world.tokens.get(fingerprint) or TokenState(fingerprint=fingerprint, name=name, kind=kind)
            self._world.tokens[fingerprint] = replace(known, name=name, seen_ms=now_ms)

    def note_token(self, fingerprint: str, note: TokenNote, now_ms: int) -> None:
        """See JobStore."""
        if fingerprint in self._world.tokens:
            self._world.tokens[fingerprint] = token_rules.apply(self._world.tokens[fingerprint], note, now_ms)

    def tokens(self) -> tuple[TokenState, ...]:
        """See JobStore."""
        return tuple(sorted(self._world.token_states().values(), key=lambda token: (token.name, token.fingerprint)))

    def prune(self, before_ms: int, limit: int = 200) -> int:
        """See JobStore."""
        world = self._world
        old = [job for job in world.jobs.values() if job.finished_ms is not None and job.finished_ms < before_ms]
        gone = sorted((job for job in old if not self._is_needed(job)), key=lambda job: job.finished_ms or 0)[:limit]
        for job in gone:
            del world.jobs[job.id], world.attempts[job.id]
        world.events = [event for event in world.events if event.job_id in world.jobs]
        roots = {job.root_id for job in world.jobs.values()}
        world.totals = {root_id: total for root_id, total in world.totals.items() if root_id in roots}
        offered = {fingerprint for job in world.unfinished() for fingerprint in job.offers}
        world.tokens = {
            fp: state
            for fp, state in world.tokens.items()
            if fp in offered or not token_rules.is_forgotten(state, before_ms)
        }
        return len(gone)

    def _is_needed(self, job: Job) -> bool:
        return any(
            other.root_id == job.root_id
            or job.id in {one.job_id for one in other.depends_on}
            or job.session_id in (other.session_id, other.spec.resume_session)
            for other in self._world.unfinished()
        )

    def audit(self, now_ms: int) -> AuditReport:
        """See JobStore."""
        return AuditReport(drift={})

    def close(self) -> None:
        """See JobStore."""


def _matches(job: Job, query: JobFilter) -> bool:
    return (
        (not query.ids or job.id in query.ids)
        and (not query.states or public(job.state) in query.states)
        and (not query.batch_id or job.batch_id == query.batch_id)
        and (not query.root_id or job.root_id == query.root_id)
        and (not query.parent_id or job.parent_id == query.parent_id)
        and (not query.label or query.label in (job.label, *job.labels))
    )
