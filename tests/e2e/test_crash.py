"""kill -9 of the worker, and of keeper and worker, while jobs run: all finish, once, and nothing is left behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from support_processes import gone, is_running, wait_until
from support_worker import Json, Place, kill_hard

from claude_jobs.errors import WorkerError

pytestmark = pytest.mark.slow

JOBS = 20
GRANDCHILD = """
case $((0x$(printf %s "$CLAUDE_JOBS_JOB_ID" | cksum | cut -c1-6) % 3)) in
0) setsid sh -c 'echo $$ >> "{pids}"; exec sleep 300' & ;;
esac
while [ ! -e "{go_on}" ]; do sleep 0.1; done
"""


def with_grandchildren(here: Place) -> None:
    """Jobs that run until they may go on; some start a process that leaves their group and session."""
    pids = here.root / "grandchildren"
    pids.touch()
    here.stand_in(GRANDCHILD.format(pids=pids, go_on=here.root / "go-on"))


def assert_each_finished_once(here: Place, job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        finished = here.of(job_id, "finished")
        assert [event["state"] for event in finished] == ["succeeded"], finished
    store = here.health()["store"]
    assert (store["drift"], store["problems"]) == ({}, [])


@pytest.mark.parametrize("victims", [("pid",), ("keeper_pid", "pid"), ("keeper_pid",)], ids="+".join)
def test_all_jobs_finish_once_after_kill_9(make_place: Callable[..., Place], victims: tuple[str, ...]) -> None:
    limits = ("CLAUDE_JOBS_SLOTS", "CLAUDE_JOBS_TOKEN_CONCURRENCY", "CLAUDE_MAX_CONCURRENT_AT_DEPTH")
    here = make_place(**dict.fromkeys(limits, str(JOBS)))
    with_grandchildren(here)
    ids = here.submit([f"job {n}" for n in range(JOBS)])
    here.all_started(ids)
    health = here.health()
    grandchildren = (here.root / "grandchildren").read_text().split()
    kill_hard(*(health[name] for name in victims))
    wait_until(lambda: gone(health["pid"]))
    (here.root / "go-on").touch()

    results = here.ended(ids)

    assert grandchildren
    assert {result["state"] for result in results} == {"succeeded"}
    assert {result["attempts"] for result in results} == {1}
    assert all(here.starts(job_id) == 2 for job_id in ids)
    assert_each_finished_once(here, ids)
    started = (here.root / "grandchildren").read_text().split()
    wait_until(lambda: not any(is_running(int(pid)) for pid in started))
    assert here.health()["orphans"] == []


def test_kills_at_random_moments_of_a_batch_lose_nothing(make_place: Callable[..., Place]) -> None:
    seed = 20_261_121
    print(f"seed {seed}")
    chance = random.Random(seed)
    here = make_place(CLAUDE_JOBS_SLOTS="8")
    here.stand_in("sleep 0.2")
    ids = here.submit([f"job {n}" for n in range(40)])
    over = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not over.is_set() and len(killed) < 5:
            over.wait(chance.uniform(0.1, 1.2))
            health = _health_if_any(here)
            if health and not over.is_set():
                kill_hard(*([health["keeper_pid"]] if chance.random() < 0.3 else []), health["pid"])
                killed.append(health["pid"])

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        states = _states_when_ended(here, ids)
    finally:
        over.set()
        killer.join()

    assert len(killed) >= 3
    assert set(states.values()) == {"succeeded"}
    assert_each_finished_once(here, ids)


def _health_if_any(here: Place) -> Json | None:
    try:
        return here.health()
    except WorkerError:
        return None


def _states_when_ended(here: Place, ids: Sequence[str]) -> dict[str, str]:
    """Asked again and again, as a user would whose worker keeps dying."""
    give_up_at = time.monotonic() + 240
    while time.monotonic() < give_up_at:
        try:
            jobs = here.call("jobs", ids=ids, limit=200)["jobs"]
        except WorkerError:
            continue
        states = {job["job_id"]: job["state"] for job in jobs}
        if not {"queued", "running"} & set(states.values()):
            return states
        time.sleep(0.05)
    raise AssertionError("the batch has not ended")
