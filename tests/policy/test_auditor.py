"""The auditor: a log that a store wrote passes whatever was done, and each way to break a rule is found by that rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings
from policy.audit_log import Log, log_of, story
from stores.builders import NOW, Desk, asking, batch, failed, item

from claude_jobs.domain.event import Event, EventKind
from claude_jobs.domain.job import OWNED, DependencyOn, Grant, JobState
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy.auditor import OVERDUE_MS, audit
from claude_jobs.policy.recursion import RATE_WINDOW_MS, RecursionLimits
from claude_jobs.policy.violations import Rule
from claude_jobs.stores.base import Limits
from claude_jobs.stores.memory import MemoryStore

KIND = EventKind


def test_a_clean_log_passes_and_had_everything_in_it() -> None:
    log = story()

    assert log.audit() == ()
    assert {event.kind for event in log.events} >= set(KIND) - {KIND.PROGRESS, KIND.TEXT, KIND.DENIED, KIND.CORRECTED}


def test_droppable_events_may_be_missing_and_jobs_pruned_with_their_events() -> None:
    log = story()
    log.drop("child", KIND.TOOL)
    gone = {log.named[name] for name in ("root", "first")}
    log.events = [event for event in log.events if event.job_id not in gone]
    log.jobs = {job_id: job for job_id, job in log.jobs.items() if job_id not in gone}

    assert log.audit() == ()


def lose_a_row(log: Log) -> None:
    del log.jobs[log.named["again"]]


def swap_numbers(log: Log) -> None:
    place = log.place("again", KIND.FINISHED)
    log.events[place] = replace(log.events[place], seq=1)


def forge_a_move(log: Log) -> None:
    place = log.place("child", KIND.MOVED)
    log.events[place] = replace(log.events[place], data={"from": "zzz", "token": "bbb"})


BREACHES: list[tuple[Rule, str, Callable[[Log], object]]] = [
    (Rule.ORDER, "again", swap_numbers),
    (Rule.LOST, "again", lose_a_row),
    (Rule.UNEXPLAINED, "queued", lambda log: log.drop("queued", KIND.SUBMITTED)),
    (Rule.UNEXPLAINED, "queued", lambda log: log.add("queued", KIND.SUBMITTED, 0)),
    (Rule.UNEXPLAINED, "queued", lambda log: log.row("queued", state=JobState.SUCCEEDED)),
    (Rule.UNEXPLAINED, "again", lambda log: log.row("again", state=JobState.FAILED)),
    (Rule.UNEXPLAINED, "again", lambda log: log.drop("again", KIND.FINISHED)),
    (Rule.UNEXPLAINED, "second", lambda log: log.drop("second", KIND.STARTED, 1)),
    (Rule.UNEXPLAINED, "again", lambda log: log.drop("again", KIND.RETRY)),
    (Rule.UNEXPLAINED, "root", lambda log: log.drop("root", KIND.BLOCKED)),
    (Rule.UNEXPLAINED, "root", lambda log: log.add("root", KIND.BLOCKED, 1, at=log.place("root", KIND.UNBLOCKED))),
    (Rule.UNEXPLAINED, "child", forge_a_move),
    (Rule.UNEXPLAINED, "again", lambda log: log.change("again", KIND.FINISHED, state="running")),
    (Rule.UNEXPLAINED, "again", lambda log: log.add("again", KIND.REOPENED, 2)),
    (Rule.FINISHED_TWICE, "again", lambda log: log.add("again", KIND.FINISHED, 2, state="succeeded")),
    (Rule.FINISHED_TWICE, "root", lambda log: log.add("root", KIND.FINISHED, 1, state="failed")),
    (Rule.UNEXPLAINED, "second", lambda log: log.drop("second", KIND.REOPENED)),
    (Rule.UNEXPLAINED, "child", lambda log: log.change("child", KIND.FINISHED, token="zzz")),
    (Rule.EPOCH, "again", lambda log: log.change("again", KIND.ADMITTED, 1, epoch=1)),
    (Rule.EPOCH, "again", lambda log: log.change("again", KIND.FINISHED, epoch=3)),
    (Rule.EPOCH, "again", lambda log: log.row("again", epoch=7)),
    (Rule.EPOCH, "again", lambda log: log.row("again", reopened=1)),
    (Rule.STALE, "again", lambda log: log.change("again", KIND.FINISHED, epoch=1)),
    (Rule.STALE, "again", lambda log: log.change("again", KIND.STARTED, 1, epoch=1)),
    (Rule.NOT_HELD, "child", lambda log: log.add("child", KIND.TEXT, 1)),
    (Rule.NOT_HELD, "again", lambda log: log.add("again", KIND.RETRY, 2)),
    (Rule.NOT_HELD, "queued", lambda log: log.add("queued", KIND.FINISHED, 0, state="succeeded")),
    (
        Rule.CANCELLED,
        "child",
        lambda log: log.add("root", KIND.CANCEL_REQUESTED, 1, at=log.place("child", KIND.SUBMITTED)),
    ),
    (
        Rule.CANCELLED,
        "again",
        lambda log: log.add("again", KIND.CANCEL_REQUESTED, 1, at=log.place("again", KIND.RETRY)),
    ),
    (
        Rule.CANCELLED,
        "child",
        lambda log: log.add("root", KIND.CANCEL_REQUESTED, 1, at=log.place("child", KIND.ADMITTED)),
    ),
    (Rule.DEPENDENCY, "after", lambda log: log.row("after", on=DependencyOn.SUCCESS, depends_on=needs(log, "second"))),
    (Rule.LINEAGE, "child", lambda log: log.change("child", KIND.SUBMITTED, depth=2)),
    (Rule.LINEAGE, "child", lambda log: log.change("child", KIND.SUBMITTED, root_id="j-other")),
    (Rule.LINEAGE, "child", lambda log: log.change("child", KIND.SUBMITTED, ordinal=1)),
    (Rule.LINEAGE, "again", lambda log: log.change("again", KIND.SUBMITTED, depth=1)),
    (Rule.RECURSION, "child", lambda log: tree(log, depth=0)),
    (Rule.RECURSION, "child", lambda log: tree(log, total=1)),
    (Rule.RECURSION, "child", lambda log: tree(log, rate=0)),
    (Rule.RECURSION, "child", lambda log: caps(log, depth=0)),
    (Rule.RECURSION, "child", lambda log: caps(log, total=1)),
    (Rule.LIMIT, "root", lambda log: caps(log, running=0)),
    (Rule.LIMIT, "root", lambda log: caps(log, per_token=0)),
    (Rule.LIMIT, "root", lambda log: caps(log, at_depth=0)),
    (Rule.LIMIT, "root", lambda log: slots(log, 0)),
    (Rule.LIMIT, "first", lambda log: log.batches.update({"b-1": 0})),
    (Rule.PERMIT, "again", lambda log: log.row("again", permits=("g",))),
    (Rule.PERMIT, "second", lambda log: log.row("second", permits=())),
    (Rule.OVERDUE, "queued", lambda log: later(log, OVERDUE_MS + 11)),
]


def needs(log: Log, name: str) -> object:
    return tuple(replace(one, job_id=log.named[name]) for one in log.jobs[log.named["after"]].depends_on)


def tree(log: Log, **limits: int) -> None:
    assert log.tree
    log.tree = replace(log.tree, **limits)


def caps(log: Log, **limits: int) -> None:
    log.limits = replace(log.limits, **limits)


def slots(log: Log, count: int) -> None:
    log.slots = count


def later(log: Log, ms: int) -> None:
    log.now_ms += ms


@pytest.mark.parametrize(("rule", "name", "breach"), BREACHES)
def test_each_breach_is_found(rule: Rule, name: str, breach: Callable[[Log], object]) -> None:
    log = story()
    breach(log)

    assert (rule, name) in log.broken()


def test_every_rule_has_a_breach_that_only_it_finds_or_finds_first() -> None:
    alone: set[Rule] = set()
    for rule, name, breach in BREACHES:
        log = story()
        breach(log)
        if log.broken()[0] == (rule, name):
            alone.add(rule)

    assert alone == set(Rule)


def test_a_violation_says_where_and_what() -> None:
    log = story()
    caps(log, running=0)
    first = log.audit()[0]

    assert first.seq == log.events[log.place("root", KIND.ADMITTED)].seq
    assert first.message == "admitted as number 1 of 'g', cap 0"
    assert [violation.seq for violation in log.audit()] == sorted(violation.seq for violation in log.audit())


UNNOTICED = {KIND.TOOL, KIND.LIMITED, KIND.CANCEL_REQUESTED}


def numbered(log: Log, events: list[Event]) -> Log:
    return replace(log, events=[replace(event, seq=seq) for seq, event in enumerate(events, 1)])


def test_no_other_event_can_be_missing() -> None:
    log = story()
    places = range(len(log.events))
    gone = [numbered(log, log.events[:place] + log.events[place + 1 :]) for place in places]

    # An attempt may fail before it has started, and end while it waits.
    unnoticed = {log.events[place].kind for place in places if not gone[place].audit()}
    assert unnoticed == UNNOTICED | {KIND.STARTED, KIND.UNBLOCKED}


def test_no_other_event_can_be_there_twice() -> None:
    log = story()
    places = range(len(log.events))
    twice = [numbered(log, log.events[: place + 1] + log.events[place:]) for place in places]

    # The second `started` of an attempt tells its process.
    assert {log.events[place].kind for place in places if not twice[place].audit()} == UNNOTICED | {KIND.STARTED}


Step = tuple[str, EventKind]


def replayed(steps: list[Step], limits: Limits, used_slots: int | None = None) -> list[tuple[int, Rule]]:
    """Places of the steps that broke a rule. All jobs are of one depth, token and owner."""
    events: list[Event] = []
    epochs: dict[str, int] = {}
    for seq, (name, kind) in enumerate(steps, 1):
        epochs[name] = epochs.get(name, 0) + (kind is KIND.ADMITTED)
        data = {KIND.ADMITTED: {"owner": "w1", "token": "aaa"}, KIND.FINISHED: {"state": "succeeded"}}.get(kind, {})
        events.append(Event(seq=seq, job_id=name, epoch=epochs[name], at_ms=NOW, kind=kind, data=data))
    found = audit(events, [], limits=limits, slots=used_slots, now_ms=NOW)
    return [(violation.seq - 1, violation.rule) for violation in found if violation.seq]


def runs(name: str) -> list[Step]:
    return [(name, KIND.ADMITTED), (name, KIND.STARTED)]


SUBMITTED = [(name, KIND.SUBMITTED) for name in "abcd"]
WAITING = [*SUBMITTED, *runs("a"), ("a", KIND.BLOCKED), *runs("b"), ("b", KIND.BLOCKED), *runs("c")]
WOKEN = [*WAITING, ("a", KIND.UNBLOCKED), ("b", KIND.UNBLOCKED)]
ONE = [Limits(running=1, per_token=9), Limits(per_token=1), Limits(at_depth=1, per_token=9)]


@pytest.mark.parametrize("limits", ONE)
def test_only_waking_may_go_past_a_cap(limits: Limits) -> None:
    over = len(WOKEN)
    end = [("a", KIND.FINISHED), ("c", KIND.FINISHED), ("b", KIND.FINISHED)]

    assert replayed(WOKEN, limits) == []
    assert replayed([*WOKEN, *runs("d")], limits) == [(over, Rule.LIMIT)]
    assert replayed([*WOKEN, *end[:2], *runs("d")], limits) == [(over + 2, Rule.LIMIT)]
    assert replayed([*WOKEN, *end, *runs("d")], limits) == []
    assert replayed([*SUBMITTED, *runs("a"), *runs("b")], limits) == [(len(SUBMITTED) + 2, Rule.LIMIT)]


@pytest.mark.parametrize("limits", ONE)
def test_a_cap_is_exceeded_by_no_more_than_have_woken(limits: Limits) -> None:
    waiting = [*SUBMITTED, *runs("a"), ("a", KIND.BLOCKED), *runs("b"), *runs("c"), ("a", KIND.UNBLOCKED)]
    over = [waiting.index(("c", KIND.ADMITTED)), len(waiting) - 1]

    assert replayed(waiting, limits) == [(place, Rule.LIMIT) for place in over]
    assert replayed([*waiting[:-1], ("c", KIND.FINISHED), waiting[-1]], limits) == [(over[0], Rule.LIMIT)]


def test_an_owner_that_could_not_know_of_a_waking_may_have_asked_for_one_more() -> None:
    assert replayed([*WOKEN, ("c", KIND.FINISHED), *runs("d")], Limits(per_token=9), used_slots=1) == []
    assert replayed([*WAITING, *runs("d")], Limits(per_token=9), used_slots=1) == [(len(WAITING), Rule.LIMIT)]


def told(*steps: tuple[str, EventKind, str]) -> list[int]:
    """Places of the steps that broke the rule of cancels, with `b` below `a` and `c` below that."""
    data = {
        "b": {"parent_id": "a", "root_id": "a", "depth": 1, "ordinal": 2},
        "c": {"parent_id": "b", "root_id": "a", "depth": 2, "ordinal": 3},
    }
    made = [(name, KIND.SUBMITTED, "") for name in "abc"]
    events = [
        Event(
            seq=seq,
            job_id=name,
            epoch=0,
            at_ms=NOW,
            kind=kind,
            data=data.get(name, {}) if kind is KIND.SUBMITTED else {"state": state},
        )
        for seq, (name, kind, state) in enumerate((*made, *steps), 1)
    ]
    found = audit(events, [], limits=Limits(), slots=None, now_ms=NOW)
    return [violation.seq - 1 - len(made) for violation in found if violation.rule is Rule.CANCELLED]


def test_below_a_cancelled_job_nothing_comes_back_before_it_does() -> None:
    ends = [(name, KIND.FINISHED, "cancelled") for name in "abc"]
    back = {name: (name, KIND.REOPENED, "") for name in "abc"}
    asked = ("a", KIND.CANCEL_REQUESTED, "")

    assert told(*ends, back["c"]) == [3]
    assert told(*ends, back["b"], back["c"]) == [3, 4]
    assert told(*ends, back["a"], back["b"], back["c"]) == []
    assert told(asked, *ends[1:], back["c"]) == [3]
    assert told(("c", KIND.FINISHED, "failed"), ("b", KIND.FINISHED, "failed"), back["c"]) == []
    assert told(asked, ends[1], ("a", KIND.FINISHED, "succeeded"), back["b"]) == []


def test_the_spawn_rate_counts_any_window() -> None:
    data = {"parent_id": "root", "root_id": "root", "depth": 1}
    times = [0, 10, RATE_WINDOW_MS - 1, RATE_WINDOW_MS, RATE_WINDOW_MS + 5]
    events = [
        Event(seq=n, job_id=f"j-{n}", epoch=0, at_ms=NOW + at, kind=KIND.SUBMITTED, data={**data, "ordinal": n + 1})
        for n, at in enumerate(times, 1)
    ]
    found = audit(
        events, [], limits=Limits(), slots=None, now_ms=NOW, recursion=RecursionLimits(rate=3, depth=1, total=9)
    )

    assert [violation.seq for violation in found if violation.seq] == [5]


LIMITS = Limits(running=4, per_token=2, at_depth=3, depth=2, total=6)
TREE = RecursionLimits(depth=2, total=6, rate=4)
WORK = ("block", "unblock", "end", "fail")
ACTS = st.sampled_from(
    ("submit", "child", "batch", "after", "cancel", "reopen", "die", "later", *("admit",) * 3, *WORK, *WORK)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(ACTS, st.integers(0, 99)), max_size=80))
@example([("submit", 0), ("admit", 0), ("child", 0), ("cancel", 0), ("reopen", 3)])
@example([("submit", 0), ("admit", 0), ("child", 0), ("cancel", 0), ("reopen", 1)])
def test_whatever_is_done_to_a_store_its_log_passes(acts: list[tuple[str, int]]) -> None:
    town = Town()
    for act, pick in acts:
        try:
            town.act(act, pick)
        except ClaudeJobsError:
            continue
        assert town.excess() == {}

    assert log_of(town.store, batches=town.batches, limits=LIMITS, tree=TREE, slots=3, now_ms=town.now_ms).audit() == ()


class Town:
    """A store, two workers of three slots, and somebody who does anything to any job."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.desk = Desk(self.store)
        self.desk.know()
        self.now_ms = NOW
        self.ids: list[str] = []
        self.grants: dict[str, Grant] = {}
        self.batches: dict[str, int | None] = {}
        self.woken: set[tuple[str, int]] = set()

    def excess(self) -> dict[str, int]:
        """Limit keys that more jobs hold than their cap and the jobs that woke among them; by the rows alone."""
        held: Counter[str] = Counter()
        for job in map(self.store.get, self.ids):
            held.update(job.permits if (job.id, job.epoch) not in self.woken else ())
        caps = {"g": LIMITS.running, "d": LIMITS.at_depth, "t": LIMITS.per_token, "b": 2}
        return {key: count for key, count in held.items() if (cap := caps.get(key[0])) is not None and count > cap}

    def act(self, act: str, pick: int) -> None:
        self.now_ms += 20_000 if act == "later" else pick
        job_id = self.choose(act, pick)
        if act == "submit":
            self.submit(1, deadline_ms=self.now_ms + 50_000 if pick % 3 else None)
        elif act == "batch":
            self.submit(3, batch_id=f"b-{len(self.batches)}")
        elif act in ("admit", "die"):
            self.admit(f"w{pick % 2}", dead=(f"w{1 - pick % 2}",) if act == "die" else ())
        elif job_id in self.grants and act in WORK:
            self.do(act, self.grants[job_id])
        elif job_id:
            self.ask(act, job_id, pick)

    def choose(self, act: str, pick: int) -> str:
        """Any job; for what a worker does mostly one that is held."""
        states = {"block": {JobState.RUNNING}, "unblock": {JobState.BLOCKED}}.get(act, OWNED)
        held = [job_id for job_id in self.grants if self.store.get(job_id).state in states]
        ids = held if held and act in WORK and pick % 5 else self.ids
        return ids[pick % len(ids)] if ids else ""

    def do(self, act: str, grant: Grant) -> None:
        """What the worker does with a grant, be it its last or not."""
        match act:
            case "block":
                self.store.block(grant.job.id, grant.epoch, self.now_ms)
            case "unblock":
                if self.store.unblock(grant.job.id, grant.epoch, self.now_ms):
                    self.woken.add((grant.job.id, grant.epoch))
            case _:
                self.desk.end(grant, failed() if act == "fail" else None, now_ms=self.now_ms)

    def ask(self, act: str, job_id: str, pick: int) -> None:
        """What callers do with a job."""
        match act:
            case "child":
                self.submit(1 + pick % 2, parent_id=job_id)
            case "after":
                self.submit(1, after=(job_id,))
            case "cancel":
                self.store.cancel([job_id], "enough", self.now_ms)
            case "reopen":
                asker = self.store.get(job_id).parent_id if pick % 3 else None
                self.store.reopen([job_id], self.now_ms, tree=bool(pick % 2), asker=asker or "")
            case _:
                pass

    def submit(self, count: int, *, batch_id: str = "", **fields: Any) -> None:
        items = [item(f"job {len(self.ids)} {number}", **fields) for number in range(count)]
        if batch_id:
            self.batches[batch_id] = 2
        request = batch(
            *items, now_ms=self.now_ms, batch_id=batch_id, max_parallel=2 if batch_id else None, recursion=TREE
        )
        self.ids += [receipt.job.id for receipt in self.store.submit(request)]

    def admit(self, owner: str, *, dead: tuple[str, ...] = ()) -> None:
        jobs = [self.store.get(job_id) for job_id in self.ids]
        busy = sum(job.owner == owner and job.state in OWNED - {JobState.BLOCKED} for job in jobs)
        request = replace(asking(owner=owner, free=max(0, 3 - busy), now_ms=self.now_ms, dead=dead), limits=LIMITS)
        self.grants |= self.desk.start(request)
