"""SQLite against the model: any sequence of operations gives the same answers, and no invariant ever breaks."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stores.builders import NOW, TOKENS, asking, batch, item, spec
from stores.strategies import CAPS, ITEMS, LIMITS, OUTCOMES

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import (
    OWNED,
    Dependency,
    Job,
    JobState,
    Outcome,
    ProcessRef,
    Progress,
    PublicState,
    Submission,
)
from claude_jobs.domain.token import TokenKind, TokenNote
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy import estimate
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import RetryRules, decide
from claude_jobs.policy.tokens import lesson
from claude_jobs.stores.base import JobFilter, JobStore, Limits, Receipt, SubmitRequest
from claude_jobs.stores.memory import MemoryStore
from claude_jobs.stores.sqlite import open_sqlite

_IDS = re.compile(r"\bj-[a-z0-9]{5,}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b|cursor='[^']+'")
OWNERS = st.sampled_from(("w1", "w2"))
KINDS = [estimate.kind(spec("", model)) for model in ("opus", "sonnet")]
BUSY = OWNED - {JobState.BLOCKED}

T = TypeVar("T")
Act = Callable[[JobStore, Sequence[str]], object]
PICK = st.integers(0, 40)
RARELY = st.sampled_from((*(None,) * 9, *range(5)))


class StoreMachine(RuleBasedStateMachine):
    """Each rule does the same to both stores and compares; a job is known by its place in the order of submission."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.real = open_sqlite(self.directory)
        self.model = MemoryStore()
        self.names: dict[str, str] = {}
        self.real_ids: list[str] = []
        self.model_ids: list[str] = []
        self.now_ms = NOW

    def both(self, act: Act) -> None:
        """Do `act` to both stores; the answers, or the errors, must be the same but for ids."""
        found, expected = _answer(act, self.real, self.real_ids), _answer(act, self.model, self.model_ids)

        assert self.named(found) == self.named(expected)

    def named(self, answer: object) -> str:
        return _IDS.sub(lambda match: self.names.get(match[0], "<unknown>"), repr(answer))

    def learn(self, real: Job, model: Job) -> None:
        place = len(self.real_ids)
        self.real_ids.append(real.id)
        self.model_ids.append(model.id)
        self.names |= dict.fromkeys((real.id, model.id), f"job {place}")
        self.names |= dict.fromkeys((real.session_id, model.session_id), f"session {place}")

    @initialize(count=st.integers(0, 3))
    def begin_with_something(self, count: int) -> None:
        """A running parent with a child, and jobs after each other in a batch that stops at its first failure."""
        kinds = (TokenKind.OAUTH, TokenKind.OAUTH, TokenKind.LOGIN)
        known = [(fp, fp.upper(), kind) for fp, kind in zip(TOKENS, kinds, strict=True)]
        self.both(lambda store, _: store.register_tokens(known, self.now_ms))
        self.accept(lambda _, __: batch(item("root"), item("other"), now_ms=self.now_ms))
        self.start("w1", 2)
        self.accept(lambda _, ids: batch(item("child", parent_id=ids[0]), now_ms=self.now_ms))
        chain = [item(f"{n}", after=(f"#{n - 1}",) if n else ()) for n in range(count)]
        self.accept(lambda _, __: batch(*chain, now_ms=self.now_ms, batch_id="B1", fail_fast=True))

    def accept(self, request: Callable[[JobStore, Sequence[str]], SubmitRequest]) -> None:
        """Submit to both stores, and remember which jobs are the same."""

        def act(store: JobStore, ids: Sequence[str]) -> tuple[Receipt, ...]:
            return store.submit(request(store, ids))

        found, expected = _answer(act, self.real, self.real_ids), _answer(act, self.model, self.model_ids)
        if not isinstance(found, str) and not isinstance(expected, str):
            for real, model in zip(found, expected, strict=True):
                if real.job.id not in self.names:
                    self.learn(real.job, model.job)

        assert self.named(found) == self.named(expected)

    @rule(
        items=st.lists(ITEMS, min_size=1, max_size=4),
        parent=st.none() | PICK,
        after=st.lists(PICK | st.sampled_from(("#0", "#0", "#2")), max_size=2),
        session=RARELY,
        batch_id=st.sampled_from(("", "B1", "B2")),
        cap=st.none() | st.integers(0, 2),
        fail_fast=st.booleans(),
        recursion=LIMITS,
        queue_size=st.sampled_from((100, 6)),
        delay_ms=st.sampled_from((None, None, -5, 3_000)),
        deadline_ms=st.sampled_from((None, None, 2_000, 90_000)),
    )
    def submit(
        self,
        items: list[Submission],
        parent: int | None,
        after: list[int | str],
        session: int | None,
        batch_id: str,
        cap: int | None,
        fail_fast: bool,
        recursion: RecursionLimits | None,
        queue_size: int,
        delay_ms: int | None,
        deadline_ms: int | None,
    ) -> None:
        def request(store: JobStore, ids: Sequence[str]) -> SubmitRequest:
            needed = [one if isinstance(one, str) else _at(ids, one) for one in after]
            earlier = _get(store, _at(ids, session)) if session is not None else None
            resumed = earlier.session_id if isinstance(earlier, Job) else ""
            adopted = [
                replace(
                    one,
                    spec=replace(one.spec, resume_session="" if place else resumed),
                    session_id="" if place else resumed,
                    parent_id=_at(ids, parent) if parent is not None and ids else None,
                    depends_on=tuple(Dependency(name="", job_id=job_id) for job_id in needed) if place % 2 else (),
                    not_before_ms=None if delay_ms is None else self.now_ms + delay_ms,
                    deadline_ms=None if deadline_ms is None else self.now_ms + deadline_ms,
                )
                for place, one in enumerate(items)
            ]
            return batch(
                *adopted,
                now_ms=self.now_ms,
                batch_id=batch_id,
                max_parallel=cap,
                queue_size=queue_size,
                fail_fast=fail_fast,
                recursion=recursion,
            )

        self.accept(request)

    @rule(batch_id=st.sampled_from(("", "B1", "B2")), cap=st.none() | st.integers(0, 3), fail_fast=st.booleans())
    def set_batch(self, batch_id: str, cap: int | None, fail_fast: bool) -> None:
        self.both(lambda store, _: store.set_batch(batch_id, max_parallel=cap, fail_fast=fail_fast))

    @rule(
        owner=OWNERS,
        free=st.integers(0, 4),
        held=st.sampled_from((TOKENS, TOKENS, ("aaa",), ())),
        limits=CAPS,
        dead=st.sampled_from(((), (), ("w1",), ("w1", "w2"))),
        nested_first=st.booleans(),
    )
    def admit(
        self, owner: str, free: int, held: tuple[str, ...], limits: Limits, dead: tuple[str, ...], nested_first: bool
    ) -> None:
        request = replace(
            asking(owner=owner, free=free, now_ms=self.now_ms, held=held, dead=dead, nested_first=nested_first),
            limits=limits,
        )
        self.both(lambda store, _: store.peek(request, 3))
        self.both(lambda store, _: store.admit(request))

    @rule(owner=OWNERS, free=st.integers(1, 4))
    def start(self, owner: str, free: int) -> None:
        """Admission alone would seldom come to a running job."""

        def act(store: JobStore, ids: Sequence[str]) -> object:
            grants = store.admit(asking(owner=owner, free=free, now_ms=self.now_ms)).grants
            return [store.begin(grant.job.id, grant.epoch, None, self.now_ms) for grant in grants]

        self.both(act)

    @rule(pick=PICK, stale=st.sampled_from((0, 0, 0, 1)), with_process=st.booleans())
    def begin(self, pick: int, stale: int, with_process: bool) -> None:
        process = ProcessRef(pid=7, pgid=7, started_ticks=1, boot_id="b") if with_process else None

        def act(store: JobStore, ids: Sequence[str]) -> object:
            job = _job(store, ids, pick)
            return job and store.begin(job.id, job.epoch - stale, process, self.now_ms)

        self.both(act)

    @rule(pick=PICK, stale=st.sampled_from((0, 0, 0, 1)), outcome=OUTCOMES, jitter=st.sampled_from((0.0, 0.9)))
    def finish(self, pick: int, stale: int, outcome: Outcome, jitter: float) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            job = _job(store, ids, pick)
            if job is None:
                return None
            disposition = decide(job, outcome, RetryRules(), now_ms=self.now_ms, jitter=jitter)
            note = lesson(outcome, model=job.spec.model, now_ms=self.now_ms)
            return store.finish(job.id, job.epoch - stale, outcome, disposition, note, self.now_ms)

        self.both(act)

    @rule(pick=PICK, stale=st.sampled_from((0, 0, 0, 1)), is_waking=st.booleans())
    def block(self, pick: int, stale: int, is_waking: bool) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            job = _job(store, ids, pick)
            change = store.unblock if is_waking else store.block
            return job and change(job.id, job.epoch - stale, self.now_ms)

        self.both(act)

    @rule(picks=st.lists(PICK, min_size=1, max_size=2), tree=st.booleans(), asker=st.none() | st.integers(0, 3))
    def reopen(self, picks: list[int], tree: bool, asker: int | None) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> tuple[Job, ...]:
            named = [_at(ids, pick) for pick in picks]
            return store.reopen(named, self.now_ms, tree=tree, asker="" if asker is None else _at(ids, asker))

        found, expected = _answer(act, self.real, self.real_ids), _answer(act, self.model, self.model_ids)
        if not isinstance(found, str) and not isinstance(expected, str):
            for real, model in zip(found, expected, strict=True):
                self.names.setdefault(real.session_id, f"session of {self.names[real.id]}, life {real.reopened}")
                self.names.setdefault(model.session_id, f"session of {self.names[model.id]}, life {model.reopened}")

        assert self.named(found) == self.named(expected)

    @rule(pick=PICK, stale=st.sampled_from((0, 0, 1)), per_token=st.integers(1, 2))
    def move(self, pick: int, stale: int, per_token: int) -> None:
        note = TokenNote(cool_window="five_hour", cool_until_ms=self.now_ms + 4_000)

        def act(store: JobStore, ids: Sequence[str]) -> object:
            job = _job(store, ids, pick)
            limits = Limits(per_token=per_token)
            return job and store.move(job.id, job.epoch - stale, note, frozenset(TOKENS), limits, self.now_ms)

        self.both(act)

    @rule(pick=PICK, also=PICK)
    def cancel(self, pick: int, also: int) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            return store.cancel([_at(ids, pick), _at(ids, also)], "enough", self.now_ms)

        self.both(act)

    @rule(pick=PICK, kind=st.sampled_from((EventKind.TEXT, EventKind.DENIED)), turns=st.none() | st.integers(0, 3))
    def append(self, pick: int, kind: EventKind, turns: int | None) -> None:
        progress = None if turns is None else Progress(doing="thinking", turns=turns)

        def act(store: JobStore, ids: Sequence[str]) -> object:
            job = _job(store, ids, pick)
            return job and store.append(job.id, job.epoch, [NewEvent(kind=kind)], progress, self.now_ms)

        self.both(act)

    @rule(token=st.sampled_from(TOKENS), note=st.sampled_from((TokenNote(quarantine="no"), TokenNote(restore=True))))
    def note_token(self, token: str, note: TokenNote) -> None:
        self.both(lambda store, _: store.note_token(token, note, self.now_ms))

    @rule(pick=PICK)
    def mark_read(self, pick: int) -> None:
        self.both(lambda store, ids: store.mark_read([_at(ids, pick)], self.now_ms))

    @rule(age_ms=st.sampled_from((0, 5_000)), limit=st.integers(1, 3))
    def prune(self, age_ms: int, limit: int) -> None:
        self.both(lambda store, _: store.prune(self.now_ms - age_ms, limit))

    @rule(step_ms=st.sampled_from((1, 500, 10_000, 400_000, -300_000, 10**10, -(10**10))))
    def clock_goes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def open_the_file_again(self) -> None:
        self.real.close()
        self.real = open_sqlite(self.directory)

    @rule(state=st.sampled_from(PublicState), unread_first=st.booleans(), limit=st.integers(1, 4))
    def list_all(self, state: PublicState, unread_first: bool, limit: int) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            first = JobFilter(unread_first=unread_first, limit=limit)
            page = store.list(first)
            second = store.list(replace(first, cursor=page.cursor)) if page.cursor else None
            return (
                page,
                second,
                store.list(JobFilter(states=(state,), label="red")),
                store.list(JobFilter(batch_id="B1")),
                [store.list(JobFilter(root_id=i)).total for i in ids],
                [store.list(JobFilter(parent_id=i)).total for i in ids],
            )

        self.both(act)

    @rule(owner=OWNERS)
    def ask_about_owner(self, owner: str) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            return store.owners(), store.owned(owner), store.beat(owner, [(i, 1) for i in ids], self.now_ms)

        self.both(act)

    @invariant()
    def agree(self) -> None:
        def act(store: JobStore, ids: Sequence[str]) -> object:
            counts = store.counts()
            jobs = [(_get(store, i), store.attempts(i)) for i in ids]
            places = sorted(((ids.index(i), place) for i, place in store.places(ids).items()), key=lambda pair: pair[0])
            times = [store.run_times(kind) for kind in KINDS]
            counted = sorted(counts.by_state.items()), counts.unread
            return jobs, places, times, counted, store.tokens(), store.read(0, limit=10_000)

        self.both(act)

    @invariant()
    def audit_is_clean(self) -> None:
        report = self.real.audit(self.now_ms)

        assert (report.drift, report.problems) == ({}, ())

    @invariant()
    def permits_are_the_rows(self) -> None:
        jobs = [job for i in self.real_ids if isinstance(job := _get(self.real, i), Job)]
        held = Counter(job.token for job in jobs if job.state in BUSY)

        assert {state.fingerprint: state.running for state in self.real.tokens() if state.running} == dict(held)
        for job in jobs:
            assert bool(job.permits) == (job.state in BUSY)
            assert bool(job.owner) == (job.state in OWNED)
            assert sum(one.finished_ms is None for one in self.real.attempts(job.id)) == (job.state in OWNED)

    def teardown(self) -> None:
        self.real.close()
        shutil.rmtree(self.directory)


def _answer(act: Callable[[JobStore, Sequence[str]], T], store: JobStore, ids: Sequence[str]) -> T | str:
    try:
        return act(store, ids)
    except ClaudeJobsError as error:
        return f"{type(error).__name__}: {error.message}"


def _get(store: JobStore, job_id: str) -> Job | str:
    return _answer(lambda s, _: s.get(job_id), store, ())


def _at(ids: Sequence[str], pick: int) -> str:
    return ids[pick % len(ids)] if ids else "j-none"


def _job(store: JobStore, ids: Sequence[str], pick: int) -> Job | None:
    """The pick-th of the jobs that are held, so that most steps do something; else of all."""
    jobs = [job for i in ids if isinstance(job := _get(store, i), Job)]
    held = [job for job in jobs if job.state in OWNED] or jobs
    return held[pick % len(held)] if held else None


TestStores = StoreMachine.TestCase
TestStores.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
