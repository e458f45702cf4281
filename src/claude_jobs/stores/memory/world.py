"""What the model remembers, and what ends do to others. Everything is found by looking at all jobs again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from claude_jobs.domain.event import Event, NewEvent
from claude_jobs.domain.job import OWNED, QUEUED, Attempt, Job, JobState, Outcome
from claude_jobs.domain.token import TokenState
from claude_jobs.errors import JobNotFound
from claude_jobs.policy.dependencies import Verdict
from claude_jobs.policy.retry import Disposition
from claude_jobs.stores import graph, lifecycle
from claude_jobs.stores.lifecycle import Run


@dataclass(frozen=True, slots=True)
class Batch:
    """The rules of one batch."""

    max_parallel: int | None
    fail_fast: bool


@dataclass
class World:
    """Jobs are in the order of submission."""

    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    attempts: dict[str, list[Attempt]] = field(default_factory=dict[str, list[Attempt]])
    events: list[Event] = field(default_factory=list[Event])
    tokens: dict[str, TokenState] = field(default_factory=dict[str, TokenState])
    batches: dict[str, Batch] = field(default_factory=dict[str, Batch])
    totals: dict[str, int] = field(default_factory=dict[str, int])
    """Jobs ever made in a tree."""
    runs: list[Run] = field(default_factory=list[Run])
    version: int = 0
    seq: int = 0
    ended: deque[str] = field(default_factory=deque[str])

    def get(self, job_id: str) -> Job:
        """The job. Raises JobNotFound."""
        if job_id not in self.jobs:
            raise JobNotFound(job_id)
        return self.jobs[job_id]

    def held(self, job_id: str, epoch: int) -> Job | None:
        """The job if an owner holds it in this epoch."""
        job = self.jobs.get(job_id)
        return job if job and lifecycle.is_held(job, epoch) else None

    def put(self, job: Job, now_ms: int, *events: NewEvent) -> None:
        """The job as it is now, and what happened to it."""
        before = self.jobs.get(job.id)
        self.jobs[job.id] = job
        self.version += 1
        for event in events:
            self.seq += 1
            self.events.append(
                Event(seq=self.seq, job_id=job.id, epoch=job.epoch, at_ms=now_ms, kind=event.kind, data=event.data)
            )
        if before and job.is_terminal and not before.is_terminal:
            self.ended.append(job.id)

    def settle(self, job: Job, outcome: Outcome, disposition: Disposition, now_ms: int, *before: NewEvent) -> None:
        """End what the job is doing. Then call `follow`."""
        ended, events = lifecycle.settled(job, outcome, disposition, now_ms)
        if job.state in OWNED:
            attempts = self.attempts[job.id]
            attempts[-1] = lifecycle.closed(attempts[-1], outcome, disposition, now_ms)
        self.put(ended, now_ms, *before, *events)

    def follow(self, now_ms: int) -> None:
        """Tell the dependents of every ended job; when that is done, stop the batch of the first failed one; again."""
        failures: deque[Job] = deque()
        while self.ended or failures:
            if not self.ended:
                self._stop_batch(failures.popleft(), now_ms)
                continue
            job = self.jobs[self.ended.popleft()]
            for waiting in self.with_state(JobState.WAITING):
                if any(one.job_id == job.id for one in waiting.depends_on):
                    self._weigh(waiting, now_ms)
            batch = self.batches.get(job.batch_id)
            if job.state in graph.BREAKS_BATCH and batch and batch.fail_fast:
                failures.append(job)

    def _weigh(self, job: Job, now_ms: int) -> None:
        states = self.states()
        match graph.weighed(job, states):
            case Verdict.MET:
                self.put(graph.met(job, now_ms), now_ms)
            case Verdict.FAILED:
                self.settle(job, *graph.unmet_disposition(job, states), now_ms)
            case Verdict.PENDING:
                pass

    def _stop_batch(self, failed: Job, now_ms: int) -> None:
        rest = [job.id for job in self.jobs.values() if job.batch_id == failed.batch_id and not job.is_terminal]
        self.cancel_tree(rest, graph.stop_why(failed), now_ms)

    def cancel_tree(self, job_ids: Iterable[str], why: str, now_ms: int) -> list[Job]:
        """Cancel jobs and all their descendants; gives them as they were before. Then call `follow`."""
        tree = self.tree(job_ids)
        for job in tree:
            if job.state in QUEUED:
                self.settle(replace(job, cancel_why=why), *lifecycle.cancel_disposition(why), now_ms)
            elif not job.is_terminal and job.cancel_why is None:
                self.put(replace(job, cancel_why=why), now_ms, lifecycle.cancel_event(why))
        return tree

    def tree(self, job_ids: Iterable[str]) -> list[Job]:
        """Jobs and all their descendants."""
        inside = set(job_ids)
        for job in self.jobs.values():
            if job.parent_id in inside:
                inside.add(job.id)
        return [job for job in self.jobs.values() if job.id in inside]

    def states(self) -> dict[str, JobState]:
        """Where every job stands."""
        return {job.id: job.state for job in self.jobs.values()}

    def with_state(self, *states: JobState) -> list[Job]:
        """Jobs in one of these states."""
        return [job for job in self.jobs.values() if job.state in states]

    def unfinished(self) -> Iterator[Job]:
        """Jobs that have not ended."""
        return (job for job in self.jobs.values() if not job.is_terminal)

    def running(self, key: str) -> int:
        """Jobs that hold a permit."""
        return sum(key in job.permits for job in self.jobs.values())

    def token_states(self) -> dict[str, TokenState]:
        """All tokens, their running jobs counted."""
        return {fp: replace(state, running=self.running(f"t:{fp}")) for fp, state in self.tokens.items()}

    def use(self, fingerprint: str) -> None:
        """One more job has got this token."""
        state = self.tokens[fingerprint]
        latest = max(token.last_used for token in self.tokens.values())
        self.tokens[fingerprint] = replace(state, last_used=latest + 1, jobs=state.jobs + 1)
