"""Handing out work: take back, promote, expire, then pick by rank over the two-level ready index.

A pick looks at the best free lane of each class whose tokens let it run, never at blocked jobs: O(classes x log jobs).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from claude_jobs.domain.job import QUEUED, Grant, Job, JobState
from claude_jobs.domain.token import TokenState
from claude_jobs.policy import tokens as rules
from claude_jobs.stores import codec, lifecycle, waits
from claude_jobs.stores.base import Admission, AdmitRequest
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.ending import follow, needed, settle
from claude_jobs.stores.sqlite.rows import Rows

SWEEP = 1_000
"""Jobs promoted or expired per call; the rest comes with the next one, which is then due at once."""

_QUEUED_STATES = "(" + ", ".join(f"'{state.value}'" for state in sorted(QUEUED)) + ")"

_OVERDUE = """SELECT id FROM jobs INDEXED BY jobs_owner
    WHERE owner = ? AND owner <> '' AND deadline_ms <= ? ORDER BY seq"""


def admit(rows: Rows, request: AdmitRequest) -> Admission:
    """See JobStore."""
    now_ms = request.now_ms
    reaped = _reap(rows, request.dead, now_ms)
    promoted = _promote(rows, now_ms)
    expired = _expire(rows, request)
    follow(rows, now_ms)
    is_swept = max(promoted, len(expired)) < SWEEP
    grants, resets = _Picker(rows, request).pick() if is_swept else ((), [now_ms])
    overdue = rows.execute(_OVERDUE, request.owner, now_ms)
    return Admission(
        grants=grants,
        next_ms=min([*_due_times(rows, now_ms), *resets], default=None),
        reaped=tuple(job.id for job in reaped),
        expired=tuple(job.id for job in expired),
        overdue=tuple(job_id for (job_id,) in overdue),
    )


def _reap(rows: Rows, dead: Collection[str], now_ms: int) -> list[Job]:
    lost = rows.owned_by(*sorted(dead))
    for job in lost:
        settle(rows, job, *lifecycle.lost_disposition(job), now_ms)
    return lost


def _promote(rows: Rows, now_ms: int) -> int:
    due = rows.select(_seqs("jobs_due", "state = 'delayed' AND not_before_ms <= ?"), now_ms, SWEEP)
    behind_ms = now_ms + lifecycle.CLOCK_SLACK_MS
    stranded = rows.select(_seqs("jobs_backoff", "backoff_since_ms > ?"), behind_ms, SWEEP)
    for job in {job.id: job for job in (*due, *stranded)}.values():
        rows.save(job, lifecycle.promoted(job), now_ms)
    return max(len(due), len(stranded))


def _expire(rows: Rows, request: AdmitRequest) -> list[Job]:
    overdue = f"deadline_ms <= ? AND finished_ms IS NULL AND +state IN {_QUEUED_STATES}"
    late = rows.select(_seqs("jobs_deadline", overdue), request.now_ms, SWEEP)
    tokens = Board(rows).states if late else {}
    for job in late:
        states = needed(rows, [job.id]) if job.state is JobState.WAITING else {}
        why = waits.missed(job, request, tokens, states)
        settle(rows, job, *lifecycle.expiry_disposition(why), request.now_ms)
    return late


def _seqs(index: str, where: str) -> str:
    """INDEXED BY, because the planner would rather scan a whole table than sort a few rows."""
    return f"WHERE j.seq IN (SELECT seq FROM jobs INDEXED BY {index} WHERE {where} LIMIT ?) ORDER BY j.seq"  # noqa: S608


def _due_times(rows: Rows, now_ms: int) -> list[int]:
    wakes = "SELECT MIN(not_before_ms) FROM jobs INDEXED BY jobs_due WHERE state = 'delayed' AND not_before_ms > ?"
    ends = "SELECT MIN(deadline_ms) FROM jobs INDEXED BY jobs_deadline WHERE deadline_ms > ? AND finished_ms IS NULL"
    times = (rows.number(wakes, now_ms), rows.number(ends, now_ms))
    return [time for time in times if time is not None]


@dataclass(frozen=True, slots=True)
class Class:
    """Ready jobs that may use the same tokens, at one depth: the first level of the index."""

    id: int
    depth: int
    model: str
    offers: tuple[str, ...]


def classes(rows: Rows, request: AdmitRequest) -> list[Class]:
    """The classes that a request serves at all."""
    deepest = request.limits.depth
    found = [
        row
        for pool in request.pools
        for row in rows.execute("SELECT id, depth, model, offers FROM classes WHERE pool = ?", pool)
    ]
    return [
        Class(id=n, depth=depth, model=codec.loads(model), offers=tuple(codec.loads(offers)))
        for n, depth, model, offers in found
        if (deepest is None or depth <= deepest) and (depth or not request.nested_first)
    ]


def token_for(
    one: Class, states: Mapping[str, TokenState], request: AdmitRequest, avoid: tuple[str, ...] = ()
) -> TokenState | None:
    """The token that a job of a class would get."""
    return rules.choose(
        rules.states_of(one.offers, states, request.held),
        model=one.model,
        concurrency=request.limits.per_token,
        now_ms=request.now_ms,
        avoid=avoid,
    )


class _Picker:
    """One admission's walk over the index."""

    def __init__(self, rows: Rows, request: AdmitRequest) -> None:
        self._rows = rows
        self._request = request
        self._board = Board(rows)
        self._classes = classes(rows, request)
        self._at_depth = {depth: rows.counter(f"d:{depth}") for depth in {one.depth for one in self._classes}}
        self._held_back = 0
        self._heads: dict[int, tuple[int, int]] = {}
        for one in self._classes:
            self._look(one.id)

    def _look(self, class_id: int) -> None:
        sql = "SELECT rank, seq FROM lanes WHERE class_id = ? AND is_parked = 0 ORDER BY rank, seq LIMIT 1"
        best = self._rows.execute(sql, class_id)
        if best:
            self._heads[class_id] = (best[0][0], best[0][1])
        else:
            self._heads.pop(class_id, None)

    def pick(self) -> tuple[tuple[Grant, ...], list[int]]:
        """The grants, and when cool-downs that hold up ready jobs end."""
        grants: list[Grant] = []
        room = self._room()
        while len(grants) < room and self._held_back < SWEEP:
            best = self._best()
            if best is None:
                break
            (job,) = self._rows.select("WHERE j.seq = ?", self._heads[best.id][1], whole=True)
            if self._is_beyond(job):
                self._hold(best, job)
            else:
                grants.append(self._take(best, job))
        return tuple(grants), self._resets()

    def _room(self) -> int:
        running = self._request.limits.running
        if running is None:
            return self._request.free
        return min(self._request.free, running - self._rows.counter("g"))

    def _best(self) -> Class | None:
        ready = [one for one in self._open() if token_for(one, self._board.states, self._request)]
        return min(ready, key=self._order, default=None)

    def _open(self) -> list[Class]:
        """Classes with a job that no cap holds up."""
        cap = self._request.limits.at_depth
        return [
            one for one in self._classes if one.id in self._heads and (cap is None or self._at_depth[one.depth] < cap)
        ]

    def _order(self, one: Class) -> tuple[int, tuple[int, int]]:
        return -one.depth if self._request.nested_first else 0, self._heads[one.id]

    def _is_beyond(self, job: Job) -> bool:
        total = self._request.limits.total
        return total is not None and job.ordinal > total

    def _hold(self, one: Class, job: Job) -> None:
        self._rows.save(job, lifecycle.held_back(job, self._request.now_ms), self._request.now_ms)
        self._held_back += 1
        self._look(one.id)

    def _take(self, one: Class, job: Job) -> Grant:
        rows, now_ms = self._rows, self._request.now_ms
        avoid = lifecycle.avoided(job, rows.attempt(job.id, job.epoch))
        token = token_for(one, self._board.states, self._request, avoid)
        assert token is not None
        granted = lifecycle.admitted(job, owner=self._request.owner, token=token.fingerprint)
        rows.save(job, granted, now_ms, lifecycle.admitted_event(granted, now_ms))
        rows.put_attempt(lifecycle.opened(granted, now_ms))
        self._board.use(token.fingerprint)
        self._at_depth[one.depth] += 1
        for changed in self._classes if job.batch_id else (one,):
            self._look(changed.id)
        return Grant(job=granted, epoch=granted.epoch, token=granted.token)

    def _resets(self) -> list[int]:
        if self._held_back >= SWEEP:
            return [self._request.now_ms]
        held, now_ms = self._request.held, self._request.now_ms
        resets = (
            rules.next_reset_ms(rules.states_of(one.offers, self._board.states, held), one.model, now_ms)
            for one in self._open()
        )
        return [reset for reset in resets if reset is not None]
