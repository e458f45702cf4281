"""The stores under test. A new store joins the conformance suite by one line in `STORES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores.builders import Desk

from claude_jobs.stores.base import JobStore
from claude_jobs.stores.memory import MemoryStore
from claude_jobs.stores.sqlite import open_sqlite


def _memory(_: Path) -> JobStore:
    return MemoryStore()


def _sqlite(directory: Path) -> JobStore:
    return open_sqlite(directory / "state")


STORES: dict[str, Callable[[Path], JobStore]] = {"memory": _memory, "sqlite": _sqlite}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    """An empty store; at the end of every test its counters must agree with its rows."""
    opened = STORES[request.param](tmp_path)
    yield opened
    report = opened.audit(0)
    opened.close()
    assert (report.drift, report.problems) == ({}, ())


@pytest.fixture
def desk(store: JobStore) -> Desk:
    """The store with the usual tokens known."""
    desk = Desk(store)
    desk.know()
    return desk
