"""The keeper as a real process with stand-in workers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_processes import PATIENCE_S, end, gone, is_running, wait_until

from claude_jobs.runner import paths
from claude_jobs.runner.paths import Home

KEEPER = Path(paths.__file__).with_name("keeper.py")
STAND_IN = Path(__file__).with_name("stand_in.py")
CRASH = ["/bin/bash", "-c", """echo '{"pid":'$$',"event":"started"}' >> "$0"; exit 1"""]
"""Whether a death was quick is asked by the clock: this one starts at once, whatever else runs."""
UP_AND_CRASH = [*CRASH[:2], """echo '{"op":"up"}' >&"$2"; """ + CRASH[2]]
SHELLS = {"crash": UP_AND_CRASH, "never up": CRASH}


class Kept:
    """One keeper under test."""

    def __init__(self, home: Home, behaviour: str, *options: str) -> None:
        self.journal_file = home.root / "journal"
        self._log = home.logs_dir / "keeper.log"
        argv = SHELLS.get(behaviour, [sys.executable, str(STAND_IN), behaviour])
        worker = json.dumps([*argv, str(self.journal_file)])
        argv = [sys.executable, *options, str(KEEPER), "--home", str(home.root), "--worker", worker]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")

    def journal(self) -> list[dict[str, Any]]:
        return _json_lines(self.journal_file)

    def log(self, event: str) -> list[dict[str, Any]]:
        return [line for line in _json_lines(self._log) if line["event"] == event]

    def started(self, count: int = 1) -> dict[str, Any]:
        """The journal line of the n-th start."""
        return wait_until(lambda: [line for line in self.journal() if line["event"] == "started"][count - 1 : count])[0]

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)


def _json_lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)})
    home.prepare()
    return home


@pytest.fixture
def keep(home: Home) -> Iterator[Callable[..., Kept]]:
    running: list[Kept] = []

    def start(behaviour: str, *options: str) -> Kept:
        running.append(Kept(home, behaviour, *options))
        return running[-1]

    yield start
    for kept in running:
        end(kept.process.pid, signal.SIGTERM)
        end(kept.process.pid, signal.SIGTERM)
        kept.ended()
    for line in (line for kept in running for line in kept.journal()):
        wait_until(lambda pid=line["pid"]: gone(pid))


def test_a_killed_worker_is_restarted_at_once_with_its_secrets_and_without_its_tree(keep: Callable[..., Kept]) -> None:
    kept = keep("family", "-I", "-S")
    first = kept.started()
    assert all(is_running(pid) for pid in first["family"])

    os.kill(first["pid"], signal.SIGKILL)
    second = kept.started(2)

    assert [line["restart_in_s"] for line in kept.log("worker.died")] == [0.0]
    assert not [pid for pid in first["family"] if is_running(pid)]
    assert second["orphans"] == 3
    assert second["held"] == [{"name": "A", "secret": "s1" + "x" * 300_000}]


def test_the_tree_of_a_worker_that_ends_on_request_is_killed_too(keep: Callable[..., Kept]) -> None:
    kept = keep("family")
    family = kept.started()["family"]

    kept.process.send_signal(signal.SIGTERM)

    assert kept.ended() == 128 + signal.SIGTERM
    assert not [pid for pid in family if is_running(pid)]


def test_a_stopped_tree_dies_as_well(keep: Callable[..., Kept]) -> None:
    kept = keep("family")
    first = kept.started()
    for pid in first["family"]:
        os.kill(pid, signal.SIGSTOP)

    os.kill(first["pid"], signal.SIGKILL)
    kept.started(2)

    assert not [pid for pid in first["family"] if is_running(pid)]


def test_the_worker_learns_of_the_keepers_death(keep: Callable[..., Kept]) -> None:
    kept = keep("waits")
    worker = kept.started()["pid"]

    kept.process.kill()

    assert wait_until(lambda: [line for line in kept.journal() if line["event"] == "keeper gone"])[0]["pid"] == worker
    wait_until(lambda: gone(worker))


def test_the_worker_has_its_own_group_and_no_stdin(keep: Callable[..., Kept]) -> None:
    started = keep("waits").started()

    assert started["stdin"] == "/dev/null"
    assert started["group"] == started["pid"]


def test_of_two_keepers_one_stays(keep: Callable[..., Kept]) -> None:
    first = keep("waits")
    first.started()

    second = keep("waits")

    assert second.ended() == 3
    assert len(first.journal()) == 1


def test_released_the_election_is_free_while_the_worker_runs_on(keep: Callable[..., Kept]) -> None:
    old = keep("release")
    first = old.started()
    wait_until(lambda: old.log("election.released"))

    new = keep("waits")

    assert new.started(2)["pid"] != first["pid"]
    assert is_running(first["pid"])


def test_a_released_worker_is_not_restarted(keep: Callable[..., Kept]) -> None:
    kept = keep("release")

    os.kill(kept.started()["pid"], signal.SIGKILL)

    assert kept.ended() == 128 + signal.SIGKILL
    assert len(kept.journal()) == 1


def test_the_keeper_leaves_with_a_worker_that_is_done(keep: Callable[..., Kept]) -> None:
    kept = keep("done")

    assert kept.ended() == 0
    assert len(kept.journal()) == 1


def test_a_worker_that_cannot_be_configured_is_not_restarted(keep: Callable[..., Kept]) -> None:
    kept = keep("config")

    assert kept.ended() == os.EX_CONFIG
    assert len(kept.journal()) == 1


def test_a_missing_interpreter_is_logged_and_soon_given_up(home: Home) -> None:
    argv = [sys.executable, str(KEEPER), "--home", str(home.root), "--worker", '["/nowhere/python"]']
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stderr is not None
    with process.stderr as log:
        events = [json.loads(line)["event"] for line in log]

    assert process.wait(timeout=PATIENCE_S) == 4
    assert events == [*["worker.cannot_start", "worker.died"] * 2, "worker.cannot_start", "keeper.gave_up"]


def test_a_worker_that_never_served_is_given_up_after_three_quick_deaths(keep: Callable[..., Kept]) -> None:
    kept = keep("never up")

    assert kept.ended() == 4
    assert [line["restart_in_s"] for line in kept.log("worker.died")] == [0.0, 0.0]
    assert len(kept.journal()) == 3


def test_quick_deaths_are_restarted_twice_at_once_and_then_slower(keep: Callable[..., Kept]) -> None:
    kept = keep("crash")

    died = wait_until(lambda: kept.log("worker.died")[:4] if len(kept.log("worker.died")) > 3 else None)

    assert [line["restart_in_s"] for line in died] == [0.0, 0.0, 0.5, 1.0]
    assert {1} == {line["code"] for line in died}


@pytest.mark.slow
def test_after_eight_quick_deaths_the_keeper_gives_up_and_says_so(keep: Callable[..., Kept]) -> None:
    kept = keep("crash")

    assert kept.process.wait(timeout=2 * PATIENCE_S) == 4
    assert len(kept.journal()) == 8
    assert "worker.log" in kept.log("keeper.gave_up")[0]["advice"]


def test_a_second_signal_kills_a_worker_that_does_not_stop(keep: Callable[..., Kept]) -> None:
    kept = keep("stubborn")
    worker = kept.started()["pid"]

    kept.process.send_signal(signal.SIGINT)
    wait_until(lambda: kept.log("keeper.stopping"))
    assert is_running(worker)
    kept.process.send_signal(signal.SIGTERM)

    assert kept.ended() == 128 + signal.SIGKILL
    assert not is_running(worker)


def test_noise_on_the_link_is_survived(keep: Callable[..., Kept]) -> None:
    kept = keep("noise")
    kept.started()

    wait_until(lambda: len(kept.log("worker.unreadable_line")) == 2)

    assert kept.process.poll() is None


def test_the_keeper_hides_its_memory_and_writes_no_core(keep: Callable[..., Kept]) -> None:
    kept = keep("waits")
    kept.started()
    limits = Path(f"/proc/{kept.process.pid}/limits").read_text()

    assert resource.prlimit(kept.process.pid, resource.RLIMIT_CORE)[0] == 0
    assert "Max core file size        0 " in limits


def test_secrets_are_in_no_file_of_the_home(keep: Callable[..., Kept], home: Home) -> None:
    kept = keep("family")
    kept.started()
    os.kill(kept.started()["pid"], signal.SIGKILL)
    kept.started(2)
    kept.journal_file.unlink()

    for file in home.root.rglob("*"):
        assert not file.is_file() or b"xxxxxxxx" not in file.read_bytes()


def test_a_log_that_has_grown_too_long_is_set_aside(keep: Callable[..., Kept], home: Home) -> None:
    log = home.logs_dir / "worker.log"
    log.write_bytes(b"x" * (9 << 20))
    kept = keep("waits")

    os.kill(kept.started()["pid"], signal.SIGKILL)
    kept.started(2)

    assert log.stat().st_size < 1 << 20
    assert (home.logs_dir / "worker.log.1").stat().st_size == 9 << 20
