"""What SQLite keeps beside the jobs: deleted with them, and compared with them by the audit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.builders import NOW, Desk, asking, batch, item

from claude_jobs.domain.job import Failure, JobState, Outcome
from claude_jobs.policy import estimate
from claude_jobs.stores.sqlite import SqliteStore, open_sqlite, runs

LONG = "x" * 100_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_sqlite(tmp_path / "state")
    yield opened
    opened.close()


def change(tmp_path: Path, *statements: str) -> None:
    """Do to the file what no code of ours does."""
    with sqlite3.connect(tmp_path / "state" / "jobs.db", isolation_level=None) as raw:
        for statement in statements:
            raw.execute(statement)
    raw.close()


def test_text_files_go_with_their_jobs(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    desk.one(item(LONG))
    desk.end(desk.run(), Outcome(text=LONG, structured=LONG))
    texts = tmp_path / "state" / "texts"
    before = len(list(texts.iterdir()))
    store.prune(NOW + 1)

    assert before == 3
    assert list(texts.iterdir()) == []


def test_pruning_leaves_no_row_behind(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    store.submit(batch(item(key="k"), item(LONG), batch_id="B", max_parallel=1, fail_fast=True))
    root = desk.run(asking(free=1))
    desk.one(item("child", parent_id=root.job.id, after=(root.job.id,)))
    assert desk.end(root)
    for _ in range(2):
        assert desk.end(desk.run(asking(free=1)))
    store.prune(NOW + 1)

    with sqlite3.connect(tmp_path / "state" / "jobs.db") as raw:
        names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: raw.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
    raw.close()
    assert {name: n for name, n in rows.items() if n} == {"meta": 1, "sqlite_sequence": 3}


def test_the_text_of_an_outcome_goes_when_its_job_is_reopened(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    job = desk.one(item(LONG))
    grant = desk.run()
    desk.end(grant, Outcome(failure=Failure.REFUSED, text=LONG, structured=LONG))
    texts = tmp_path / "state" / "texts"
    before = len(list(texts.iterdir()))
    store.reopen([job.id], NOW)

    assert (before, len(list(texts.iterdir()))) == (3, 1)
    assert store.get(job.id).spec.prompt == LONG
    desk.end(desk.run(), Outcome(text=LONG))
    ended = store.get(job.id)
    assert ended.outcome is not None
    assert ended.outcome.text == LONG


def test_only_the_latest_run_times_are_kept(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_RUNS", 3)
    desk = Desk(store)
    desk.know()
    for duration_ms in range(1, 6):
        desk.one()
        desk.end(desk.run(), Outcome(text="x", duration_ms=duration_ms))

    assert store.run_times(estimate.kind(item().spec)) == (5, 4, 3)


def test_the_audit_removes_files_of_a_submit_that_never_committed(store: SqliteStore, tmp_path: Path) -> None:
    job = store.submit(batch(item(LONG)))[0].job
    orphan = tmp_path / "state" / "texts" / "0.txt"
    orphan.write_text("left over")
    store.audit(NOW)

    assert not orphan.exists()
    assert store.get(job.id).spec.prompt == LONG


def test_the_audit_finds_and_repairs_drift(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    store.submit(batch(item(), item(), batch_id="B", max_parallel=5))
    desk.submit(item())
    with sqlite3.connect(tmp_path / "state" / "jobs.db", isolation_level=None) as raw:
        raw.execute("UPDATE counters SET n = 7 WHERE key = 's:ready'")
        raw.execute("INSERT INTO counters VALUES ('g', 3)")
        raw.execute("DELETE FROM lanes WHERE batch_id = ''")
        raw.execute("UPDATE lanes SET is_parked = 1")
    raw.close()

    report = store.audit(NOW)
    again = store.audit(NOW)

    assert report.drift == {"s:ready": (7, 3), "g": (3, 0)}
    assert len(report.problems) == 2
    assert (again.drift, again.problems) == ({}, ())
    assert len(desk.admit().grants) == 3


def test_the_audit_says_which_row_is_wrong(store: SqliteStore, tmp_path: Path) -> None:
    job = store.submit(batch(item()))[0].job
    with sqlite3.connect(tmp_path / "state" / "jobs.db", isolation_level=None) as raw:
        raw.execute("UPDATE jobs SET owner = 'ghost'")
    raw.close()

    report = store.audit(NOW)

    assert any(job.id in problem for problem in report.problems)


def test_the_audit_repairs_the_count_of_a_tree(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    root = desk.one()
    desk.submit(item(parent_id=root.id), item(parent_id=root.id))
    change(tmp_path, "UPDATE trees SET total = 1")

    report = store.audit(NOW)

    assert report.drift == {f"tree:{root.id}": (1, 3)}
    assert desk.one(item(parent_id=root.id)).ordinal == 4
    assert store.audit(NOW).drift == {}


def test_the_audit_finds_permits_of_a_blocked_job(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    job = desk.one()
    desk.run()
    store.block(job.id, 1, NOW)
    clean = store.audit(NOW)
    change(tmp_path, """UPDATE jobs SET permits = '["g"]'""")

    assert (clean.drift, clean.problems) == ({}, ())
    assert store.audit(NOW).problems == (f"Job {job.id} holds permits without running, or runs without permits.",)


def test_the_audit_releases_who_waits_for_nothing(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    desk.know()
    first = desk.one()
    last = desk.one(item("last", after=(first.id,)))
    change(tmp_path, "DROP TRIGGER jobs_ended")
    desk.complete(first)
    stuck = store.get(last.id).state

    report = store.audit(NOW)

    assert stuck is JobState.WAITING
    assert report.problems == (f"Job {last.id} waited for dependencies that were decided.",)
    assert store.get(last.id).state is JobState.READY
    assert store.audit(NOW).problems == ()


def test_the_audit_finds_a_dependency_that_is_not_indexed(store: SqliteStore, tmp_path: Path) -> None:
    desk = Desk(store)
    first, second = desk.submit(item("first"), item("second"))
    last = desk.one(item("last", after=(first.id, second.id)))
    change(tmp_path, f"DELETE FROM deps WHERE needs_id = '{second.id}'")

    assert store.audit(NOW).problems == (f"Job {last.id} has a dependency that nothing will tell it of.",)
