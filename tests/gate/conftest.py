"""The stores under test. A new store joins the conformance suite by one line in `STORES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gate.builders import Gate

from claude_jobs.stores.gate import GateStore
from claude_jobs.stores.memory.gate import MemoryGate
from claude_jobs.stores.sqlite.gate import open_gate


def _memory(_: Path) -> GateStore:
    return MemoryGate()


def _sqlite(directory: Path) -> GateStore:
    return open_gate(directory)


STORES: dict[str, Callable[[Path], GateStore]] = {"memory": _memory, "sqlite": _sqlite}


@pytest.fixture(params=sorted(STORES))
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gate]:
    """An empty store."""
    store = STORES[request.param](tmp_path)
    yield Gate(store)
    store.close()
