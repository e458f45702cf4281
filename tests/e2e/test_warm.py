"""A process that waits for work belongs to its worker: it goes with it, however the worker goes."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import pytest
from support_processes import is_running, wait_until
from support_worker import Json, Place, kill_hard, rehearse

from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.services.recursion import lineage_key, lineage_secret

pytestmark = pytest.mark.slow

MakeStage = Callable[..., tuple[Place, Rehearsal]]


def ask(here: Place, prompt: str) -> Json:
    (result,) = here.ended(here.submit([prompt], tools=[], project="none", model="sonnet"))
    return result


def one_at_a_time(make_stage: MakeStage) -> tuple[Place, str]:
    """A place where a job runs that waits for `release`, so that the next one has to wait; with that job's id."""
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_TOKEN_CONCURRENCY="1")
    here.ended(here.submit(["hello"]))
    (first,) = here.submit([rehearse("first", hold=True)])
    wait_until(lambda: here.result(first, 0)["state"] == "running")
    return here, first


def release(here: Place, job_id: str) -> Json:
    """Let the API answer, as often as it is asked, until the job has ended; its result."""
    url = here.env["ANTHROPIC_BASE_URL"] + "/rehearsal/release"

    def ended() -> Json | None:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60):
            result = here.result(job_id, 0)
        return None if result["state"] in ("queued", "running") else result

    return wait_until(ended, 100)


def waiting_for(here: Place, job_id: str) -> list[int]:
    """The process that was started for the first attempt of a job."""
    mark = f"{here.home.home_id}:{here.health()['owner']}:{job_id}:1"
    return [proc.pid for proc in proctree.marked(mark)]


def warm(here: Place) -> list[int]:
    owner = here.health()["owner"]
    return [proc.pid for proc in proctree.marked(f"{here.home.home_id}:{owner}:warm:")]


@pytest.mark.parametrize("victims", [("pid",), ("keeper_pid", "pid"), ("keeper_pid",)], ids="+".join)
def test_a_waiting_process_does_not_outlive_its_worker(make_stage: MakeStage, victims: tuple[str, ...]) -> None:
    here, _ = make_stage()
    results = [ask(here, f"question {n}") for n in range(3)]
    health = here.health()
    (pid,) = warm(here)
    kill_hard(*(health[name] for name in victims))

    wait_until(lambda: not is_running(pid))
    later = ask(here, "question 3")

    assert len({result["session_id"] for result in results}) == 3
    assert later["state"] == "succeeded"
    assert pid not in warm(here)


def test_a_stopped_worker_leaves_no_waiting_process(make_stage: MakeStage) -> None:
    here, _ = make_stage()
    ask(here, "question")
    (pid,) = warm(here)
    here.call("stop", grace_s=0)

    wait_until(lambda: not is_running(pid))


def test_in_a_full_queue_the_next_job_finds_its_process_running(make_stage: MakeStage) -> None:
    here, first = one_at_a_time(make_stage)
    spawn = {"name": "mcp__claude-jobs__spawn", "input": {"prompt": "a child"}}
    tell = {"name": "Bash", "input": {"command": "echo $CLAUDE_PID", "description": "who am I"}}
    (second,) = here.submit([rehearse("{result}", tools=[spawn, tell])], tools=["Bash", "mcp__claude-jobs"])
    (pid,) = wait_until(lambda: waiting_for(here, second))
    before = here.result(second, 0)["state"]
    results = [release(here, first), *here.ended([second])]
    tree = here.call("jobs", tree=second, unread_first=False)["jobs"]
    secret = lineage_secret(lineage_key(here.home.lineage_key_file), second, 1)
    here.ended([job["job_id"] for job in tree])
    kept = [path for path in here.root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]

    assert before == "queued"
    assert [result["text"].strip() for result in results] == ["first", str(pid)]
    assert {job["parent_id"] for job in tree} == {"", second}
    assert kept == []


@pytest.mark.parametrize("victims", [("pid",), ("keeper_pid", "pid"), ("keeper_pid",)], ids="+".join)
def test_a_process_started_ahead_does_not_outlive_its_worker(make_stage: MakeStage, victims: tuple[str, ...]) -> None:
    here, first = one_at_a_time(make_stage)
    (second,) = here.submit(["second"])
    (pid,) = wait_until(lambda: waiting_for(here, second))
    health = here.health()
    kill_hard(*(health[name] for name in victims))

    wait_until(lambda: not is_running(pid))
    results = [release(here, first), *here.ended([second])]

    assert [result["state"] for result in results] == ["succeeded", "succeeded"]
    assert results[1]["text"] == "Rehearsed: second"


def test_what_was_started_for_a_job_goes_when_that_is_cancelled(make_stage: MakeStage) -> None:
    here, first = one_at_a_time(make_stage)
    (second,) = here.submit(["second"])
    (pid,) = wait_until(lambda: waiting_for(here, second))
    here.call("cancel", job_ids=[second])

    wait_until(lambda: not is_running(pid))

    assert release(here, first)["state"] == "succeeded"


ORPHAN = """env -i PATH="$PATH" setsid sh -c '(sh -c "echo \\$\\$ > {pid}; exec sleep 300" &) ; exit' < /dev/null > /dev/null 2>&1 &
while [ ! -s {pid} ]; do sleep 0.05; done"""


def test_what_a_job_left_behind_dies_while_an_older_process_runs_a_younger_job(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1)
    ask(here, "start a warm process")
    (host,) = warm(here)
    note, script = here.root / "orphan.pid", here.work / "leave.sh"
    script.write_text(ORPHAN.format(pid=note))
    leave = {"name": "Bash", "input": {"command": f"sh {script}", "description": "leave something"}}
    (job_id,) = here.submit([rehearse("left", tool=leave, delay_s=4)], tools=["Bash"])
    wait_until(note.exists, 60)
    (younger,) = here.submit([rehearse("done", hold=True)], tools=[], project="none", model="sonnet")
    wait_until(lambda: here.result(younger, 0)["state"] == "running")
    orphan = int(note.read_text())
    here.ended([job_id])

    wait_until(lambda: not is_running(orphan))
    assert warm(here) == [host]
    assert here.result(younger, 0)["state"] == "running"
    assert release(here, younger)["text"] == "done"
