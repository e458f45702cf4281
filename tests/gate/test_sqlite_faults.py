"""The gate's own ways to fail: disks, permissions, damaged, newer and vanished files, locks. Each error names the next step."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gate.sqlite_asks import MINUTE, NOW, ask, go, look, outputs, put, quota, settlement, start

from claude_jobs.errors import StoreCorrupt, StoreTooNew, StoreUnavailable
from claude_jobs.stores.gate import LedgerQuery, Reserved
from claude_jobs.stores.sqlite import connection
from claude_jobs.stores.sqlite.gate import SqliteGate, open_gate, schema
from claude_jobs.stores.sqlite.gate import store as opening


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteGate]:
    opened = open_gate(tmp_path / "state")
    yield opened
    opened.close()


def test_only_the_owner_may_read_the_files(store: SqliteGate, tmp_path: Path) -> None:
    store.reserve(ask("a", 1))
    state = tmp_path / "state"

    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {
        "gate.db": 0o600,
        "gate.db-wal": 0o600,
        "gate.db-shm": 0o600,
        "gate.lock": 0o600,
        "gate.turn": 0o600,
    }


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_gate(tmp_path).close()
    with monkeypatch.context() as patched:
        patched.setattr(
            schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE extra (a)", "CREATE TABLE calls (b)"))
        )
        with pytest.raises(sqlite3.OperationalError):
            open_gate(tmp_path)

    store = open_gate(tmp_path)
    assert isinstance(store.reserve(ask("a", 1)), Reserved)
    store.close()


@pytest.mark.parametrize("damage", [b"this is no database at all" * 1_000, b"\0" * 8_192])
def test_a_file_that_is_no_database(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "gate.db").write_bytes(damage)

    with pytest.raises(StoreCorrupt) as broken:
        open_gate(tmp_path)

    assert broken.value.path == str(tmp_path / "gate.db")
    assert "mv " in broken.value.message


def test_a_damaged_page_is_called_damage(tmp_path: Path) -> None:
    store = open_gate(tmp_path)
    for n in range(300):
        store.settle(replace(settlement("", 0), record=replace(settlement(f"c{n}", 0).record, steps="y" * 1_000)))  # type: ignore[type-var]
    store.close()
    content = bytearray((tmp_path / "gate.db").read_bytes())
    content[65_536:300_000] = b"\xff" * (300_000 - 65_536)
    (tmp_path / "gate.db").write_bytes(content)

    with pytest.raises(StoreCorrupt):
        damaged = open_gate(tmp_path)
        try:
            damaged.ledger(LedgerQuery())
        finally:
            damaged.close()


@pytest.mark.parametrize("min_reader", [None, schema.SCHEMA + 1])
def test_a_newer_file_is_refused(tmp_path: Path, min_reader: int | None) -> None:
    make_newer(tmp_path, min_reader)

    with pytest.raises(StoreTooNew) as refused:
        open_gate(tmp_path)

    assert (refused.value.found, refused.value.supported) == (schema.SCHEMA + 1, schema.SCHEMA)


def test_a_newer_file_that_says_we_can_use_it_is_used(tmp_path: Path) -> None:
    make_newer(tmp_path, schema.SCHEMA)
    store = open_gate(tmp_path)

    assert isinstance(store.reserve(ask("a", 1)), Reserved)
    store.close()


def make_newer(directory: Path, min_reader: int | None) -> None:
    open_gate(directory).close()
    with sqlite3.connect(directory / "gate.db", isolation_level=None) as raw:
        raw.execute(f"PRAGMA user_version={schema.SCHEMA + 1}")
        raw.execute("DELETE FROM meta WHERE key = 'min_reader'")
        if min_reader is not None:
            raw.execute("INSERT INTO meta VALUES ('min_reader', ?)", (min_reader,))
    raw.close()


def test_a_lock_that_is_not_had_in_time_refuses_writes_and_no_reads(tmp_path: Path) -> None:
    store = open_gate(tmp_path, lock_wait_s=0.05)
    store.settle(replace(settlement("", 0), put=put("k")))
    other = os.open(tmp_path / "gate.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)

    with pytest.raises(StoreUnavailable) as refused:
        store.reserve(ask("a", 1))
    with pytest.raises(StoreUnavailable):
        open_gate(tmp_path, lock_wait_s=0.05)

    assert refused.value.path == str(tmp_path / "gate.lock")
    assert store.look(look("k")).what == "hit"
    os.close(other)
    assert isinstance(store.reserve(ask("a", 1)), Reserved)
    store.close()


def test_a_group_asks_for_a_lock_that_is_not_had_only_once(tmp_path: Path) -> None:
    store = open_gate(tmp_path, lock_wait_s=0.05)
    other = os.open(tmp_path / "gate.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    refused: list[StoreUnavailable] = []

    with store.group():
        for n in range(3):
            with pytest.raises(StoreUnavailable) as raised:
                store.reserve(ask(f"r{n}", 1))
            refused.append(raised.value)
            assert store.look(look("k", owner="")).what == "miss"

    assert refused[0] is refused[1] is refused[2]
    os.close(other)
    store.close()


@pytest.mark.parametrize("becomes", ["nothing", "another"])
def test_a_file_that_was_deleted_while_it_is_open_is_told(tmp_path: Path, becomes: str) -> None:
    store = open_gate(tmp_path)
    store.settle(replace(settlement("", 0), put=put("k")))
    (tmp_path / "gate.db").rename(tmp_path / "moved.db")
    if becomes == "another":
        (tmp_path / "gate.db").write_bytes(b"")

    for operation in (lambda: store.reserve(ask("a", 1)), lambda: store.look(look("k")), lambda: store.uses([], NOW)):
        with pytest.raises(StoreUnavailable) as refused:
            operation()
        assert "deleted or replaced" in refused.value.message
        assert "claude-jobs worker --stop" in refused.value.message

    (tmp_path / "moved.db").rename(tmp_path / "gate.db")
    assert isinstance(store.reserve(ask("a", 1)), Reserved)
    store.close()


def test_it_may_be_used_from_a_worker_thread(store: SqliteGate) -> None:
    made: list[object] = []
    thread = threading.Thread(target=lambda: made.append(store.reserve(ask("a", 1))))
    thread.start()
    thread.join()

    assert made == [Reserved(id="a")]


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_gate(tmp_path)
    store.close()
    store.close()

    for operation in (lambda: store.reserve(ask("a", 1)), store.cache_stats):
        with pytest.raises(StoreUnavailable, match="closed"):
            operation()


def test_a_fork_does_not_inherit_the_connection(store: SqliteGate) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            store.cache_stats()
        except StoreUnavailable:
            os._exit(7)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert store.cache_stats().entries == 0


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that other users can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="gate-fault-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("has_file", [False, True])
def test_a_directory_that_may_not_be_written(shared_directory: Path, has_file: bool) -> None:
    if has_file:
        open_gate(shared_directory).close()
    shared_directory.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        with pytest.raises(StoreUnavailable) as refused:
            open_gate(shared_directory if has_file else shared_directory / "state")
    finally:
        if is_root:
            os.seteuid(0)
        shared_directory.chmod(0o755)

    assert str(shared_directory) in refused.value.path
    assert "CLAUDE_JOBS_HOME" in refused.value.message


FILLER = """
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, hard))
value, n = b"z" * int(sys.argv[3]), 0
while n < 1_000:
    try:
        store.reserve(ask(f"r{n}", 2))
        store.settle(replace(settlement(f"r{n}", 1), put=put(f"k{n}", value)))
    except StoreUnavailable as error:
        print("refused", error.path)
        break
    print(f"r{n}")
    n += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert store.settle(settlement(f"r{n}", 1)) or store.reserve(ask(f"r{n}", 2)) and store.settle(settlement(f"r{n}", 1))
