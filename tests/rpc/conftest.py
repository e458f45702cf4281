"""A home of one's own and, if wanted, the stand-in worker started by a real keeper."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_processes import end, gone, wait_until

from claude_jobs.runner.paths import Home


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What a front is started with."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "CLAUDE_JOBS_HOME": str(tmp_path / "home"),
        "CLAUDE_CODE_TOKEN": "sk-ant-oat01-not-real",
    }


@pytest.fixture
def home(environ: dict[str, str]) -> Iterator[Home]:
    """The home of `environ`. In the end whatever keeper and worker run in it are stopped."""
    home = Home.resolve(environ)
    home.prepare()
    yield home
    keepers = [home.elect_lock.read_text()] if home.elect_lock.exists() else []
    log = home.root / "stand-in.log"
    workers = [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []
    for pid in (int(text) for text in keepers if text.strip()):
        end(pid, signal.SIGTERM)
        wait_until(lambda pid=pid: gone(pid))
    for pid in {int(text) for text in workers}:
        wait_until(lambda pid=pid: gone(pid))


@pytest.fixture
def worker() -> list[str]:
    """Command line of the stand-in worker."""
    return [sys.executable, str(Path(__file__).with_name("stand_in_worker.py"))]
