"""Files of version 1: read, gone on with, and shared with its code, which may still be at work during a hand-over.

`version_1.sql` is a file that its code wrote, with a job in every state; the statements below are those of its code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.builders import NOW, Desk, asking, batch, failed, item

from claude_jobs.domain.job import Failure, Grant, Job, JobState
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.stores import codec
from claude_jobs.stores.base import JobFilter
from claude_jobs.stores.sqlite import SqliteStore, open_sqlite, schema

STATES = {
    "j-ready": JobState.READY,
    "j-laterr": JobState.DELAYED,
    "j-parked": JobState.READY,
    "j-runnng": JobState.RUNNING,
    "j-childd": JobState.READY,
    "j-admttd": JobState.ADMITTED,
    "j-succed": JobState.SUCCEEDED,
    "j-failed": JobState.FAILED,
    "j-cancld": JobState.CANCELLED,
    "j-expird": JobState.EXPIRED,
    "j-retryd": JobState.DELAYED,
    "j-flaggd": JobState.RUNNING,
}
V1_COLUMNS = (
    "state, epoch, owner, class_id, batch_id, rank, submitter, key, parent_id, tags, backoff_since_ms, not_before_ms, "
    "deadline_ms, finished_ms, is_unread, permits, doc"
)
V1_MARKS = ", ".join("?" * 17)
V1_ADDED = frozenset({"ordinal", "depends_on", "needs", "on", "reopened", "trouble", "trouble_ms", "troubles"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "jobs.db", isolation_level=None) as raw:
        raw.executescript((Path(__file__).parent / "version_1.sql").read_text())
    raw.close()
    return tmp_path


@pytest.fixture
def store(directory: Path) -> Iterator[SqliteStore]:
    opened = open_sqlite(directory)
    yield opened
    report = opened.audit(0)
    opened.close()
    assert (report.drift, report.problems) == ({}, ())


def test_every_job_is_there_as_it_was(store: SqliteStore) -> None:
    jobs = {job.id: job for job in store.list(JobFilter(limit=99)).jobs}

    assert {job_id: job.state for job_id, job in jobs.items()} == STATES
    assert [(jobs[name].root_id, jobs[name].ordinal) for name in ("j-ready", "j-childd", "j-runnng")] == [
        ("j-ready", 1),
        ("j-runnng", 2),
        ("j-runnng", 1),
    ]
    assert [job.id for job in store.list(JobFilter(root_id="j-runnng")).jobs] == ["j-childd", "j-runnng"]
    assert store.find_key("uid:1", "k") == store.get("j-ready")
    assert len(store.read(0, "j-runnng")) == 4


def test_every_job_goes_on(store: SqliteStore) -> None:
    desk = Desk(store)
    running = store.get("j-runnng")

    assert store.block(running.id, 1, NOW)
    assert store.unblock(running.id, 1, NOW)
    assert desk.end(Grant(job=running, epoch=1, token=running.token))
    assert store.beat("w1", [], NOW).cancel == (("j-flaggd", "stop"),)
    lost = desk.admit(asking(owner="w3", dead=("w1", "w2"), now_ms=NOW + 10_000, held=("zzz", "aaa", "bbb", "ccc")))
    assert lost.reaped == ("j-admttd", "j-flaggd")
    assert {grant.job.id for grant in lost.grants} == {"j-admttd", "j-laterr", "j-retryd"}
    assert store.get("j-flaggd").state is JobState.CANCELLED
    reopened = store.reopen(["j-failed", "j-cancld", "j-expird"], NOW)
    assert [job.state for job in reopened] == [JobState.READY] * 3


def test_its_trees_sessions_and_dependencies_are_known(store: SqliteStore) -> None:
    desk = Desk(store)
    limits = RecursionLimits(depth=9, total=99, rate=99)
    nested = store.submit(batch(item("another", parent_id="j-runnng"), recursion=limits))[0].job
    waiting = desk.one(item("waiting", after=("j-runnng", "j-succed")))

    assert (nested.ordinal, waiting.state) == (3, JobState.WAITING)
    running = store.get("j-runnng")
    assert desk.end(Grant(job=running, epoch=1, token=running.token))
    assert store.get(waiting.id).state is JobState.READY


def test_opening_it_again_changes_nothing(directory: Path) -> None:
    open_sqlite(directory).close()
    first = (directory / "jobs.db").read_bytes()
    open_sqlite(directory).close()

    assert (directory / "jobs.db").read_bytes() == first
    with sqlite3.connect(directory / "jobs.db") as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)
        assert raw.execute("SELECT value FROM meta WHERE key = 'min_reader'").fetchone() == (1,)
    raw.close()


def v1_values(job: Job) -> tuple[str | int | None, ...]:
    """What version 1 writes for a job: its columns, and a document without the fields it does not know."""
    doc = codec.encode(job, without={"spec", "progress", "outcome", "permits", *V1_ADDED})
    ended = job.is_terminal
    return (
        job.state.value,
        job.epoch,
        job.owner,
        None,
        job.batch_id,
        job.rank,
        job.submitter,
        job.key,
        job.parent_id,
        "\x1f\x1f",
        None,
        job.not_before_ms,
        job.deadline_ms,
        job.finished_ms,
        int(ended),
        codec.dumps(job.permits),
        codec.dumps(doc),
    )


def v1_finish(raw: sqlite3.Connection, store: SqliteStore, job_id: str, state: JobState) -> None:
    """End a running job with the statements of version 1."""
    old = store.get(job_id)
    attempt = store.attempts(job_id)[-1]
    doc: codec.Doc = codec.encode(old, without=V1_ADDED)
    doc |= {"state": state.value, "finished_ms": NOW, "owner": "", "permits": []}
    ended = codec.decode(Job, doc)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute(
        "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?)",
        (job_id, attempt.epoch, 0, codec.dumps(codec.encode(attempt) | {"finished_ms": NOW})),
    )
    raw.execute(f"UPDATE jobs SET ({V1_COLUMNS}) = ({V1_MARKS}) WHERE id = ?", (*v1_values(ended), job_id))
    raw.execute("INSERT INTO outcomes VALUES (?, ?)", (job_id, "{}"))
    for key, delta in [(key, -1) for key in old.permits] + [("s:running", -1), (f"s:{state.value}", 1), ("unread", 1)]:
        raw.execute("INSERT INTO counters VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET n = n + ?", (key, delta, delta))
        raw.execute("DELETE FROM counters WHERE key = ? AND n = 0", (key,))
    raw.execute("COMMIT")


@pytest.fixture
def raw(store: SqliteStore, directory: Path) -> Iterator[sqlite3.Connection]:
    """What version 1 has open at the same time."""
    assert store.version()
    connection = sqlite3.connect(directory / "jobs.db", isolation_level=None)
    yield connection
    connection.close()


def test_an_end_that_version_1_writes_reaches_its_dependents(store: SqliteStore, raw: sqlite3.Connection) -> None:
    desk = Desk(store)
    first, second = desk.submit(item("first"), item("second"))
    grants = desk.start(asking(owner="w9"))
    last = desk.one(item("last", after=(first.id,)))
    doomed = desk.one(item("doomed", after=(second.id,)))
    v1_finish(raw, store, first.id, JobState.SUCCEEDED)
    v1_finish(raw, store, second.id, JobState.FAILED)
    before = [store.get(job.id).state for job in (last, doomed)]

    admission = desk.admit(asking(owner="w9"))

    assert set(grants) == {first.id, second.id}
    assert before == [JobState.WAITING, JobState.WAITING]
    assert [grant.job.id for grant in admission.grants] == [last.id]
    assert store.get(doomed.id).state is JobState.FAILED


def test_a_failure_that_version_1_writes_stops_its_batch(store: SqliteStore, raw: sqlite3.Connection) -> None:
    desk = Desk(store)
    first, second = (
        receipt.job
        for receipt in store.submit(batch(item("first"), item("second"), batch_id="F", max_parallel=1, fail_fast=True))
    )
    raw.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", ("F", 1))
    desk.start(asking(owner="w9"))
    v1_finish(raw, store, first.id, JobState.FAILED)

    assert desk.admit(asking(owner="w9")).grants == ()
    assert store.get(second.id).state is JobState.CANCELLED


def test_a_dependency_that_version_1_prunes_lets_nobody_wait_for_ever(
    store: SqliteStore, raw: sqlite3.Connection
) -> None:
    desk = Desk(store)
    first = desk.one(item("first"))
    desk.start(asking(owner="w9"))
    last = desk.one(item("last", after=(first.id,)))
    v1_finish(raw, store, first.id, JobState.SUCCEEDED)
    raw.execute("UPDATE counters SET n = n - 1 WHERE key IN ('s:succeeded', 'unread')")
    for table in ("specs", "outcomes", "texts", "attempts", "events"):
        raw.execute(f"DELETE FROM {table} WHERE job_id = ?", (first.id,))
    raw.execute("DELETE FROM jobs WHERE id = ?", (first.id,))
    desk.admit(asking(owner="w9"))

    ended = store.get(last.id)
    assert (ended.state, ended.outcome and ended.outcome.failure) == (JobState.FAILED, Failure.DEPENDENCY)


def test_a_job_that_version_1_accepts_is_one_of_ours(store: SqliteStore, raw: sqlite3.Connection) -> None:
    desk = Desk(store)
    pattern = store.get("j-laterr")
    theirs = codec.decode(Job, codec.encode(pattern) | {"id": "j-theirs", "root_id": "j-theirs", "session_id": "s-1"})
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO specs VALUES (?, ?)", (theirs.id, codec.to_json(theirs.spec)))
    raw.execute(f"INSERT INTO jobs (id, {V1_COLUMNS}) VALUES (?, {V1_MARKS})", (theirs.id, *v1_values(theirs)))
    raw.execute("UPDATE counters SET n = n + 1 WHERE key = 's:delayed'")
    raw.execute("COMMIT")

    assert store.get(theirs.id) == theirs
    assert store.list(JobFilter(root_id=theirs.id)).total == 1
    with pytest.raises(Exception, match="in use by j-theirs"):
        desk.one(item("go on", session_id="s-1"))
    grant = desk.run(asking(owner="w9", now_ms=NOW + 9_000, free=1))
    assert desk.end(grant, failed(Failure.REFUSED))
