"""Locks of the living and the dead, with real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_jobs.services.liveness import Liveness

LIVE = """
import sys; from pathlib import Path; from claude_jobs.services.liveness import Liveness
Liveness(Path(sys.argv[1]), sys.argv[2]).acquire(); print(flush=True); input()
"""
MANY = """
import sys; from pathlib import Path; from claude_jobs.services.liveness import Liveness
for n in range(60):
    Liveness(Path(sys.argv[1]), f"{sys.argv[2]}-{n}").acquire()
print(len(Liveness(Path(sys.argv[1]), "me").dead([f"{sys.argv[2]}-{n}" for n in range(60)])), flush=True)
input()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with _start(LIVE, tmp_path, "other") as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def _start(code: str, directory: Path, owner: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", code, str(directory), owner]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_living_are_alive_and_the_killed_are_dead(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    me = Liveness(tmp_path, "me")
    me.acquire()
    before = me.dead(["me", "other", "never there"])
    other.kill()
    other.wait()

    assert before == {"never there"}
    assert me.dead(["me", "other"]) == {"other"}
    me.release()


def test_a_new_worker_clears_away_the_files_of_dead_ones_only(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (tmp_path / "killed.lock").touch()
    me = Liveness(tmp_path, "me")

    me.acquire()

    assert {path.name for path in tmp_path.iterdir()} == {"me.lock", "other.lock"}
    assert me.dead(["other", "killed"]) == {"killed"}
    me.release()
    assert {path.name for path in tmp_path.iterdir()} == {"other.lock"}


def test_workers_that_start_together_never_clear_each_other_away(tmp_path: Path) -> None:
    several = [_start(MANY, tmp_path, f"w{n}") for n in range(4)]
    said: list[bytes] = []
    for process in several:
        assert process.stdout is not None
        said.append(process.stdout.readline())
    dead = Liveness(tmp_path, "me").dead([f"w{n}-{k}" for n in range(4) for k in range(60)])
    for process in several:
        process.kill()
        process.communicate()

    # In one process each Liveness holds its lock through a descriptor of its own.
    assert said == [b"0\n"] * 4
    assert dead == frozenset()
