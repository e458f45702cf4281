"""A home with a real detached worker for each test, proven empty at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support_worker import Place, place, real_place, rehearsing

from claude_jobs.rehearsal.script import Script
from claude_jobs.rehearsal.server import Rehearsal

MakePlace = Callable[..., Place]
MakeStage = Callable[..., tuple[Place, Rehearsal]]


@pytest.fixture
def make_place(tmp_path: Path) -> Iterator[MakePlace]:
    """Makes the test's place: `tokens` and settings of the worker as keyword arguments."""
    with ExitStack() as stack:

        def make(*, tokens: int = 3, **settings: str) -> Place:
            return stack.enter_context(place(tmp_path, tokens=tokens, **settings))

        yield make


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    """Makes a place with the real claude, and the API it talks to."""
    with ExitStack() as stack:

        def make(script: Script | None = None, *, tokens: int = 3, **settings: str) -> tuple[Place, Rehearsal]:
            api = stack.enter_context(rehearsing(script))
            return stack.enter_context(real_place(tmp_path, api, tokens=tokens, **settings)), api

        yield make
