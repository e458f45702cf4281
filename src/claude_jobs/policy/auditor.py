"""Proof from the event log: replays what happened to every job and says where an invariant was broken. Pure.

It knows nothing of how a store works: only the order of events, the limits, and the rows that are there in the end.
One pass, O(events + jobs + dependencies), so that hundreds of thousands of events are no matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from claude_jobs.domain.event import Event, EventKind
from claude_jobs.domain.job import OWNED, QUEUED, TERMINAL, DependencyOn, Job, JobState
from claude_jobs.policy.dependencies import Verdict, verdict
from claude_jobs.policy.recursion import RATE_WINDOW_MS, RecursionLimits
from claude_jobs.policy.violations import Rule, Violation

OVERDUE_MS = 60_000
"""A queued job may outlive its deadline for so long: somebody has to look at it first."""

_ENDS_OF_ATTEMPTS = frozenset({EventKind.FINISHED, EventKind.RETRY})


class Caps(Protocol):
    """Limits of the admissions (stores.base.Limits). None is no cap; 0 means 0."""

    @property
    def running(self) -> int | None: ...
    @property
    def per_token(self) -> int: ...
    @property
    def at_depth(self) -> int | None: ...
    @property
    def depth(self) -> int | None: ...
    @property
    def total(self) -> int | None: ...


def audit(
    events: Iterable[Event],
    jobs: Iterable[Job],
    *,
    limits: Caps,
    slots: int | None,
    now_ms: int,
    batches: Mapping[str, int | None] | None = None,
    recursion: RecursionLimits | None = None,
) -> tuple[Violation, ...]:
    """Every breach of a rule, in the order of events, then of rows.

    The limits must be the ones that held from the first event to the last. A job that wakes (`unblocked`) takes its
    places whether they are free or not: that, and nothing else, may carry a count past its cap. So a cap may be exceeded
    by at most as many as hold it now and woke in their attempt, and until it is below again nobody is admitted.

    Args:
        events: The whole log; droppable ones and those of pruned jobs may be missing.
        jobs: All rows, as they are after the last event.
        slots: Jobs that one owner runs at once, waiting ones aside.
        now_ms: When the rows were read; a worker must have looked at the queue shortly before.
        batches: max_parallel by batch id.
        recursion: What nested submissions were held against.
    """
    replay = _Replay({job.id: job for job in jobs}, limits, slots, batches or {}, recursion)
    for event in events:
        replay.take(event)
    replay.check_rows(now_ms)
    return tuple(replay.violations)


@dataclass(slots=True)
class _Life:
    """One job as replayed.

    Attributes:
        state: READY stands for all three queued states, which the log does not tell apart.
        is_cancelled: It was, or is to be, ended by a cancel, and was not reopened since.
        permits: Limit keys that it holds.
        has_woken: It took them by waking.
    """

    root_id: str
    parent_id: str
    depth: int
    ordinal: int
    batch_id: str
    state: JobState = JobState.READY
    epoch: int = 0
    owner: str = ""
    token: str = ""
    has_ended: bool = False
    has_succeeded: bool = False
    is_cancelled: bool = False
    has_woken: bool = False
    reopened: int = 0
    permits: tuple[str, ...] = ()


@dataclass(slots=True)
class _Replay:
    rows: Mapping[str, Job]
    limits: Caps
    slots: int | None
    batches: Mapping[str, int | None]
    recursion: RecursionLimits | None
    violations: list[Violation] = field(default_factory=list[Violation])
    lives: dict[str, _Life] = field(default_factory=dict[str, _Life])
    held: Counter[str] = field(default_factory=Counter[str])
    woken: Counter[str] = field(default_factory=Counter[str])
    ordinals: dict[str, int] = field(default_factory=dict[str, int])
    recent: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    seq: int = 0

    def take(self, event: Event) -> None:
        if event.seq <= self.seq:
            self._break(Rule.ORDER, event, f"seq {event.seq} comes after {self.seq}")
        self.seq = max(self.seq, event.seq)
        life = self.lives.get(event.job_id)
        if event.kind is EventKind.SUBMITTED:
            self._submitted(event, life)
        elif life is None:
            self._break(Rule.UNEXPLAINED, event, f"{event.kind.value} of a job that was never submitted")
        else:
            self._step(event, life)

    def _break(self, rule: Rule, event: Event, message: str) -> None:
        self.violations.append(Violation(rule=rule, job_id=event.job_id, seq=event.seq, message=message))

    def _submitted(self, event: Event, known: _Life | None) -> None:
        if known is not None:
            self._break(Rule.UNEXPLAINED, event, "submitted a second time")
            return
        life = _Life(
            root_id=_text(event, "root_id") or event.job_id,
            parent_id=_text(event, "parent_id"),
            depth=_number(event, "depth"),
            ordinal=_number(event, "ordinal") or 1,
            batch_id=_text(event, "batch_id"),
        )
        self.lives[event.job_id] = life
        if life.parent_id:
            self._check_lineage(event, life)
        elif (life.root_id, life.depth, life.ordinal) != (event.job_id, 0, 1):
            self._break(Rule.LINEAGE, event, "a root has itself as root, depth 0 and number 1")
        last = self.ordinals.get(life.root_id, 0)
        if life.ordinal <= last:
            self._break(Rule.LINEAGE, event, f"number {life.ordinal} in its tree comes after {last}")
        self.ordinals[life.root_id] = max(last, life.ordinal)
        if life.parent_id and self.recursion is not None:
            self._check_recursion(event, life, self.recursion)

    def _check_lineage(self, event: Event, life: _Life) -> None:
        parent_id = life.parent_id
        parent = self.lives.get(parent_id)
        if parent is None:
            return  # pruned: an ended parent may go before its children
        if (life.root_id, life.depth) != (parent.root_id, parent.depth + 1):
            below = f"{parent_id} at depth {parent.depth} of {parent.root_id}"
            self._break(Rule.LINEAGE, event, f"depth {life.depth} of {life.root_id}, but it is below {below}")
        if parent.state in TERMINAL or parent.is_cancelled:
            word = "cancelled" if parent.is_cancelled else "ended"
            self._break(Rule.CANCELLED, event, f"made below {parent_id}, which was {word} before")

    def _check_recursion(self, event: Event, life: _Life, limits: RecursionLimits) -> None:
        if life.depth > limits.depth:
            self._break(Rule.RECURSION, event, f"depth {life.depth} > {limits.depth}")
        if life.ordinal > limits.total:
            self._break(Rule.RECURSION, event, f"job {life.ordinal} of its tree > {limits.total}")
        recent = self.recent.setdefault(life.root_id, [])
        while recent and recent[0] <= event.at_ms - RATE_WINDOW_MS:
            heappop(recent)
        heappush(recent, event.at_ms)
        if len(recent) > limits.rate:
            window = f"within {RATE_WINDOW_MS // 1000} s"
            self._break(Rule.RECURSION, event, f"{len(recent)} spawns in its tree {window} > {limits.rate}")

    def _step(self, event: Event, life: _Life) -> None:
        if event.kind is EventKind.ADMITTED:
            self._admitted(event, life)
            return
        if event.epoch < life.epoch:
            self._break(Rule.STALE, event, f"{event.kind.value} of epoch {event.epoch} after admission {life.epoch}")
            return
        if event.epoch > life.epoch:
            self._break(Rule.EPOCH, event, f"{event.kind.value} of epoch {event.epoch}, which no admission began")
        token = event.data.get("token") if event.kind in _ENDS_OF_ATTEMPTS else None
        if token not in (None, life.token):
            self._break(Rule.UNEXPLAINED, event, f"{event.kind.value} on token {token}, but it had {life.token}")
        match event.kind:
            case EventKind.FINISHED:
                self._finished(event, life)
            case EventKind.REOPENED:
                self._reopened(event, life)
            case EventKind.CANCEL_REQUESTED:
                life.is_cancelled = True
            case EventKind.LIMITED:
                pass  # about a token; it may come with the end of the attempt that met it
            case _:
                self._did(event, life)

    def _admitted(self, event: Event, life: _Life) -> None:
        if event.epoch <= life.epoch:
            self._break(Rule.EPOCH, event, f"admitted as epoch {event.epoch} after {life.epoch}")
        if life.state is not JobState.READY:
            self._break(Rule.UNEXPLAINED, event, f"admitted while {life.state.value}")
        if life.is_cancelled:
            self._break(Rule.CANCELLED, event, "admitted after its cancel was asked for")
        self._check_above(event, life)
        self._check_needs(event)
        if self.limits.depth is not None and life.depth > self.limits.depth:
            self._break(Rule.RECURSION, event, f"admitted at depth {life.depth} > {self.limits.depth}")
        if self.limits.total is not None and life.ordinal > self.limits.total:
            self._break(Rule.RECURSION, event, f"admitted as job {life.ordinal} of its tree > {self.limits.total}")
        self._give_back(life)
        life.epoch = max(life.epoch, event.epoch)
        life.state = JobState.ADMITTED
        life.owner, life.token = _text(event, "owner"), _text(event, "token")
        self._hold(life)
        self._check_caps(event, life.permits)

    def _check_above(self, event: Event, life: _Life) -> None:
        """A cancel takes all that is below, for good, unless what was cancelled comes back itself."""
        above_id = life.parent_id
        while (above := self.lives.get(above_id)) is not None:
            if above.is_cancelled and above.state is not JobState.SUCCEEDED:
                self._break(Rule.CANCELLED, event, f"{event.kind.value} below {above_id}, which was cancelled")
                return
            above_id = above.parent_id

    def _check_needs(self, event: Event) -> None:
        """What a dependency once came to stays: it may have been reopened since."""
        job = self.rows.get(event.job_id)
        if job is None or not job.depends_on:
            return
        states = [self._best(needed.job_id, job.on) for needed in job.depends_on]
        if verdict(states, job.needs, job.on) is not Verdict.MET:
            missing = [n.job_id for n, s in zip(job.depends_on, states, strict=True) if s is JobState.READY]
            self._break(Rule.DEPENDENCY, event, f"admitted before {', '.join(missing[:5])}")

    def _best(self, job_id: str, on: DependencyOn) -> JobState:
        life = self.lives.get(job_id)
        if life is None or life.has_succeeded or (on is DependencyOn.END and life.has_ended):
            return JobState.SUCCEEDED  # an unknown one was pruned, so it had ended
        return JobState.READY

    def _did(self, event: Event, life: _Life) -> None:
        """What only a job in somebody's hands does."""
        if life.state not in OWNED:
            self._break(Rule.NOT_HELD, event, f"{event.kind.value} while {life.state.value}")
            return
        match event.kind:
            case EventKind.STARTED:
                self._change(event, life, JobState.ADMITTED, JobState.RUNNING)
            case EventKind.BLOCKED:
                self._change(event, life, JobState.RUNNING, JobState.BLOCKED)
                self._give_back(life)
            case EventKind.UNBLOCKED:
                self._change(event, life, JobState.BLOCKED, JobState.RUNNING)
                self._give_back(life)
                self._hold(life, has_woken=True)
                self._check_caps(event, life.permits, beside_woken=True)
            case EventKind.MOVED:
                self._moved(event, life)
            case EventKind.RETRY:
                self._give_back(life)
                life.state = JobState.READY
            case _:
                pass

    def _change(self, event: Event, life: _Life, before: JobState, after: JobState) -> None:
        is_told_again = event.kind is EventKind.STARTED and life.state is after  # with its process
        if life.state is not before and not is_told_again:
            self._break(Rule.UNEXPLAINED, event, f"{event.kind.value} while {life.state.value}")
        life.state = after

    def _moved(self, event: Event, life: _Life) -> None:
        if _text(event, "from") != life.token:
            self._break(Rule.UNEXPLAINED, event, f"moved from token {_text(event, 'from')}, but it had {life.token}")
        life.token = _text(event, "token")
        if life.state is JobState.BLOCKED:
            return
        has_woken = life.has_woken
        self._give_back(life)
        self._hold(life, has_woken=has_woken)
        self._check_caps(event, (f"t:{life.token}",))

    def _finished(self, event: Event, life: _Life) -> None:
        end = next((state for state in TERMINAL if state == _text(event, "state")), None)
        if end is None:
            self._break(Rule.UNEXPLAINED, event, f"finished as {event.data.get('state')!r}")
            end = JobState.FAILED
        if life.state in TERMINAL:
            self._break(Rule.FINISHED_TWICE, event, f"{end.value} after it was {life.state.value}")
        elif end is JobState.SUCCEEDED and life.state not in (JobState.RUNNING, JobState.BLOCKED):
            self._break(Rule.NOT_HELD, event, f"succeeded while {life.state.value}")
        self._give_back(life)
        life.state = end
        life.is_cancelled |= end is JobState.CANCELLED
        life.has_ended = True
        life.has_succeeded |= end is JobState.SUCCEEDED

    def _reopened(self, event: Event, life: _Life) -> None:
        if life.state not in TERMINAL or life.state is JobState.SUCCEEDED:
            self._break(Rule.UNEXPLAINED, event, f"reopened while {life.state.value}")
        self._check_above(event, life)
        self._give_back(life)
        life.state = JobState.READY
        life.is_cancelled = False
        life.reopened += 1

    def _hold(self, life: _Life, *, has_woken: bool = False) -> None:
        batch = (f"b:{life.batch_id}",) if life.batch_id else ()
        life.permits = ("g", f"d:{life.depth}", f"r:{life.root_id}", *batch, f"t:{life.token}", f"h:{life.owner}")
        life.has_woken = has_woken
        self.held.update(life.permits)
        if has_woken:
            self.woken.update(life.permits)

    def _give_back(self, life: _Life) -> None:
        self.held.subtract(life.permits)
        if life.has_woken:
            self.woken.subtract(life.permits)
        life.permits, life.has_woken = (), False

    def _check_caps(self, event: Event, keys: Iterable[str], *, beside_woken: bool = False) -> None:
        for key in keys:
            cap = self._cap(key)
            # How many slots are free the owner said before the admission: somebody may have woken in between.
            woken = self.woken[key] if beside_woken or key.startswith("h:") else 0
            count = self.held[key] - woken
            if cap is not None and count > cap:
                self._break(Rule.LIMIT, event, f"{event.kind.value} as number {count} of {key!r}, cap {cap}")

    def _cap(self, key: str) -> int | None:
        match key[0]:
            case "g":
                return self.limits.running
            case "d":
                return self.limits.at_depth
            case "t":
                return self.limits.per_token
            case "h":
                return self.slots
            case "b":
                return self.batches.get(key[2:])
            case _:
                return None

    def check_rows(self, now_ms: int) -> None:
        """Whether the rows are what the events left behind."""
        for job_id in self.lives:
            if job_id not in self.rows:
                self._break_row(Rule.LOST, job_id, "was submitted and has no row")
        for job in self.rows.values():
            life = self.lives.get(job.id)
            if life is None:
                self._break_row(Rule.UNEXPLAINED, job.id, "has a row and was never submitted")
                continue
            self._check_row(job, life)
            if job.state in QUEUED and job.deadline_ms is not None and job.deadline_ms + OVERDUE_MS < now_ms:
                late_s = (now_ms - job.deadline_ms) // 1000
                self._break_row(Rule.OVERDUE, job.id, f"is queued {late_s} s after its deadline")

    def _break_row(self, rule: Rule, job_id: str, message: str) -> None:
        self.violations.append(Violation(rule=rule, job_id=job_id, seq=0, message=message))

    def _check_row(self, job: Job, life: _Life) -> None:
        if (JobState.READY if job.state in QUEUED else job.state) is not life.state:
            self._break_row(Rule.UNEXPLAINED, job.id, f"is {job.state.value}, but by its events {life.state.value}")
        if (job.epoch, job.reopened) != (life.epoch, life.reopened):
            found = f"epoch {job.epoch}, reopened {job.reopened}"
            self._break_row(Rule.EPOCH, job.id, f"has {found}; by its events {life.epoch}, {life.reopened}")
        if set(job.permits) != set(life.permits):
            self._break_row(Rule.PERMIT, job.id, f"holds {job.permits}, by its events {life.permits}")


def _text(event: Event, key: str) -> str:
    value = event.data.get(key)
    return value if isinstance(value, str) else ""


def _number(event: Event, key: str) -> int:
    value = event.data.get(key)
    return value if isinstance(value, int) else 0
