"""A log as the model of the store writes it on a day with everything in it, and ways to tamper with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stores.builders import NOW, Desk, asking, batch, cooling, failed, item

from claude_jobs.domain.event import Event, EventKind, NewEvent
from claude_jobs.domain.job import Dependency, DependencyOn, Grant, Job, Submission
from claude_jobs.policy.auditor import audit
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.violations import Rule, Violation
from claude_jobs.stores.base import AdmitRequest, JobStore, Limits
from claude_jobs.stores.memory import MemoryStore

LIMITS = Limits(running=4, per_token=2, at_depth=4, depth=1, total=2)
TREE = RecursionLimits(depth=1, total=2, rate=1)
SLOTS = 4
HOUR_MS = 3_600_000


@dataclass
class Log:
    """What an audit looks at. Jobs have names; events are found by name, kind and how many of that kind came before."""

    events: list[Event]
    jobs: dict[str, Job]
    named: dict[str, str] = field(default_factory=dict[str, str])
    batches: dict[str, int | None] = field(default_factory=dict[str, int | None])
    limits: Limits = LIMITS
    tree: RecursionLimits | None = TREE
    slots: int | None = SLOTS
    now_ms: int = NOW

    def audit(self) -> tuple[Violation, ...]:
        return audit(
            self.events,
            self.jobs.values(),
            limits=self.limits,
            slots=self.slots,
            now_ms=self.now_ms,
            batches=self.batches,
            recursion=self.tree,
        )

    def broken(self) -> list[tuple[Rule, str]]:
        """Rules and names of the jobs that broke them."""
        names = {job_id: name for name, job_id in self.named.items()}
        return [(violation.rule, names[violation.job_id]) for violation in self.audit()]

    def place(self, name: str, kind: EventKind, nth: int = 0) -> int:
        job_id = self.named[name]
        return [at for at, event in enumerate(self.events) if (event.job_id, event.kind) == (job_id, kind)][nth]

    def drop(self, name: str, kind: EventKind, nth: int = 0) -> None:
        del self.events[self.place(name, kind, nth)]

    def change(self, name: str, kind: EventKind, nth: int = 0, *, epoch: int | None = None, **data: Any) -> None:
        at = self.place(name, kind, nth)
        event = self.events[at]
        self.events[at] = replace(event, epoch=event.epoch if epoch is None else epoch, data={**event.data, **data})

    def add(self, name: str, kind: EventKind, epoch: int, *, at: int | None = None, **data: Any) -> None:
        """At the end, or before place `at`; the numbers follow the places."""
        event = Event(seq=0, job_id=self.named[name], epoch=epoch, at_ms=self.now_ms, kind=kind, data=data)
        self.events.insert(len(self.events) if at is None else at, event)
        self.events = [replace(event, seq=seq) for seq, event in enumerate(self.events, 1)]

    def row(self, name: str, **fields: Any) -> None:
        job_id = self.named[name]
        self.jobs[job_id] = replace(self.jobs[job_id], **fields)


def log_of(store: JobStore, **fields: Any) -> Log:
    """What a store remembers."""
    events = list(store.read(0, limit=1_000_000))
    jobs = {event.job_id: store.get(event.job_id) for event in events}
    return Log(events=events, jobs=jobs, **fields)


class Day:
    """Drives a store, with names for jobs."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.desk = Desk(self.store)
        self.desk.know()
        self.now_ms = NOW
        self.named: dict[str, str] = {}
        self.grants: dict[str, Grant] = {}

    def submit(
        self, *names: str, after: Sequence[str] = (), parent: str = "", batch_id: str = "", **fields: Any
    ) -> None:
        depends_on = tuple(Dependency(name=name, job_id=self.named[name]) for name in after)
        parent_id = self.named[parent] if parent else None
        items: list[Submission] = [
            replace(item(name), parent_id=parent_id, depends_on=depends_on, **fields) for name in names
        ]
        max_parallel = 1 if batch_id else None
        request = batch(*items, now_ms=self.now_ms, batch_id=batch_id, max_parallel=max_parallel, recursion=TREE)
        for name, receipt in zip(names, self.store.submit(request), strict=True):
            self.named[name] = receipt.job.id

    def start(self) -> None:
        request = replace(asking(free=SLOTS, now_ms=self.now_ms), limits=LIMITS)
        assert isinstance(request, AdmitRequest)
        self.grants |= self.desk.start(request)

    def epoch(self, name: str) -> int:
        return self.grants[self.named[name]].epoch

    def end(self, name: str, *, fails: bool = False) -> None:
        self.desk.end(self.grants[self.named[name]], failed() if fails else None, now_ms=self.now_ms)


def story() -> Log:
    """A tree that waits, a move, a retry, a batch with a cap, a dependency, a cancel, a second life, a job in the queue."""
    day = Day()
    store = day.store
    day.submit("root")
    day.start()
    day.submit("child", parent="root")
    store.block(day.named["root"], day.epoch("root"), NOW)
    day.start()
    moved = store.move(day.named["child"], day.epoch("child"), cooling(), frozenset({"aaa", "bbb", "ccc"}), LIMITS, NOW)
    assert moved
    store.append(
        day.named["child"], day.epoch("child"), [NewEvent(kind=EventKind.TOOL, data={"tool": "Read"})], None, NOW
    )
    day.end("child")
    store.unblock(day.named["root"], day.epoch("root"), NOW)
    day.end("root")
    day.submit("again")
    day.start()
    day.end("again", fails=True)
    day.now_ms += HOUR_MS
    day.start()
    day.end("again")
    day.submit("first", "second", batch_id="b-1")
    day.submit("after", after=["first"], on=DependencyOn.END)
    day.start()
    day.end("first")
    day.start()
    day.end("after")
    store.cancel([day.named["second"]], "enough", day.now_ms)
    day.end("second", fails=True)
    store.reopen([day.named["second"]], day.now_ms)
    day.start()
    day.submit("queued", deadline_ms=day.now_ms + 10)
    return log_of(store, named=day.named, batches={"b-1": 1}, now_ms=day.now_ms)
