"""SQLite's own ways to fail: disks, permissions, damaged and newer files, locks. Each error names the next step."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.builders import NOW, batch, item
from support_processes import PATIENCE_S

from claude_jobs.domain.job import JobState
from claude_jobs.errors import StoreCorrupt, StoreTooNew, StoreUnavailable
from claude_jobs.stores.base import JobFilter
from claude_jobs.stores.sqlite import SqliteStore, connection, open_sqlite, schema

TESTS = Path(__file__).parent.parent
LONG = "x" * 100_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_sqlite(tmp_path / "state")
    yield opened
    opened.close()


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_only_the_owner_may_read_the_files(store: SqliteStore, tmp_path: Path) -> None:
    store.submit(batch(item(LONG)))
    state = tmp_path / "state"

    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert modes(state) == {
        "jobs.db": 0o600,
        "jobs.db-wal": 0o600,
        "jobs.db-shm": 0o600,
        "jobs.lock": 0o600,
        "jobs.turn": 0o600,
        "texts": 0o700,
    }
    assert set(modes(state / "texts").values()) == {0o600}


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_sqlite(tmp_path).close()
    broken = (*schema.MIGRATIONS, ("CREATE TABLE extra (a)", "CREATE TABLE jobs (b)"))
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", broken)
        patched.setattr(schema, "SCHEMA", len(broken))
        with pytest.raises(sqlite3.OperationalError):
            open_sqlite(tmp_path)

    store = open_sqlite(tmp_path)
    assert store.submit(batch(item()))[0].is_new
    store.close()


@pytest.mark.parametrize("damage", [b"this is no database at all" * 1_000, b"\0" * 8_192])
def test_a_file_that_is_no_database(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "jobs.db").write_bytes(damage)

    with pytest.raises(StoreCorrupt) as broken:
        open_sqlite(tmp_path)

    assert broken.value.path == str(tmp_path / "jobs.db")
    said = broken.value.message
    assert 0 < said.find("claude-jobs worker --stop") < said.find("mv ")
    assert "claude-jobs doctor" in broken.value.message


@pytest.mark.parametrize("becomes", ["nothing", "another file"])
def test_a_file_that_was_moved_while_it_is_open_takes_no_job(store: SqliteStore, tmp_path: Path, becomes: str) -> None:
    file, aside = tmp_path / "state" / "jobs.db", tmp_path / "aside"
    before = store.submit(batch(item()))[0].job
    file.rename(aside)
    if becomes == "another file":
        file.touch()

    with pytest.raises(StoreUnavailable, match=r"deleted or replaced(.*)claude-jobs worker --stop"):
        store.submit(batch(item()))

    aside.rename(file)
    after = store.submit(batch(item()))[0].job
    assert {job.id for job in store.list(JobFilter()).jobs} == {before.id, after.id}


def test_a_damaged_page_is_called_damage(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    store.submit(batch(*(item("y" * 2_000) for _ in range(200))))
    store.close()
    content = bytearray((tmp_path / "jobs.db").read_bytes())
    content[8_192:200_000] = b"\xff" * (200_000 - 8_192)
    (tmp_path / "jobs.db").write_bytes(content)

    with pytest.raises(StoreCorrupt):
        damaged = open_sqlite(tmp_path)
        try:
            damaged.list(JobFilter(limit=200))
        finally:
            damaged.close()


@pytest.mark.parametrize("min_reader", [None, schema.SCHEMA + 1])
def test_a_newer_file_is_refused(tmp_path: Path, min_reader: int | None) -> None:
    _make_newer(tmp_path, min_reader)

    with pytest.raises(StoreTooNew) as refused:
        open_sqlite(tmp_path)

    assert (refused.value.found, refused.value.supported) == (schema.SCHEMA + 1, schema.SCHEMA)
    assert "CLAUDE_JOBS_HOME" in refused.value.message


def test_a_newer_file_that_says_we_can_use_it_is_used(tmp_path: Path) -> None:
    _make_newer(tmp_path, schema.SCHEMA)
    store = open_sqlite(tmp_path)
    job = store.submit(batch(item()))[0].job

    assert store.get(job.id) == job
    store.close()


def _make_newer(directory: Path, min_reader: int | None) -> None:
    open_sqlite(directory).close()
    with sqlite3.connect(directory / "jobs.db", isolation_level=None) as raw:
        raw.execute(f"PRAGMA user_version={schema.SCHEMA + 1}")
        raw.execute("DELETE FROM meta WHERE key = 'min_reader'")
        if min_reader is not None:
            raw.execute("INSERT INTO meta VALUES ('min_reader', ?)", (min_reader,))
    raw.close()


def test_a_lock_that_is_not_had_in_time(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path, lock_wait_s=0.05)
    job = store.submit(batch(item()))[0].job
    other = os.open(tmp_path / "jobs.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)

    with pytest.raises(StoreUnavailable) as refused:
        store.submit(batch(item()))
    with pytest.raises(StoreUnavailable):
        open_sqlite(tmp_path, lock_wait_s=0.05)

    assert refused.value.path == str(tmp_path / "jobs.lock")
    assert store.get(job.id) == job
    os.close(other)
    assert store.submit(batch(item()))[0].is_new
    store.close()


def test_it_may_be_used_from_a_worker_thread(store: SqliteStore) -> None:
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(store.submit(batch(item()))[0].job.id))
    thread.start()
    thread.join()

    assert store.get(made[0]).state is JobState.READY


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable):
        store.counts()


def test_a_fork_does_not_inherit_the_connection(store: SqliteStore) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            store.counts()
        except StoreUnavailable:
            os._exit(7)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert store.counts().by_state == {}


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that other users can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="store-fault-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_a_directory_that_may_not_be_written(shared_directory: Path) -> None:
    shared_directory.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        with pytest.raises(StoreUnavailable) as refused:
            open_sqlite(shared_directory / "state")
    finally:
        if is_root:
            os.seteuid(0)

    assert str(shared_directory) in refused.value.path
    assert "CLAUDE_JOBS_HOME" in refused.value.message


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    with pytest.raises(StoreUnavailable):
        open_sqlite(tmp_path / "state")


FILLER = """
import resource, sys
from pathlib import Path
from stores.builders import batch, item
from claude_jobs.errors import StoreUnavailable
from claude_jobs.stores.sqlite import open_sqlite
store = open_sqlite(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
text = "z" * int(sys.argv[2])
for n in range(1_000):
    try:
        print(store.submit(batch(item(text)))[0].job.id, flush=True)
    except StoreUnavailable as error:
        print("refused", error.path, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
        break
"""


@pytest.mark.parametrize("length", [3_000, 700_000])
def test_a_disk_that_is_full_refuses_and_loses_nothing(tmp_path: Path, length: int) -> None:
    command = [sys.executable, "-c", FILLER, str(tmp_path), str(length)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    *accepted, refusal = child.stdout.splitlines()

    store = open_sqlite(tmp_path)
    there = [job.id for job in reversed(store.list(JobFilter(limit=1_000)).jobs)]
    report = store.audit(NOW)

    assert refusal.startswith(f"refused {tmp_path}")
    assert accepted == there
    assert (report.drift, report.problems) == ({}, ())
    assert store.submit(batch(item("room again")))[0].is_new
    store.close()


def test_the_log_is_folded_into_the_file_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CHECKPOINT_BYTES", 200_000)
    monkeypatch.setattr(connection, "CHECKPOINT_PATIENCE", 4)
    store = open_sqlite(tmp_path)
    sizes: list[int] = []
    for _ in range(60):
        store.submit(batch(*(item("w" * 500) for _ in range(10))))
        sizes.append((tmp_path / "jobs.db-wal").stat().st_size)

    assert min(sizes[10:]) == 0
    assert max(sizes) < 1_500_000
    assert store.counts().by_state == {"queued": 600}
    store.close()


def test_a_stopped_waiter_does_not_hold_up_the_others(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    waiter = os.open(tmp_path / "jobs.turn", os.O_RDWR)
    fcntl.flock(waiter, fcntl.LOCK_EX)

    assert store.submit(batch(item()))[0].is_new
    os.close(waiter)
    store.close()
