"""Fronts that hang up, processes that hide, and a mixed run whose event log is audited."""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter
from collections.abc import Callable

import pytest
from support_processes import gone, is_running, wait_until
from support_worker import Json, Place, rehearse

from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.rpc import launch, offer
from claude_jobs.runner import proctree

pytestmark = pytest.mark.slow

MakePlace = Callable[..., Place]
MakeStage = Callable[..., tuple[Place, Rehearsal]]


def raw_line(here: Place, method: str, **params: object) -> socket.socket:
    """A connection on which a request was sent and no answer read."""
    sock, _ = launch.ensure_worker(here.home, here.env, offer.build(here.env, "rpc"))
    sock.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
    return sock


def test_client_that_hangs_up_while_it_waits_changes_nothing(make_place: MakePlace) -> None:
    here = make_place()
    here.stand_in(f'while [ ! -e "{here.root}/go" ]; do sleep 0.05; done')
    job_id = here.submit(["x"])[0]
    here.all_started([job_id])
    waiting = raw_line(here, "result", job_id=job_id, wait_s=60)
    assert b"running" in waiting.recv(1 << 16)
    waiting.close()
    (here.root / "go").touch()

    result = here.ended([job_id])[0]

    assert (result["state"], here.starts(job_id)) == ("succeeded", 1)
    assert here.of(job_id, "cancel_requested") == []
    wait_until(lambda: here.health()["connections"] <= 2)


def test_submit_whose_client_hangs_up_is_whole_or_not_there_and_its_key_finds_it(make_place: MakePlace) -> None:
    here = make_place()
    chance = random.Random(7)
    items = [{"prompt": f"job {n}", "key": f"k{n}", "cwd": str(here.work)} for n in range(20)]
    line = json.dumps({"id": 1, "method": "submit", "params": {"items": items, "batch": True}}).encode() + b"\n"
    seen: set[int] = set()
    for _ in range(6):
        sock, _ = launch.ensure_worker(here.home, here.env, offer.build(here.env, "rpc"))
        whole = chance.random() < 0.5
        sock.sendall(line if whole else line[: chance.randrange(len(line) - 1)])
        sock.close()
        seen.add(here.call("jobs", limit=1)["total"])

    again = here.call("submit", items=items, batch=True)
    results = here.ended([job["job_id"] for job in again["jobs"]])

    assert seen <= {0, 20}
    assert here.call("jobs", limit=1)["total"] == 20
    assert {result["state"] for result in results} == {"succeeded"}
    assert all(len(here.of(job["job_id"], "finished")) == 1 for job in again["jobs"])


DAEMON = """
env -i PATH="$PATH" setsid sh -c '(sh -c "echo \\$\\$ > {pid}; exec sleep 300" &) ; exit' < /dev/null > /dev/null 2>&1 &
while [ ! -s {pid} ]; do sleep 0.05; done
"""


def test_daemon_with_a_scrubbed_environment_ends_with_its_job(make_place: MakePlace) -> None:
    here = make_place()
    pid_file = here.root / "daemon.pid"
    here.stand_in(DAEMON.format(pid=pid_file))
    job_id = here.submit(["x"])[0]
    result = here.ended([job_id])[0]
    pid = int(pid_file.read_text())

    wait_until(lambda: gone(pid))
    assert result["state"] == "succeeded"
    assert here.health()["orphans"] == []


def test_processes_of_the_user_are_left_alone(make_place: MakePlace) -> None:
    here = make_place()
    mine = here.background("sleep", "300")
    here.stand_in(f"(kill -0 {mine}); setsid sleep 300 & echo $! > {here.root}/theirs; sleep 0.2")
    job_id = here.submit(["x"])[0]
    here.ended([job_id])
    here.stand_in("sleep 5")
    second = here.submit(["y"])[0]
    here.all_started([second])
    os.kill(here.health()["pid"], 9)
    cancelled = here.call("cancel", job_ids=[second])["jobs"][0]

    wait_until(lambda: gone(int((here.root / "theirs").read_text())))
    assert cancelled["survivors"] == []
    assert is_running(mine)


def test_every_invariant_holds_after_a_mixed_run(make_stage: MakeStage) -> None:
    here, _ = make_stage(CLAUDE_JOBS_SLOTS="6")
    client = here.client()
    kinds = {
        "plain": rehearse("plain"),
        "write": rehearse("wrote", tool={"name": "Write", "input": {"file_path": "{cwd}/note.txt", "content": "x"}}),
        "moves": rehearse("moved", fault="usage_limit", times=1, resets_in_s=2),
        "again": rehearse("again", fault="529", times=1),
        "fails": rehearse("never", fault="400"),
        "cancel": rehearse("never", duration_s=60),
    }
    plan = ["moves"] * 3 + ["again"] * 4 + ["fails"] * 4 + ["cancel"] * 7 + ["write"] * 3 + ["plain"] * 9
    random.Random(11).shuffle(plan)
    ids = here.submit([kinds[kind] for kind in plan], client, max_attempts=4)
    doomed = [job_id for job_id, kind in zip(ids, plan, strict=True) if kind == "cancel"]
    here.call("cancel", job_ids=doomed[:4])
    for job_id in doomed[4:]:
        wait_until(lambda job_id=job_id: here.result(job_id, 0)["state"] == "running")
        here.call("cancel", job_ids=[job_id])

    results = dict(zip(ids, here.ended(ids, 120), strict=True))

    logs = {job_id: here.events(job_id) for job_id in ids}
    states = Counter((kind, results[job_id]["state"]) for job_id, kind in zip(ids, plan, strict=True))
    expected = {"fails": "failed", "cancel": "cancelled"}
    assert states == Counter((kind, expected.get(kind, "succeeded")) for kind in plan)
    for job_id, events in logs.items():
        _assert_log_is_sound(events, str(results[job_id]["state"]))
    assert any(event["kind"] == "moved" or event.get("failure") == "usage_limit" for e in logs.values() for event in e)
    health = here.health()
    assert (health["store"]["drift"], health["store"]["problems"]) == ({}, [])
    assert (health["running"], health["orphans"]) == (0, [])
    assert {token["running"] for token in here.call("tokens")["tokens"]} == {0}
    left = proctree.marks_of([proc.pid for proc in proctree.marked(f"{here.home.home_id}:")]).values()
    assert [mark for mark in left if ":warm:" not in mark] == []  # those wait for the next job


def _assert_log_is_sound(events: list[Json], state: str) -> None:
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "submitted"
    assert (kinds.count("submitted"), kinds.count("finished"), kinds[-1]) == (1, 1, "finished")
    assert events[-1]["state"] == state
    epochs = [event["epoch"] for event in events if event["kind"] == "admitted"]
    assert epochs == sorted(set(epochs))
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
