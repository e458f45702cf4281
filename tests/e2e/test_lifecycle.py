"""The worker's comings and goings: stopped and continued, replaced by a newer version, drained, idle, not wanted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support_processes import gone, is_running, wait_until
from support_worker import Json, Place, Session, old_version

from claude_jobs import __version__
from claude_jobs.rpc import launch, link
from claude_jobs.rpc.client import connect

pytestmark = pytest.mark.slow

MakePlace = Callable[..., Place]
FROM_TREE = "import sys; sys.path.insert(0, {tree!r}); from claude_jobs.entry import main; sys.exit(main())"


def test_stopped_worker_is_named_with_the_remedy_and_goes_on_when_continued(make_place: MakePlace) -> None:
    here = make_place()
    here.stand_in("sleep 1")
    ids = here.submit(["one", "two"])
    here.all_started(ids)
    pid = here.health()["pid"]
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()

    shown = here.command("ps")
    took_s = time.monotonic() - begun
    os.kill(pid, signal.SIGCONT)
    results = here.ended(ids)

    assert took_s < link.GREETING_TIMEOUT_S + 30
    assert shown.returncode != 0
    assert f"kill -CONT {pid}" in shown.stderr
    assert "claude-jobs doctor" in shown.stderr
    assert here.health()["pid"] == pid
    assert [result["state"] for result in results] == ["succeeded"] * 2
    assert [here.starts(job_id) for job_id in ids] == [1, 1]


def _start_old(here: Place, version: str) -> Path:
    tree = old_version(here.root, version)
    here.home.prepare()
    worker = [sys.executable, "-P", "-c", FROM_TREE.format(tree=str(tree)), "_worker", "--home", str(here.home.root)]
    argv = [*launch.keeper_argv(here.home, worker), "--detach"]
    subprocess.run(argv, env=launch.scrubbed(here.home, here.env), check=True, stderr=subprocess.DEVNULL)
    wait_until(lambda: link.is_listening(here.home))
    return tree


def _old_pids(here: Place, version: str) -> list[int]:
    """Worker and keeper, asked as one who does not want a newer one."""
    with connect(here.home, environ=here.env, start=False) as client:
        health = cast("Json", client.call("health"))
    assert health["version"] == version
    return [health["pid"], health["keeper_pid"]]


def test_newer_version_takes_over_while_the_older_one_ends_its_jobs(make_place: MakePlace) -> None:
    here = make_place()
    go_on = here.root / "go-on"
    here.stand_in(f'while [ ! -e "{go_on}" ]; do sleep 0.1; done')
    tree = _start_old(here, "0.0.1")
    session = Session(here, sys.executable, "-P", "-c", FROM_TREE.format(tree=str(tree)), "mcp")
    old_job = session.tool("spawn", prompt="long")["job_id"]
    here.all_started([old_job])
    old_pids = _old_pids(here, "0.0.1")
    here.stand_in()

    health = here.health()
    meanwhile = here.submit(["a", "b", "c"])
    results = here.ended(meanwhile)
    was_still_there = all(is_running(pid) for pid in old_pids) and here.result(old_job, 0)["state"] == "running"
    over_the_change = session.tool("status", job_ids=[old_job])
    go_on.touch()
    old_result = here.result(old_job)
    wait_until(lambda: all(gone(pid) for pid in old_pids))
    after = session.tool("result", job_id=old_job)

    assert (health["version"], health["pid"] in old_pids) == (__version__, False)
    assert was_still_there
    assert [result["state"] for result in results] == ["succeeded"] * 3
    assert over_the_change["jobs"][0]["state"] == "running"
    assert (old_result["state"], old_result["attempts"], here.starts(old_job)) == ("succeeded", 1, 1)
    assert len(here.of(old_job, "finished")) == 1
    assert "succeeded" in after["text"]
    assert here.health()["pid"] == health["pid"]


def test_queued_jobs_of_a_front_that_is_gone_go_on_with_the_successor(make_place: MakePlace) -> None:
    here = make_place(tokens=1, CLAUDE_JOBS_SLOTS="1", CLAUDE_JOBS_PASS_ENV="MY_PASSWORD")
    go_on, said = here.root / "go-on", here.root / "said"
    here.stand_in(f'while [ ! -e "{go_on}" ]; do sleep 0.1; done; echo "$MY_PASSWORD" >> "{said}"')
    _start_old(here, "0.0.1")
    theirs = {**here.env, "CLAUDE_CODE_TOKEN1": "sk-ant-oat01-of-another-shell", "MY_PASSWORD": "open sesame"}
    with connect(here.home, environ=theirs, start=False) as client:
        long, queued = here.submit(["long", "queued"], client)
    here.all_started([long])
    old_pids = _old_pids(here, "0.0.1")

    health = here.health()
    wait_until(lambda: "credentials.handed_over" in here.log())
    go_on.touch()
    results = here.ended([long, queued])

    wait_until(lambda: all(gone(pid) for pid in old_pids))
    assert health["version"] == __version__
    assert [result["state"] for result in results] == ["succeeded"] * 2
    assert here.of(queued, "admitted")[0]["owner"] != here.of(long, "admitted")[0]["owner"]
    assert said.read_text() == "open sesame\n" * 2


def test_drain_gives_running_jobs_their_grace_and_sets_the_rest_aside(make_place: MakePlace) -> None:
    here = make_place(CLAUDE_JOBS_DRAIN_SECONDS="8")
    go_on = here.root / "go-on"
    here.stand_in("sleep 1")
    short = here.submit(["short"])[0]
    here.all_started([short])
    here.stand_in(f'while [ ! -e "{go_on}" ]; do sleep 0.05; done')
    long = here.submit(["long"])[0]
    here.all_started([long])
    health = here.health()
    os.kill(health["keeper_pid"], signal.SIGTERM)
    wait_until(lambda: gone(health["keeper_pid"]) and gone(health["pid"]))
    left_behind = here.own_processes()
    go_on.touch()

    results = here.ended([short, long])

    assert left_behind == []
    assert [(one["state"], one["attempts"]) for one in results] == [("succeeded", 1)] * 2
    assert (here.starts(short), here.starts(long)) == (1, 2)
    assert [event["epoch"] for event in here.of(long, "admitted")] == [1, 2]
    assert here.health()["pid"] != health["pid"]


def test_a_second_term_cuts_the_grace_short(make_place: MakePlace) -> None:
    here = make_place(CLAUDE_JOBS_DRAIN_SECONDS="120")
    here.stand_in("sleep 300")
    job_id = here.submit(["long"])[0]
    here.all_started([job_id])
    health = here.health()
    os.kill(health["pid"], signal.SIGTERM)
    wait_until(lambda: "process.leaving" in here.log())

    os.kill(health["pid"], signal.SIGTERM)
    wait_until(lambda: gone(health["keeper_pid"]) and gone(health["pid"]))
    here.stand_in()

    assert here.ended([job_id])[0]["state"] == "succeeded"
    assert [event["epoch"] for event in here.of(job_id, "admitted")] == [1, 2]


def test_worker_leaves_when_idle_but_not_under_a_session_or_a_job(make_place: MakePlace) -> None:
    here = make_place(CLAUDE_JOBS_IDLE_SECONDS="1")
    here.stand_in("sleep 2.5")
    session = Session(here)
    health = here.health()
    time.sleep(2.5)  # longer than it may be idle: the very thing that is tested
    with_session = here.health()["pid"]
    job_id = here.submit(["x"])[0]
    here.clients.pop().close()
    session.close()
    here.all_started([job_id])
    wait_until(lambda: gone(health["pid"]) and gone(health["keeper_pid"]))

    assert with_session == health["pid"]
    assert here.own_processes() == []
    assert here.result(job_id, 0)["state"] == "succeeded"
    assert here.starts(job_id) == 1


def test_mode_none_starts_no_worker_and_says_how_to_get_one(make_place: MakePlace) -> None:
    here = make_place()
    shown = here.command("ps", CLAUDE_JOBS_WORKER="none")
    session = Session(here, CLAUDE_JOBS_WORKER="none")
    spawned = session.tool("spawn", prompt="for later")
    session.close()
    none_there = here.own_processes()

    result = here.result(spawned["job_id"])

    assert shown.returncode != 0
    assert "claude-jobs worker" in shown.stderr
    assert none_there == []
    assert result["state"] == "succeeded"
