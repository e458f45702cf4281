"""Jobs, attempts and events as rows, inside one transaction. Counters and the ready index follow every saved job here.

No caller changes a derived table: `save` works out from the job before and the job after what they must become.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from claude_jobs.domain.event import NewEvent
from claude_jobs.domain.job import Attempt, Job, JobSpec, JobState, Outcome, Progress
from claude_jobs.errors import JobNotFound
from claude_jobs.stores import codec, lifecycle
from claude_jobs.stores.sqlite.texts import Texts

Param = str | int | None

_APART = frozenset({"spec", "progress", "outcome", "permits"})
_SELECT = """SELECT j.doc, j.permits, j.progress, s.doc, o.doc FROM jobs j
    JOIN specs s ON s.job_id = j.id LEFT JOIN outcomes o ON o.job_id = j.id """
_COLUMNS = (
    "state, epoch, owner, class_id, batch_id, rank, submitter, key, parent_id, tags, backoff_since_ms, not_before_ms, "
    "deadline_ms, finished_ms, is_unread, permits, doc"
)
_MARKS = ", ".join("?" * (_COLUMNS.count(",") + 1))
_INSERT = (
    f"INSERT INTO jobs (id, root_id, created_ms, session_id, resumes, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, {_MARKS})"  # noqa: S608
)
_UPDATE = f"UPDATE jobs SET ({_COLUMNS}) = ({_MARKS}) WHERE id = ?"  # noqa: S608
TAG = "\x1f"


class Rows:
    """The rows of one open transaction."""

    def __init__(self, transaction: sqlite3.Connection, texts: Texts) -> None:
        self._transaction = transaction
        self._texts = texts
        self.dropped: list[str] = []
        """Text files that no row names any more, to be deleted once this is committed."""

    def execute(self, sql: str, *params: Param) -> list[tuple[codec.Json, ...]]:
        """All rows of one statement."""
        return self._transaction.execute(sql, tuple(map(_bindable, params))).fetchall()

    def number(self, sql: str, *params: Param) -> int | None:
        """The first column of the first row, if there is one."""
        rows = self.execute(sql, *params)
        return rows[0][0] if rows else None

    def find(self, job_id: str, *, whole: bool = False) -> Job | None:
        """The job; its long texts cut to their beginnings unless `whole`."""
        found = self.select("WHERE j.id = ?", job_id, whole=whole)
        return found[0] if found else None

    def get(self, job_id: str, *, whole: bool = False) -> Job:
        """The job. Raises JobNotFound."""
        job = self.find(job_id, whole=whole)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def held(self, job_id: str, epoch: int, *, whole: bool = False) -> Job | None:
        """The job if an owner holds it in this epoch."""
        job = self.find(job_id, whole=whole)
        return job if job and lifecycle.is_held(job, epoch) else None

    def select(self, where: str, *params: Param, whole: bool = False) -> list[Job]:
        """The jobs (alias j) that a WHERE clause names."""
        return [self._job(row, whole) for row in self.execute(_SELECT + where, *params)]

    def owned_by(self, *owners: str) -> list[Job]:
        """The jobs that owners hold, oldest first."""
        marks = ", ".join("?" * len(owners))
        held = f"SELECT seq FROM jobs INDEXED BY jobs_owner WHERE owner IN ({marks}) AND owner <> ''"  # noqa: S608
        return self.select(f"WHERE j.seq IN ({held}) ORDER BY j.seq", *owners) if owners else []

    def _job(self, row: Sequence[str], whole: bool) -> Job:
        job: codec.Doc = codec.loads(row[0])
        job["permits"] = codec.loads(row[1])
        job["progress"] = codec.loads(row[2])
        job["spec"] = self._texts.unpack(codec.loads(row[3]), whole=whole)
        if row[4]:
            job["outcome"] = self._texts.unpack(codec.loads(row[4]), whole=whole)
        return codec.decode(Job, job)

    def insert(self, job: Job, now_ms: int, event: NewEvent) -> None:
        """A new job."""
        self._put_texts("specs", job.id, job.spec)
        class_id = self._class_id(job)
        born_with = (job.id, job.root_id, job.created_ms, job.session_id, job.spec.resume_session)
        self.execute(_INSERT, *born_with, *self._values(job, class_id))
        for one in job.depends_on:
            self.execute("INSERT OR IGNORE INTO deps VALUES (?, ?)", job.id, one.job_id)
        if job.parent_id is not None:
            self.execute("INSERT OR REPLACE INTO trees VALUES (?, ?)", job.root_id, job.ordinal)
        self._log(job, now_ms, (event,))
        self._count(None, job)
        self.refresh_lane(class_id, job.batch_id)

    def save(self, old: Job, job: Job, now_ms: int, *events: NewEvent) -> None:
        """The job after a change, with everything that is derived from it."""
        class_id = self._class_id(job)
        self.execute(_UPDATE, *self._values(job, class_id), job.id)
        if job.session_id != old.session_id:
            self.execute("UPDATE jobs SET session_id = ? WHERE id = ?", job.session_id, job.id)
        if job.progress != old.progress:
            self.put_progress(job.id, job.progress)
        if job.outcome is not None and old.outcome is None:
            self._put_texts("outcomes", job.id, job.outcome)
        if job.outcome is None and old.outcome is not None:
            self._drop_outcome(job.id)
            self.execute("UPDATE jobs SET events = 0 WHERE id = ?", job.id)
        self._log(job, now_ms, events)
        self._count(old, job)
        for changed in {class_id, self._class_id(old)}:
            self.refresh_lane(changed, job.batch_id)

    def put_progress(self, job_id: str, progress: Progress) -> None:
        """What the job does now."""
        self.execute("UPDATE jobs SET progress = ? WHERE id = ?", codec.to_json(progress), job_id)

    def _put_texts(self, table: str, job_id: str, value: JobSpec | Outcome) -> None:
        doc, names = self._texts.pack(codec.encode(value))
        self.execute(f"INSERT INTO {table} VALUES (?, ?)", job_id, codec.dumps(doc))  # noqa: S608
        for name in names:
            self.execute("INSERT INTO texts VALUES (?, ?)", name, job_id)

    def _drop_outcome(self, job_id: str) -> None:
        for (doc,) in self.execute("DELETE FROM outcomes WHERE job_id = ? RETURNING doc", job_id):
            names = self._texts.names(codec.loads(doc))
            for name in names:
                self.execute("DELETE FROM texts WHERE name = ?", name)
            self.dropped += names

    def _values(self, job: Job, class_id: int | None) -> tuple[Param, ...]:
        return (
            job.state.value,
            job.epoch,
            job.owner,
            class_id,
            job.batch_id,
            job.rank,
            job.submitter,
            job.key,
            job.parent_id,
            TAG + TAG.join((job.label, *job.labels)) + TAG,
            lifecycle.sleeping_since_ms(job),
            job.not_before_ms,
            job.deadline_ms,
            job.finished_ms,
            int(is_unread(job)),
            codec.dumps(job.permits),
            codec.dumps(codec.encode(job, without=_APART)),
        )

    def _class_id(self, job: Job) -> int | None:
        """The class of a ready job, made if it is the first of its kind; None for others."""
        if job.state is not JobState.READY:
            return None
        key = codec.dumps([job.pool, job.depth, job.spec.model, job.offers])
        class_id = self.number("SELECT id FROM classes WHERE key = ?", key)
        if class_id is not None:
            return class_id
        offers = codec.dumps(job.offers)
        sql = "INSERT INTO classes (key, pool, depth, model, offers) VALUES (?, ?, ?, ?, ?) RETURNING id"
        return self.number(sql, key, job.pool, job.depth, codec.dumps(job.spec.model), offers)

    def _count(self, old: Job | None, job: Job) -> None:
        change = Counter(counted(job))
        change.subtract(counted(old) if old else ())
        for key, delta in change.items():
            if delta:
                self._bump(key, delta)

    def uncount(self, job: Job) -> None:
        """Take a job that is about to be deleted out of the counters."""
        for key in counted(job):
            self._bump(key, -1)

    def _bump(self, key: str, delta: int) -> None:
        sql = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET n = n + excluded.n RETURNING n"
        if self.number(sql, key, delta) == 0:
            self.execute("DELETE FROM counters WHERE key = ?", key)
        if key.startswith("b:"):
            self.park(key.removeprefix("b:"))

    def counter(self, key: str) -> int:
        """How many hold a limit key, or are in "s:<state>"."""
        return self.number("SELECT n FROM counters WHERE key = ?", key) or 0

    def set_batch(self, batch_id: str, max_parallel: int | None, *, fail_fast: bool) -> None:
        """Remember a batch's rules; the latest ones hold."""
        self.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", batch_id, max_parallel)
        if fail_fast:
            self.execute("INSERT OR IGNORE INTO fail_fast VALUES (?)", batch_id)
        else:
            self.execute("DELETE FROM fail_fast WHERE batch_id = ?", batch_id)
        self.park(batch_id)

    def is_fail_fast(self, batch_id: str) -> bool:
        """Whether a batch stops at its first failure."""
        return bool(self.execute("SELECT 1 FROM fail_fast WHERE batch_id = ?", batch_id))

    def take_ended(self) -> list[str]:
        """Jobs whose end concerns others that have not been told yet, in the order of their ends; told by this."""
        rows = self.execute("SELECT seq, job_id FROM ended ORDER BY seq")
        if rows:
            self.execute("DELETE FROM ended WHERE seq <= ?", rows[-1][0])
        return [job_id for _, job_id in rows]

    def park(self, batch_id: str) -> None:
        """Take a full batch's lanes out of the index, bring a free one's back."""
        is_full = self._is_full(batch_id)
        self.execute("UPDATE lanes SET is_parked = ? WHERE batch_id = ? AND is_parked <> ?", is_full, batch_id, is_full)

    def _is_full(self, batch_id: str) -> int:
        room = self.batch_room(batch_id)
        return int(room is not None and room <= 0)

    def batch_room(self, batch_id: str) -> int | None:
        """How many more of a batch may run; None if it has no cap."""
        cap = self.number("SELECT max_parallel FROM batches WHERE id = ?", batch_id) if batch_id else None
        return None if cap is None else cap - self.counter(f"b:{batch_id}")

    def refresh_lane(self, class_id: int | None, batch_id: str) -> None:
        """Make the lane show the best ready job of its batch in a class."""
        if class_id is None:
            return
        best = self.execute(
            "SELECT rank, seq FROM jobs WHERE class_id = ? AND batch_id = ? ORDER BY rank, seq LIMIT 1",
            class_id,
            batch_id,
        )
        if best:
            parked = self._is_full(batch_id)
            self.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?, ?, ?, ?)", class_id, batch_id, *best[0], parked)
        else:
            self.execute("DELETE FROM lanes WHERE class_id = ? AND batch_id = ?", class_id, batch_id)

    def _log(self, job: Job, now_ms: int, events: Sequence[NewEvent]) -> None:
        if events:
            self.log(job.id, job.epoch, now_ms, events)

    def log(self, job_id: str, epoch: int, now_ms: int, events: Iterable[NewEvent]) -> None:
        """Number and keep events."""
        rows = [(job_id, epoch, now_ms, event.kind.value, codec.dumps(dict(event.data))) for event in events]
        sql = "INSERT INTO events (job_id, epoch, at_ms, kind, data) VALUES (?, ?, ?, ?, ?)"
        self._transaction.executemany(sql, rows)
        self.execute("UPDATE jobs SET events = events + ? WHERE id = ?", len(rows), job_id)

    def attempt(self, job_id: str, epoch: int) -> Attempt | None:
        """One attempt."""
        found = self.execute("SELECT doc FROM attempts WHERE job_id = ? AND epoch = ?", job_id, epoch)
        return codec.from_json(Attempt, found[0][0]) if found else None

    def put_attempt(self, attempt: Attempt) -> None:
        """Record an attempt as it stands."""
        is_open = int(attempt.finished_ms is None)
        sql = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?)"
        self.execute(sql, attempt.job_id, attempt.epoch, is_open, codec.to_json(attempt))


def is_unread(job: Job) -> bool:
    """Whether it ended and nobody has fetched its result."""
    return job.is_terminal and job.read_ms is None


def counted(job: Job) -> tuple[str, ...]:
    """The counters that a job stands in."""
    return (*job.permits, f"s:{job.state.value}", *(("unread",) if is_unread(job) else ()))


def _bindable(param: Param) -> Param:
    """SQLite takes no lone surrogates; only ids, keys and labels of callers can have them here (documents are ASCII)."""
    if isinstance(param, str) and not param.isascii():
        return param.encode("utf-8", "backslashreplace").decode()
    return param
