"""What a worker that leaves for want of work tells its keeper: a job may come while it leaves."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from stores.builders import batch, item
from support_app import environment
from support_processes import PATIENCE_S

from claude_jobs.lifecycle import WorkerProcess
from claude_jobs.runner.paths import Home
from claude_jobs.settings import load
from claude_jobs.stores.sqlite import open_sqlite

At = Callable[[str, Callable[[], object]], None]


@pytest.fixture
def at() -> Iterator[At]:
    """Has something done at the moment of an event of the log."""
    before = structlog.get_config()

    def at(event: str, act: Callable[[], object]) -> None:
        def look(_: Any, name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            if fields["event"] == event:
                act()
            raise structlog.DropEvent

        wrapper = structlog.make_filtering_bound_logger(0)
        structlog.configure(processors=[look], wrapper_class=wrapper, cache_logger_on_first_use=False)

    yield at
    structlog.configure(**before)


async def told_when_idle(root: Path) -> list[str]:
    """The words that a worker which becomes idle says to its keeper, to its end."""
    env = environment(root, CLAUDE_JOBS_IDLE_SECONDS="1")
    home = Home.resolve(env)
    home.prepare()
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(json.dumps({"op": "held", "credentials": []}).encode() + b"\n")
        worker = WorkerProcess(load(env), home, keeper_fd=theirs.detach(), with_http=False)
        async with asyncio.timeout(PATIENCE_S):
            assert await worker.run() == 0
        said = ours.recv(1 << 16, socket.MSG_DONTWAIT)  # no process ends here that would close the other end
        return [json.loads(line)["op"] for line in said.splitlines()]


def submit(root: Path) -> None:
    store = open_sqlite(Home.resolve(environment(root)).db_dir)
    store.submit(batch(item()))
    store.close()


async def test_a_worker_without_work_is_done(tmp_path: Path) -> None:
    assert (await told_when_idle(tmp_path))[-1] == "done"


async def test_a_job_that_comes_while_an_idle_worker_leaves_has_the_keeper_start_the_next(
    tmp_path: Path, at: At
) -> None:
    at("process.leaving", lambda: submit(tmp_path))

    told = await told_when_idle(tmp_path)

    assert "up" in told
    assert "done" not in told
