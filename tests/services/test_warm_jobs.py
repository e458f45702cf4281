"""Warm processes below a worker: the session on record, what a job costs, and that nothing is left when the worker leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support_app import caller, ended, environment, running_app, until
from support_cli import CLAUDE

from claude_jobs.domain.job import Grant, Job, JobState, ProjectFiles
from claude_jobs.factory import App
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.services.attempts import RunningAttempt
from claude_jobs.services.caller import Caller
from claude_jobs.services.request import JobRequest


def question(prompt: str, *, fresh: bool = False) -> JobRequest:
    return JobRequest(prompt=prompt, tools=(), project=ProjectFiles.NONE, fresh=fresh)


async def asked(app: App, who: Caller, request: JobRequest) -> tuple[Job, Job, int]:
    """The job as it was accepted, as it ended, and the pid it ran in."""
    submitted = await app.jobs.submit([request], who)
    accepted = submitted.receipts[0].job
    job = await ended(app, accepted.id)
    attempts = await app.desk.database(app.desk.store.attempts, job.id)
    process = attempts[-1].process
    assert process is not None
    return accepted, job, process.pid


def left_of(app: App) -> list[proctree.Proc]:
    return proctree.marked(f"{app.home.home_id}:")


async def test_jobs_without_tools_share_a_process_and_nothing_is_left_when_the_worker_leaves(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(CLAUDE), CLAUDE_JOBS_SLOTS="1")
    async with Rehearsal() as api:
        async with running_app(env) as app:
            who = caller(tmp_path, env, url=api.url)
            first, second, third = [await asked(app, who, question(f"question {n}")) for n in range(3)]
            alone = await asked(app, who, question("question 3", fresh=True))
            waiting = left_of(app)
        left = left_of(app)

    pids = [pid for _, _, pid in (first, second, third)]
    assert len(set(pids)) == 1
    assert [proc.pid for proc in waiting] == pids[:1]
    assert alone[2] not in pids
    assert left == []
    assert first[0].session_id == first[1].session_id
    assert alone[0].session_id == alone[1].session_id
    assert second[0].session_id != second[1].session_id
    costs = [job.usage.cost_nusd for _, job, _ in (first, second, third, alone)]
    assert 0 < max(costs) < 1.5 * min(costs)
    for accepted, job, _ in (first, second, third, alone):
        assert job.outcome is not None
        assert job.outcome.text == f"Rehearsed: {accepted.spec.prompt}"
        (transcript,) = (tmp_path / "config").glob(f"projects/*/{job.session_id}.jsonl")
        assert accepted.spec.prompt in transcript.read_text()


async def test_a_cancel_in_a_warm_process_leaves_nothing(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(CLAUDE))
    script = Script(rules=(Rule(prompt="for ever", action=Action(fault=Fault.SILENCE)),))
    async with Rehearsal(script) as api, running_app(env) as app:
        who = caller(tmp_path, env, url=api.url)
        _, _, pid = await asked(app, who, question("quick"))
        submitted = await app.jobs.submit([question("for ever")], who)
        await api.wait_for(lambda request: "for ever" in request.prompt)
        cancelled = (await app.jobs.cancel([submitted.receipts[0].job.id], "enough"))[0]
        left = left_of(app)

    assert cancelled.job.state is JobState.CANCELLED
    assert cancelled.signalled == (pid,)
    assert cancelled.survivors == ()
    assert left == []


async def test_a_job_that_failed_in_a_warm_process_is_tried_again_in_the_session_on_record(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(CLAUDE), CLAUDE_RETRY_DELAY="0.1")
    script = Script(rules=(Rule(prompt="stumble", times=1, action=Action(fault=Fault.SERVER_ERROR)),))
    async with Rehearsal(script) as api, running_app(env) as app:
        who = caller(tmp_path, env, url=api.url)
        _, _, pid = await asked(app, who, question("quick"))
        accepted, job, last_pid = await asked(app, who, question("stumble"))
        attempts = await app.desk.database(app.desk.store.attempts, job.id)

    assert job.state is JobState.SUCCEEDED
    assert (job.attempts, job.troubles, len(attempts)) == (1, 1, 2)
    assert [attempt.process.pid for attempt in attempts if attempt.process] == [pid, last_pid]
    assert pid != last_pid
    assert job.session_id != accepted.session_id
    (transcript,) = (tmp_path / "config").glob(f"projects/*/{job.session_id}.jsonl")
    assert "stumble" in transcript.read_text()
    assert "Continue." in transcript.read_text()


async def test_a_session_is_not_recorded_for_an_attempt_that_is_another_workers_by_now(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_SLOTS="0")
    async with running_app(env) as app:
        submitted = await app.jobs.submit([question("x")], caller(tmp_path, env))
        job = submitted.receipts[0].job
        zombie = RunningAttempt(app.desk, Grant(job=replace(job, epoch=9), epoch=9, token=""))
        kept = await zombie.session("8a0c85ce-4c15-445f-b208-b7586fad7b8b")
        stored = await app.jobs.get(job.id)

    assert not kept
    assert stored.session_id == job.session_id


async def test_the_environment_of_another_folder_is_not_shared(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(CLAUDE))
    (tmp_path / "elsewhere").mkdir()
    async with Rehearsal() as api, running_app(env) as app:
        who = caller(tmp_path, env, url=api.url)
        there = replace(who, cwd=str(tmp_path / "elsewhere"))
        prouder = replace(who, env=tuple(sorted({**dict(who.env), "LANG": "eo"}.items())))
        requests = [(who, ""), (there, ""), (prouder, ""), (who, "haiku")]
        pids = [
            (await asked(app, one, question("x").model_copy(update={"model": model})))[2] for one, model in requests
        ]
        await until(lambda: len(left_of(app)) == 4)

    assert len(set(pids)) == 4