print(f"r{n}")
store.close()
"""


@pytest.mark.parametrize("length", [3_000, 5_000_000])
def test_a_disk_that_is_full_refuses_and_loses_nothing(tmp_path: Path, length: int) -> None:
    child = start(tmp_path, FILLER, "child", str(length))
    go(child)
    (said,) = outputs([child])
    refusal = said.pop(-2)

    store = open_gate(tmp_path)
    (use,) = store.uses([quota(1)], NOW + 2 * MINUTE)
    lines = {call.id for call in store.calls(limit=10_000)}

    assert refusal == f"refused {tmp_path / 'gate.db'}"
    assert lines == set(said)
    assert (use.used, use.held) == (len(said), 0)
    store.close()


def test_the_log_is_folded_into_the_file_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LOG_BYTES", 200_000)
    monkeypatch.setattr(connection, "CHECKPOINT_PATIENCE", 4)
    store = open_gate(tmp_path)
    sizes: list[int] = []
    for n in range(60):
        store.settle(replace(settlement("", 0), put=put(f"k{n}", b"w" * 5_000)))
        sizes.append((tmp_path / "gate.db-wal").stat().st_size)

    assert min(sizes[10:]) == 0
    assert max(sizes) < 1_500_000
    assert store.cache_stats().entries == 60
    store.close()
