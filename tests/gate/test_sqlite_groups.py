"""The thread in front of the gate: who shares a commit shares its fate, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gate.sqlite_asks import MINUTE, NOW, ask, go, look, outputs, put, quota, record, settlement, start

from claude_jobs.errors import InvalidRequest, StoreUnavailable
from claude_jobs.services.gate import GROUP, GateThread
from claude_jobs.stores.gate import LedgerQuery, Reserved
from claude_jobs.stores.sqlite.gate import SqliteGate, open_gate

TOO_LARGE = record("bad", at_ms=2**60)
"""Its number does not fit into the database, which is noticed after everything else was written."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteGate]:
    opened = open_gate(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def gate(store: SqliteGate) -> AsyncIterator[GateThread]:
    thread = GateThread(store)
    yield thread
    thread.close()


def commits(directory: Path) -> sqlite3.Connection:
    """Somebody else, who sees each commit as a new `data_version`."""
    return sqlite3.connect(directory / "gate.db")


async def test_what_is_asked_at_once_shares_a_commit(gate: GateThread, store: SqliteGate, tmp_path: Path) -> None:
    other = commits(tmp_path)
    held, began, versions = threading.Event(), threading.Event(), set[int]()

    def hold_up() -> None:
        began.set()
        held.wait(60)

    busy = asyncio.ensure_future(gate(hold_up))
    await asyncio.to_thread(began.wait, 60)
    waiting = [asyncio.ensure_future(gate(store.reserve, ask(f"r{n}", 1))) for n in range(GROUP)]
    await asyncio.sleep(0)
    (before,) = other.execute("PRAGMA data_version").fetchone()
    held.set()
    await busy
    for answer in asyncio.as_completed(waiting):
        await answer
        versions.add(other.execute("PRAGMA data_version").fetchone()[0])
    other.close()

    (use,) = store.uses([quota(1)], NOW)
    assert use.held == GROUP
    assert len(versions - {before}) == 1


async def test_an_operation_that_fails_undoes_only_itself(gate: GateThread, store: SqliteGate) -> None:
    await asyncio.gather(*(gate(store.reserve, ask(name, 10)) for name in ("a", "bad", "c")))
    ends = [
        gate(store.settle, settlement("a", 1)),
        gate(store.settle, replace(settlement("bad", 2), record=TOO_LARGE)),
        gate(store.ledger, LedgerQuery(by=("weather",))),
        gate(store.settle, settlement("c", 4)),
    ]
    first, bad, unknown, last = await asyncio.gather(*ends, return_exceptions=True)

    (use,) = store.uses([quota(100)], NOW)
    assert (first, last) == (True, True)
    assert isinstance(bad, OverflowError)
    assert isinstance(unknown, InvalidRequest)
    assert (use.used, use.held) == (5, 10)
    assert [call.id for call in store.calls()] == ["c", "a"]
    assert await gate(store.settle, settlement("bad", 2))


def test_so_it_is_in_the_store_itself(store: SqliteGate) -> None:
    with store.group():
        store.reserve(ask("a", 10))
        store.reserve(ask("b", 10))
        with pytest.raises(OverflowError):
            store.settle(replace(settlement("a", 1), record=TOO_LARGE))
        assert store.settle(settlement("b", 3))

    (use,) = store.uses([quota(100)], NOW)
    assert (use.used, use.held) == (3, 10)


def test_an_error_that_leaves_the_group_takes_nothing_with_it(store: SqliteGate) -> None:
    with pytest.raises(KeyError), store.group():
        store.reserve(ask("a", 10))
        raise KeyError

    assert store.settle(settlement("a", 1))


# Too much for the disk: the commit of the group fails, an operation in its middle, or the commit before a long read.
FULL = """
async def main():
    gate = GateThread(store)
    await gate(store.reserve, ask("before", 1))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = (directory / "gate.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 2_000, hard))
    first = asyncio.ensure_future(gate(time.sleep, 0.3))
    calls = [gate(store.reserve, ask(f"r{n}", 1)) for n in range(20)]
    if sys.argv[3] == "large":
        calls.insert(10, gate(store.settle, replace(settlement("", 0), put=put("k", b"z" * 9_000_000))))
    if sys.argv[3] == "read":
        calls.insert(10, gate(store.ledger, LedgerQuery()))
    ended = await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(first, return_exceptions=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for one in ended:
        print(type(one).__name__)
    again = await asyncio.gather(*(gate(store.reserve, ask(f"r{n}", 1)) for n in range(20)))
    print({type(one).__name__ for one in again})
    gate.close()
asyncio.run(main())
store.close()
"""


@pytest.mark.parametrize("what", ["small", "large", "read"])
def test_a_commit_that_fails_fails_all_who_share_it(tmp_path: Path, what: str) -> None:
    child = start(tmp_path, FULL, "child", what)
    go(child)
    ((*failed, again),) = outputs([child])

    store = open_gate(tmp_path)
    (use,) = store.uses([quota(100)], NOW)
    assert failed == ["StoreUnavailable"] * len(failed)
    assert again == "{'Reserved'}"
    assert use.held == 21
    store.close()


async def test_an_answer_is_there_for_others_when_it_is_given(
    gate: GateThread, store: SqliteGate, tmp_path: Path
) -> None:
    other = open_gate(tmp_path)

    async def spend(name: str) -> None:
        await gate(store.reserve, ask(name, 5))
        (use,) = other.uses([quota(100)], NOW)
        assert use.held >= 5
        assert await gate(store.settle, settlement(name, 3))
        assert other.call(name) is not None

    await asyncio.gather(*(spend(f"r{n}") for n in range(60)))
    other.close()


async def test_who_stops_waiting_does_not_stop_the_operation(gate: GateThread, store: SqliteGate) -> None:
    held = threading.Event()
    busy = asyncio.ensure_future(gate(held.wait, 60))
    left = asyncio.ensure_future(gate(store.reserve, ask("left", 5)))
    bad = asyncio.ensure_future(gate(store.settle, replace(settlement("", 0), record=TOO_LARGE)))
    await asyncio.sleep(0)
    left.cancel()
    bad.cancel()
    held.set()

    assert await busy
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await gate(store.settle, settlement("left", 1))


async def test_close_finishes_what_is_queued(store: SqliteGate) -> None:
    gate = GateThread(store)
    waiting = [asyncio.ensure_future(gate(store.reserve, ask(f"r{n}", 1))) for n in range(300)]
    await asyncio.sleep(0)
    gate.close()
    gate.close()

    (use,) = store.uses([quota(1)], NOW)
    assert use.held == 300
    assert {type(one) for one in await asyncio.gather(*waiting)} == {Reserved}
    with pytest.raises(StoreUnavailable, match="closed"):
        await gate(store.reserve, ask("late", 1))


def test_an_event_loop_that_has_ended_leaves_the_thread_alive(store: SqliteGate) -> None:
    gate = GateThread(store)
    held = threading.Event()

    async def leave() -> None:
        waiting = asyncio.ensure_future(gate(held.wait, 60))
        await asyncio.sleep(0)
        assert not waiting.done()

    asyncio.run(leave())
    held.set()

    assert isinstance(asyncio.run(gate_once(gate, store)), Reserved)
    gate.close()


async def gate_once(gate: GateThread, store: SqliteGate) -> object:
    return await gate(store.reserve, ask("a", 1))


def test_a_hit_in_a_group_needs_no_lock(tmp_path: Path) -> None:
    store, other = open_gate(tmp_path), open_gate(tmp_path, lock_wait_s=60)
    store.settle(replace(settlement("", 0), put=put("k")))
    with store.group():
        assert store.look(look("k")).what == "hit"
        other.reserve(ask("a", 1))
        assert store.look(look("l", lease_ms=MINUTE)).what == "lead"
        assert store.look(look("k")).what == "hit"
        assert store.look(look("l", owner="another")).what == "follow"

    other.close()
    store.close()


def test_a_long_read_in_a_group_does_not_hold_the_lock(tmp_path: Path) -> None:
    store, other = open_gate(tmp_path), open_gate(tmp_path, lock_wait_s=60)
    with store.group():
        store.reserve(ask("a", 1))
        store.ledger(LedgerQuery())
        other.reserve(ask("b", 1))
        store.reserve(ask("c", 1))

    (use,) = other.uses([quota(1)], NOW)
    assert use.held == 3
    other.close()
    store.close()
