"""`CLAUDE_JOBS_WORKER=inline`: the server and its jobs in one process, over raw JSON-RPC, with a stand-in claude."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_processes import PATIENCE_S, wait_until
from support_wire import ERAS, Wire, told
from support_worker import Place, place

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mcp_e2e")]

FIRST_HANGS = 'test "$(wc -l < {root}/started.$CLAUDE_JOBS_JOB_ID)" -gt 1 || {{ {hang}; }}'
SIGKILL_AFTER_S = 0.5
"""Claude Code sends SIGINT, SIGTERM 0.1 s later, and SIGKILL 0.4 s after that."""
BUSY = 20
"""How much slower than alone everything may be while the other tests run."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, CLAUDE_JOBS_WORKER="inline", CLAUDE_JOBS_SLOTS="4") as here:
        yield here


def hanging(here: Place, hang: str = "sleep 600") -> None:
    """The first attempt of each job hangs, the next ones answer."""
    here.stand_in(FIRST_HANGS.format(root=here.root, hang=hang.format(root=here.root)))


def session(here: Place) -> Wire:
    return Wire(here.env, here.work)


@pytest.mark.parametrize("era", ERAS)
def test_it_serves_both_eras_and_runs_jobs_itself(here: Place, era: str) -> None:
    with session(here) as wire:
        opened = wire.open(era)
        tools = [tool["name"] for tool in wire.result("tools/list")["tools"]]
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        answer = wire.tool("result", job_id=job_id, wait_s=60)["text"]
        status = wire.hang_up()

    assert "capabilities" in opened
    assert {"generate", "spawn", "batch", "status", "result", "cancel", "retry", "list_models"} == set(tools)
    assert answer.startswith("done")
    assert status == 0
    assert here.own_processes() == []


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_wait_is_not_answered_and_its_job_goes_on(here: Place, era: str) -> None:
    hanging(here)
    with session(here) as wire:
        wire.open(era)
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        here.all_started([job_id])
        waiting = wire.ask_tool("result", job_id=job_id, wait_s=100)
        wire.notify("notifications/cancelled", requestId=waiting, reason="enough")
        after = wire.tool("status", job_ids=[job_id])
        cancelled = wire.tool("cancel", job_ids=[job_id])

    assert after["jobs"][0]["state"] == "running"
    assert cancelled["jobs"][0]["state"] == "cancelled"
    assert here.own_processes() == []


def test_lines_that_are_no_messages_are_answered_and_lone_surrogates_are_taken(here: Place) -> None:
    with session(here) as wire:
        wire.open("legacy")
        wire.line(b"hello")
        refused = wire.answer(None)
        wire.line(rb'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"\ud800","arguments":{}}}')
        unknown = wire.answer(77)
        job = wire.tool("spawn", prompt="a \ud800 b")

    assert refused["error"]["code"] == -32700
    assert unknown["result"]["isError"]
    assert job["job_id"]


def test_at_the_end_of_stdin_its_jobs_are_set_aside_and_the_next_start_resumes_them(here: Place) -> None:
    hanging(here)
    with session(here) as wire:
        wire.open("modern")
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        here.all_started([job_id])
        status = wire.hang_up()
    left = here.own_processes()
    with session(here) as wire:
        wire.open("modern")
        answer = wire.tool("result", job_id=job_id, wait_s=60, detail="full")

    assert status == 0
    assert left == []
    assert (answer["state"], here.starts(job_id)) == ("succeeded", 2)


def stopped(wire: Wire, *numbers: int) -> float:
    """Send the signals, 0.1 s apart. The seconds from the first one to the end."""
    began_at = time.monotonic()
    for number in numbers:
        wire.process.send_signal(number)
        if number is not numbers[-1]:
            time.sleep(0.1)  # the client's own delay, which is what is tested
    wire.process.wait(PATIENCE_S)
    return time.monotonic() - began_at


@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGTERM)], ids=str
)
def test_a_signal_ends_it_before_the_kill_and_sets_its_jobs_aside(here: Place, numbers: tuple[int, ...]) -> None:
    hanging(here)
    with session(here) as wire:
        wire.open("legacy")
        batch = wire.tool("batch", items=[{"prompt": f"work {n}"} for n in range(3)])
        job_ids = [job["job_id"] for job in batch["jobs"]]
        here.all_started(job_ids)
        waiting = wire.ask_tool("result", job_id=job_ids[0], wait_s=100)
        took_s = stopped(wire, *numbers)
    left = here.own_processes()
    with session(here) as wire:
        wire.open("legacy")
        states = [wire.tool("result", job_id=one, wait_s=60, detail="full")["state"] for one in job_ids]

    assert waiting
    assert took_s < SIGKILL_AFTER_S * BUSY
    assert wire.process.returncode != 0
    assert left == []
    assert states == ["succeeded"] * 3


def test_a_signal_leaves_no_lock_and_the_next_start_clears_away_those_of_the_killed(here: Place) -> None:
    with session(here) as wire:
        wire.open("legacy")
        killed = [path.name for path in here.home.workers_dir.iterdir()]
        stopped(wire, signal.SIGKILL)
    with session(here) as wire:
        wire.open("legacy")
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        wire.tool("result", job_id=job_id, wait_s=60)
        ours = [path.name for path in here.home.workers_dir.iterdir()]
        stopped(wire, signal.SIGINT)

    assert len(killed) == len(ours) == 1
    assert killed != ours
    assert list(here.home.workers_dir.iterdir()) == []


@pytest.mark.parametrize("how", ["stubborn", "killed"])
def test_nothing_of_its_jobs_lives_on_when_the_next_one_starts(here: Place, how: str) -> None:
    """Jobs that ignore signals, and a server that gets no chance."""
    hanging(here, "trap '' INT TERM HUP; touch {root}/deaf; sleep 600")
    with session(here) as wire:
        wire.open("legacy")
        job_id = wire.tool("spawn", prompt="work")["job_id"]
        wait_until((here.root / "deaf").exists)
        if how == "stubborn":
            took_s = stopped(wire, signal.SIGINT, signal.SIGTERM)
            assert took_s < SIGKILL_AFTER_S * BUSY
            assert here.own_processes() == []
        else:
            stopped(wire, signal.SIGKILL)
    with session(here) as wire:
        wire.open("legacy")
        answer = told(wire.answer(wire.ask_tool("result", job_id=job_id, wait_s=60, detail="full")))
        wire.hang_up()

    assert answer["state"] == "succeeded"
    assert here.own_processes() == []
