"""`claude-jobs mcp` as a bridge to the real worker, over raw JSON-RPC, with a stand-in claude: crashes cost nothing but time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_processes import PATIENCE_S, gone, wait_until
from support_wire import ERAS, Wire, told
from support_worker import Json, Place, kill_hard, place

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mcp_e2e")]

UNTIL_OPEN = "while ! test -e {root}/open; do sleep 0.05; done"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, CLAUDE_JOBS_SLOTS="4") as here:
        yield here


def session(here: Place) -> Wire:
    return Wire(here.env, here.work)


def worker_of(here: Place) -> int:
    return here.health()["pid"]


def replaced(here: Place, pid: int) -> int:
    """The pid of the worker that came after `pid`."""
    wait_until(lambda: gone(pid))
    after = worker_of(here)
    assert after != pid
    return after


@pytest.mark.parametrize("era", ERAS)
def test_a_wait_survives_the_death_of_the_worker_in_the_middle_of_it(here: Place, era: str) -> None:
    here.stand_in(UNTIL_OPEN.format(root=here.root))
    with session(here) as wire:
        wire.open(era)
        wire.result("tools/list")
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        here.all_started([job_id])
        waiting = wire.ask_tool("result", job_id=job_id, wait_s=100, detail="full")
        wire.tool("status")  # the wait is with the worker when what came after it is answered
        pid = worker_of(here)
        kill_hard(pid)
        here.all_started([job_id], times=2)
        (here.root / "open").touch()
        answer = told(wire.answer(waiting))

    assert replaced(here, pid)
    assert (answer["state"], answer["job_id"]) == ("succeeded", job_id)
    assert here.starts(job_id) == 2


@pytest.mark.parametrize("era", ERAS)
def test_a_spawn_without_a_key_is_not_repeated_behind_the_clients_back(here: Place, era: str) -> None:
    with session(here) as wire:
        wire.open(era)
        pid = worker_of(here)
        os.kill(pid, signal.SIGSTOP)
        asked = wire.ask_tool("spawn", prompt="work")
        kill_hard(pid)
        answer = wire.answer(asked)
        after = wire.tool("status")

    assert "same `key`" in answer["error"]["message"]
    assert replaced(here, pid)
    assert after["text"].startswith("No jobs yet")


@pytest.mark.parametrize("era", ERAS)
def test_a_spawn_with_a_key_is_asked_again_and_makes_one_job(here: Place, era: str) -> None:
    with session(here) as wire:
        wire.open(era)
        pid = worker_of(here)
        os.kill(pid, signal.SIGSTOP)
        asked = wire.ask_tool("spawn", prompt="work", key="once")
        kill_hard(pid)
        first = told(wire.answer(asked))
        again = wire.tool("spawn", prompt="work", key="once")
        listed = wire.tool("status")

    assert replaced(here, pid)
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert [job["job_id"] for job in listed["jobs"]] == [first["job_id"]] == [again["job_id"]]


def test_a_reply_that_was_lost_with_its_session_is_recovered_by_the_key(here: Place) -> None:
    with session(here) as wire:
        wire.open("modern")
        wire.ask_tool("spawn", prompt="work", key="lost")
        wait_until(lambda: jobs(here) or None)
        wire.process.kill()
    kill_hard(worker_of(here))
    with session(here) as wire:
        wire.open("modern")
        again = wire.tool("spawn", prompt="work", key="lost")
        answer = wire.tool("result", job_id=again["job_id"], wait_s=60)

    assert again["is_new"] is False
    assert [job["job_id"] for job in jobs(here)] == [again["job_id"]]
    assert answer["text"].startswith("done")


def jobs(here: Place) -> list[Json]:
    return here.call("jobs")["jobs"]


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_wait_is_not_answered_and_its_job_goes_on(here: Place, era: str) -> None:
    here.stand_in(UNTIL_OPEN.format(root=here.root))
    with session(here) as wire:
        wire.open(era)
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        waiting = wire.ask_tool("result", job_id=job_id, wait_s=100)
        wire.notify("notifications/cancelled", requestId=waiting, reason="enough")
        here.all_started([job_id])
        during = wire.tool("status", job_ids=[job_id])
        (here.root / "open").touch()
        answer = wire.tool("result", job_id=job_id, wait_s=60)

    assert during["jobs"][0]["state"] == "running"
    assert answer["text"].startswith("done")
    assert here.starts(job_id) == 1


@pytest.mark.parametrize("how", ["eof", "SIGINT", "SIGTERM", "SIGHUP", "SIGINT and SIGTERM", "SIGKILL"])
def test_however_a_session_ends_its_job_goes_on_and_the_next_one_is_told_first(here: Place, how: str) -> None:
    here.stand_in(UNTIL_OPEN.format(root=here.root))
    with session(here) as wire:
        wire.open("modern")
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        here.all_started([job_id])
        pid = worker_of(here)
        ended_in_s = ended(wire, how)
    (here.root / "open").touch()
    wait_until(lambda: jobs(here)[0]["state"] == "succeeded")
    (here.root / "open").unlink()
    with session(here) as wire:
        wire.open("modern")
        newer_id = wire.tool("spawn", prompt="later work")["job_id"]
        listed = wire.tool("status")

    assert ended_in_s < 10
    assert worker_of(here) == pid
    assert here.starts(job_id) == 1
    assert [(job["job_id"], job.get("unread", False)) for job in listed["jobs"]] == [(job_id, True), (newer_id, False)]


def ended(wire: Wire, how: str) -> float:
    """End the session as told; the seconds it took."""
    began_at = time.monotonic()
    if how == "eof":
        assert wire.hang_up() == 0
        return time.monotonic() - began_at
    first, _, second = how.partition(" and ")
    wire.process.send_signal(signal.Signals[first])
    if second:
        time.sleep(0.1)  # the client's own delay, which is what is tested
        wire.process.send_signal(signal.Signals[second])
    wire.process.wait(PATIENCE_S)
    return time.monotonic() - began_at
