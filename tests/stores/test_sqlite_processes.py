"""Many real processes on one SQLite store: each job exactly once, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from stores.builders import NOW, Desk, batch, item
from support_processes import PATIENCE_S

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import DependencyMode, DependencyOn, Job, JobState, PublicState, Submission
from claude_jobs.stores.base import JobFilter
from claude_jobs.stores.sqlite import SqliteStore, open_sqlite

TESTS = Path(__file__).parent.parent
PRELUDE = """
import json, os, sys, time
from pathlib import Path
from stores.builders import NOW, Desk, asking, batch, item
from claude_jobs.stores.base import JobFilter
from claude_jobs.stores.sqlite import open_sqlite
directory, me = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()  # all start together
store = open_sqlite(directory)
desk = Desk(store)
"""
SUBMITTER = """
for n in range(int(sys.argv[3])):
    print(store.submit(batch(item(f"{me} {n}"), queue_size=100_000))[0].job.id, flush=True)
store.close()
"""
WORKER = """
done = []
while True:
    grants = store.admit(asking(owner=me, free=5, per_token=100)).grants
    for grant in grants:
        if store.begin(grant.job.id, grant.epoch, None, NOW) and desk.end(grant):
            done.append(grant.job.id)
    if not grants and not store.counts().by_state.get("queued"):
        break
    if not grants:
        time.sleep(0.01)
print(json.dumps(done))
store.close()
"""


def start(directory: Path, script: str, me: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(directory), me, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        text=True,
    )


def go(children: list[subprocess.Popen[str]]) -> list[str]:
    """Let all begin at once; gives what each printed."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=3 * PATIENCE_S)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return outputs


@pytest.mark.slow
def test_four_processes_submit_hundreds_of_jobs_each_on_a_new_file(tmp_path: Path) -> None:
    outputs = go([start(tmp_path / "state", SUBMITTER, f"p{n}", "300") for n in range(4)])
    ids = [job_id for output in outputs for job_id in output.split()]

    store = open_sqlite(tmp_path / "state")
    counts, report = store.counts(), store.audit(NOW)
    store.close()
    assert len(set(ids)) == len(ids) == 1_200
    assert counts.by_state == {PublicState.QUEUED: 1_200}
    assert (report.drift, report.problems) == ({}, ())


@pytest.mark.slow
def test_four_workers_finish_hundreds_of_jobs_each_once(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    desk = Desk(store)
    desk.know()
    store.submit(batch(*(item(f"{n}") for n in range(800)), queue_size=800))

    outputs = go([start(tmp_path, WORKER, f"w{n}") for n in range(4)])
    done = [job_id for output in outputs for job_id in json.loads(output)]

    report = store.audit(NOW)
    attempts = [len(store.attempts(job_id)) for job_id in done]
    store.close()
    assert len(set(done)) == len(done) == 800
    assert set(attempts) == {1}
    assert (report.drift, report.problems) == ({}, ())


def graph(seed: int, count: int) -> list[Submission]:
    """Jobs that each come after up to three earlier ones, a few of them after the end of any kind."""
    draw = random.Random(seed)
    jobs = [item("0")]
    for n in range(1, count):
        after = tuple(f"#{draw.randrange(max(0, n - 20), n)}" for _ in range(draw.randrange(4)))
        on = draw.choice((DependencyOn.SUCCESS, DependencyOn.SUCCESS, DependencyOn.END))
        jobs.append(item(f"{n}", after=after, on=on, needs=draw.choice(tuple(DependencyMode))))
    return jobs


def check_order(store: SqliteStore, jobs: list[Job]) -> None:
    """No job was handed out before what it needs had come to what it asks for."""
    events = store.read(0, limit=100_000)
    ended = {event.job_id: event.seq for event in events if event.kind is EventKind.FINISHED}
    began = {event.job_id: event.seq for event in reversed(events) if event.kind is EventKind.ADMITTED}
    for job in jobs:
        needed = [ended[one.job_id] for one in job.depends_on]
        if needed:
            assert began[job.id] > (max(needed) if job.needs is DependencyMode.ALL else min(needed))


@pytest.mark.slow
def test_a_graph_is_worked_through_in_order_by_processes_of_which_one_is_killed(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    desk = Desk(store)
    desk.know()
    jobs = desk.submit(*graph(3, 400))
    child = start(tmp_path, WORKER.replace("done.append(grant.job.id)", "print(flush=True)"), "dead")
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    for _ in range(20):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=PATIENCE_S)

    finish_all = WORKER.replace("owner=me,", 'owner=me, dead=("dead",),')
    outputs = go([start(tmp_path, finish_all, f"w{n}") for n in range(3)])

    done = [job_id for output in outputs for job_id in json.loads(output)]
    states = Counter(job.state for job in store.list(JobFilter(limit=1_000)).jobs)
    report = store.audit(NOW)
    check_order(store, jobs)
    store.close()
    assert states == {JobState.SUCCEEDED: 400}
    assert len(set(done)) == len(done)
    assert (report.drift, report.problems) == ({}, ())


def test_many_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    for turn in range(3):
        go([start(tmp_path / f"state {turn}", "store.close()", f"p{n}") for n in range(4)])


def test_what_was_accepted_survives_kill_9(tmp_path: Path) -> None:
    for turn in range(3):
        child = start(tmp_path, SUBMITTER, f"p{turn}", "100000")
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        accepted = [child.stdout.readline().strip() for _ in range(30 + 10 * turn)]
        os.kill(child.pid, signal.SIGKILL)
        accepted += child.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1]

        store = open_sqlite(tmp_path)
        there = [store.get(job_id).state for job_id in accepted]
        report = store.audit(NOW)
        store.close()
        assert set(there) == {JobState.READY}
        assert (report.drift, report.problems) == ({}, ())


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path)
    desk = Desk(store)
    desk.know()
    desk.submit(*(item(f"{n}") for n in range(400)))
    child = start(tmp_path, WORKER.replace("done.append(grant.job.id)", "print(flush=True)"), "dead")
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    for _ in range(20):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=PATIENCE_S)

    finish_all = WORKER.replace("owner=me,", 'owner=me, dead=("dead",),')
    go([start(tmp_path, finish_all, "w2")])

    jobs = store.list(JobFilter(limit=1_000)).jobs
    report = store.audit(NOW)
    store.close()
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 400
    assert {job.attempts for job in jobs} == {1}
    assert (report.drift, report.problems) == ({}, ())
