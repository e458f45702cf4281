"""A gate that cannot be written for a while: what was answered is given, what it cost is booked later, nothing new begins."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support_generation import generating

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import StoreError


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Another one holds the gate's lock."""
    (path,) = root.rglob("gate.lock")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_outlives_a_gate_that_is_locked(tmp_path: Path, is_stream: bool) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        ask = place.ask(rehearse={"hold": True}, cache="off")

        async def asked() -> Answer:
            if not is_stream:
                return await place.app.generation.generate(ask)
            *_, last = [event async for event in place.app.generation.stream(ask)]
            assert isinstance(last, Answer)
            return last

        task = asyncio.create_task(asked())
        await place.api.wait_for()
        with locked(tmp_path):
            place.api.release()
            answer = await task
            refused = await place.fails("Another one.")

    (path,) = tmp_path.rglob("gate.db")
    with closing(sqlite3.connect(path)) as connection:
        counters = connection.execute("SELECT used, held FROM counters").fetchall()
        (outcome,) = connection.execute("SELECT outcome FROM calls WHERE id = ?", (answer.id,)).fetchone()

        (told,) = connection.execute("SELECT outcome FROM calls WHERE id = ?", (refused.call_id,)).fetchone()

    assert isinstance(refused, StoreError)
    assert told == refused.code
    assert counters == [(answer.completion.tokens.total, 0)]
    assert outcome == "ok"


async def test_who_leaves_while_it_is_reserved_leaves_nothing_held(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        await place.generate("The first one.")
        with locked(tmp_path):
            task = asyncio.create_task(place.generate(cache="off"))
            for _ in range(20):  # it waits for the lock by now, or is about to: both are to end well
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()

    assert quota["held"] == 0
    assert len(place.asked()) == 1
