"""A stage for the command: rehearsal API, fake tokens, home and worker of its own, cleared at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_command import bare_environ

from claude_jobs.cli.rehearse import Stage, rehearsed


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with rehearsed(settings={"CLAUDE_RETRY_DELAY": "0.2", "CLAUDE_JOBS_IDLE_SECONDS": "60"}) as stage:
        yield stage

    assert not stage.leftovers


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return bare_environ(tmp_path)
