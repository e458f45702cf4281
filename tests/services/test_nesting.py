"""Jobs that spawn jobs, as the services see them: a caller inside a job, on the real parts with a stand-in claude."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Job, JobState
from claude_jobs.errors import InvalidRequest, JobNotFound, NotPermitted, RecursionRefused
from claude_jobs.factory import App
from claude_jobs.services import worker
from claude_jobs.services.caller import Caller
from claude_jobs.services.orders import order_of
from claude_jobs.services.request import JobRequest
from claude_jobs.stores.base import JobFilter
from tests.support_app import caller, ended, environment, running_app, stand_in

HOLD = """
case "$line" in *hold*) while [ ! -e "$TMPDIR/go" ]; do sleep 0.05; done;; esac
case "$line" in *fail*)
    echo '{"type":"result","subtype":"success","is_error":true,"result":"API Error: 400","api_error_status":400}'
    exit 1;;
esac
printf '%s' "$line" > "$TMPDIR/said.$CLAUDE_JOBS_JOB_ID"
"""


def place(tmp_path: Path, **settings: str) -> dict[str, str]:
    """An environment whose claude holds on `hold` until TMPDIR/go exists, fails on `fail`, and notes what it was told."""
    return environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=HOLD)), **settings)


async def submit(app: App, who: Caller, prompt: str, **fields: object) -> Job:
    submitted = await app.jobs.submit([JobRequest.parse({"prompt": prompt, **fields})], who)
    return submitted.receipts[0].job


async def running(app: App, job_id: str) -> Job:
    while (job := await app.jobs.get(job_id)).state is not JobState.RUNNING:
        assert not job.is_terminal, job
        await asyncio.sleep(0.02)
    return job


async def last_of(app: App, job_id: str, who: Caller) -> Job:
    """What somebody sees at last who waits for it."""
    job = await app.jobs.get(job_id)
    async for situation in app.jobs.wait(job_id, 60, who):
        job = situation.job
    return job


async def test_with_one_slot_three_levels_of_waiting_parents_finish(tmp_path: Path) -> None:
    env = place(tmp_path, CLAUDE_JOBS_SLOTS="1", CLAUDE_JOBS_TOKEN_CONCURRENCY="1")
    async with running_app(env) as app:
        outside = caller(tmp_path, env, tokens=1)
        levels = [await running(app, (await submit(app, outside, "hold 0")).id)]
        waits: list[asyncio.Task[Job]] = []
        for depth in (1, 2, 3):
            inside = replace(outside, inside_job=levels[-1].id)
            child = await submit(app, inside, f"hold {depth}")

            async def wait(who: Caller = inside, target: str = child.id) -> Job:
                async for situation in app.jobs.wait(target, 60, who):
                    if situation.job.is_terminal:
                        return situation.job
                raise AssertionError(target)

            waits.append(asyncio.create_task(wait()))
            levels.append(await running(app, child.id))
        states = [(await app.jobs.get(job.id)).state for job in levels]
        permits = [(await app.jobs.get(job.id)).permits for job in levels]
        (tmp_path / "tmp" / "go").touch()
        await asyncio.gather(*waits)
        ends = [await ended(app, job.id) for job in levels]
        report = await app.desk.database(app.desk.store.audit, app.desk.clock())

    assert states == [JobState.BLOCKED] * 3 + [JobState.RUNNING]
    assert permits[:3] == [()] * 3
    assert [job.state for job in ends] == [JobState.SUCCEEDED] * 4
    assert [job.depth for job in ends] == [0, 1, 2, 3]
    assert len({job.root_id for job in ends}) == 1
    assert not report.drift and not report.problems


WORKS_ON = """
case "$line" in *root*)
    while [ ! -e "$TMPDIR/on" ]; do sleep 0.02; done
    for n in 2 3; do echo '{"type":"assistant","message":{"id":"m'$n'","model":"m","content":[]}}'; done
    while [ ! -e "$TMPDIR/go" ]; do sleep 0.02; done;;
esac
"""


async def test_a_job_that_works_on_while_it_waits_in_the_background_has_its_places_and_clocks_again(
    tmp_path: Path,
) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body=WORKS_ON)))
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "root", timeout_s=60)).id)
        inside = replace(outside, inside_job=root.id)
        child = await submit(app, inside, "later", not_before="365d")
        waiting = asyncio.create_task(last_of(app, child.id, inside))
        while (blocked := await app.jobs.get(root.id)).state is not JobState.BLOCKED:
            await asyncio.sleep(0.02)
        (tmp_path / "tmp" / "on").touch()
        works = await running(app, root.id)
        attempt = app.worker.attempt(root.id)
        is_held = attempt is not None and attempt.is_held
        waiting.cancel()
        await asyncio.wait([waiting])
        after = await app.jobs.get(root.id)
        (tmp_path / "tmp" / "go").touch()
        end = await ended(app, root.id)
        kinds = [event.kind async for event in app.jobs.follow(0, root.id)]
        await app.jobs.cancel([child.id], "enough")
        report = await app.desk.database(app.desk.store.audit, app.desk.clock())

    assert (blocked.state, blocked.permits) == (JobState.BLOCKED, ())
    assert works.permits == after.permits != ()
    assert not is_held
    assert end.state is JobState.SUCCEEDED
    assert (kinds.count(EventKind.BLOCKED), kinds.count(EventKind.UNBLOCKED)) == (1, 1)
    assert not report.drift and not report.problems


async def test_limits_hold_inside_a_tree_and_say_the_way_out(tmp_path: Path) -> None:
    env = place(tmp_path, CLAUDE_MAX_RECURSION_DEPTH="1", CLAUDE_MAX_TOTAL_JOBS="3")
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        child = await submit(app, inside, "hold child")
        with pytest.raises(RecursionRefused) as deep:
            await submit(app, replace(outside, inside_job=child.id), "too deep")
        with pytest.raises(RecursionRefused) as cycle:
            await submit(app, inside, " HOLD ")
        await submit(app, inside, "another")
        with pytest.raises(RecursionRefused) as total:
            await submit(app, inside, "one more")
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    assert (deep.value.limit, cycle.value.limit, total.value.limit) == ("depth", "cycle", "total")
    assert "CLAUDE_MAX_TOTAL_JOBS" in total.value.message
    assert deep.value.chain == (root.id, child.id)


async def test_a_job_that_was_forbidden_to_spawn_does_not_by_whatever_way(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        forbidden = await running(app, (await submit(app, outside, "hold 1", nest=False)).id)
        without = await running(app, (await submit(app, outside, "hold 2", tools=["Read"])).id)
        with pytest.raises(RecursionRefused) as refused:
            await submit(app, replace(outside, inside_job=forbidden.id), "child", nest=True)
        child = await submit(app, replace(outside, inside_job=without.id), "child")
        (tmp_path / "tmp" / "go").touch()
        for job in (forbidden, without, child):
            await ended(app, job.id)

    assert refused.value.limit == "nest"
    assert (without.spec.nest, child.parent_id) == (False, without.id)


async def test_a_job_sees_and_steers_its_own_tree_only(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        other = await submit(app, outside, "theirs")
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        child = await submit(app, inside, "hold child")
        page, _ = await app.jobs.list(JobFilter(), inside)
        with pytest.raises(JobNotFound):
            await app.jobs.get(other.id, inside)
        with pytest.raises(JobNotFound):
            await submit(app, inside, f"Repeat {{{{{other.id}.result}}}}")
        with pytest.raises(NotPermitted):
            await app.jobs.cancel([root.id], "no", inside)
        cancelled = await app.jobs.cancel([child.id], "mine", inside)
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    assert {job.id for job in page.jobs} == {root.id, child.id}
    assert [one.job.state for one in cancelled] == [JobState.CANCELLED]


async def test_cancelling_a_root_ends_the_whole_tree(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        child = await running(app, (await submit(app, replace(outside, inside_job=root.id), "hold child")).id)
        leaf = await running(app, (await submit(app, replace(outside, inside_job=child.id), "hold leaf")).id)
        cancelled = await app.jobs.cancel([root.id], "enough")
        with pytest.raises(InvalidRequest):
            await submit(app, replace(outside, inside_job=leaf.id), "late")

    assert {one.job.id for one in cancelled} == {root.id, child.id, leaf.id}
    assert all(one.is_done and not one.survivors for one in cancelled)


async def test_a_result_feeds_the_prompt_of_a_dependent(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        items = [
            JobRequest(id="first", prompt="hold, then say done"),
            JobRequest(id="second", prompt="Judge {{first.result}} please"),
        ]
        submitted = await app.jobs.submit(items, outside, is_batch=True)
        first, second = (receipt.job for receipt in submitted.receipts)
        (tmp_path / "tmp" / "go").touch()
        end = await ended(app, second.id)
        said = (tmp_path / "tmp" / f"said.{second.id}").read_text()

    assert second.state is JobState.WAITING
    assert end.state is JobState.SUCCEEDED
    assert first.id in said and "done" in said and "{{first.result}}" not in said


async def test_a_failed_dependency_fails_its_dependents_and_a_retry_brings_both_back(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        items = [
            JobRequest(id="first", prompt="fail", max_attempts=1),
            JobRequest(id="second", prompt="hold", depends_on=("first",)),
        ]
        submitted = await app.jobs.submit(items, outside, is_batch=True)
        first, second = (receipt.job.id for receipt in submitted.receipts)
        failed = await ended(app, second)
        reopened = await app.jobs.retry([first])
        again = await ended(app, second)

    assert (failed.state, failed.started_ms) == (JobState.FAILED, None)
    assert failed.outcome is not None and first in failed.outcome.message
    assert {job.id for job in reopened.jobs} == {first, second}
    assert reopened.note == ""
    assert again.reopened == 1


async def test_a_circle_in_a_batch_is_shown(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        items = [
            JobRequest(id="a", prompt="x", depends_on=("b",)),
            JobRequest(id="b", prompt="x", depends_on=("a",)),
        ]
        with pytest.raises(InvalidRequest, match=r"a -> b -> a|b -> a -> b"):
            await app.jobs.submit(items, caller(tmp_path, env), is_batch=True)
        page, _ = await app.jobs.list(JobFilter())

    assert page.total == 0


async def test_whoever_follows_a_job_or_a_batch_from_inside_a_job_gives_its_place_back(tmp_path: Path) -> None:
    env = place(tmp_path, CLAUDE_JOBS_SLOTS="1")
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        batch = await app.jobs.submit([JobRequest(prompt=f"child {n}") for n in range(2)], inside, is_batch=True)
        report = await app.jobs.report(JobFilter(batch_id=batch.batch_id), inside, wait_s=60)
        last = await submit(app, inside, "one more")
        events = [event.kind.value async for event in app.jobs.follow(0, last.id, inside)]
        (tmp_path / "tmp" / "go").touch()
        end = await ended(app, root.id)

    assert report.ended >= 1
    assert events[-1] == "finished"
    assert end.state is JobState.SUCCEEDED


async def test_a_job_joins_and_rules_only_batches_of_what_it_spawned(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env, tokens=1)
        one = [JobRequest.parse({"prompt": "hold"})]
        root = await running(app, (await submit(app, outside, "hold root")).id)
        inside = replace(outside, inside_job=root.id)
        others = (await app.jobs.submit(one, outside, is_batch=True)).batch_id
        own = (await app.jobs.submit([JobRequest.parse({"prompt": "hold own"})], inside, is_batch=True)).batch_id
        joined = await app.jobs.submit([JobRequest.parse({"prompt": "hold too"})], inside, batch_id=own)
        await app.jobs.set_batch(own, inside, max_parallel=1)
        await app.jobs.set_batch(own, outside)
        for attempt in (app.jobs.submit(one, inside, batch_id=others), app.jobs.set_batch(others, inside)):
            with pytest.raises(NotPermitted):
                await attempt
        for attempt in (app.jobs.submit(one, outside, batch_id="b-none"), app.jobs.set_batch("", outside)):
            with pytest.raises(InvalidRequest, match="no batch"):
                await attempt
        await app.jobs.cancel([job.id for job in (await app.jobs.list(JobFilter(limit=20)))[0].jobs], "over")

    assert joined.batch_id == own
    assert joined.receipts[0].job.parent_id == root.id


async def test_a_batch_is_named_by_its_new_jobs(tmp_path: Path) -> None:
    env = place(tmp_path, CLAUDE_JOBS_SLOTS="0")
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        old = await submit(app, outside, "same", key="k")
        items = [JobRequest(prompt="same", key="k"), JobRequest(prompt="new")]
        submitted = await app.jobs.submit(items, outside, is_batch=True)
        page, _ = await app.jobs.list(JobFilter(batch_id=submitted.batch_id))

    assert submitted.receipts[0].job.id == old.id
    assert [job.id for job in page.jobs] == [submitted.receipts[1].job.id]


async def test_a_job_runs_its_children_again_a_few_times_only(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        child = await submit(app, inside, "fail", max_attempts=1)
        for _ in range(3):
            await ended(app, child.id)
            await app.jobs.retry([child.id], caller=inside)
        await ended(app, child.id)
        with pytest.raises(RecursionRefused) as refused:
            await app.jobs.retry([child.id], caller=inside)
        reopened = await app.jobs.retry([child.id])
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    assert refused.value.limit == "retries"
    assert [job.id for job in reopened.jobs] == [child.id]


async def test_a_job_runs_what_depends_on_its_children_again_a_few_times_only(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        items = [JobRequest(id="a", prompt="ok"), JobRequest(id="b", prompt="fail", depends_on=("a",))]
        submitted = await app.jobs.submit(items, inside, is_batch=True)
        first, second = (receipt.job.id for receipt in submitted.receipts)
        for _ in range(3):
            await ended(app, second)
            await app.jobs.retry([first], tree=True, caller=inside)
        await ended(app, second)
        with pytest.raises(RecursionRefused) as refused:
            await app.jobs.retry([first], tree=True, caller=inside)
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    assert refused.value.limit == "retries"


async def test_a_job_that_is_being_cancelled_runs_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 3_600.0)  # nor does its worker hear of the cancel
    env = place(tmp_path, CLAUDE_JOBS_SLOTS="1")
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold")).id)
        inside = replace(outside, inside_job=root.id)
        child = await submit(app, inside, "child")
        # The store alone: its worker has not heard of it yet, so the root is still there to ask.
        await app.desk.database(app.desk.store.cancel, [root.id], "enough", app.desk.clock())
        with pytest.raises(InvalidRequest, match="is being cancelled"):
            await app.jobs.retry([child.id], caller=inside)
        cancelled = await app.jobs.cancel([root.id], "enough")
        last = await app.jobs.get(child.id)

    assert all(one.is_done and not one.survivors for one in cancelled)
    assert last.state is JobState.CANCELLED


async def test_who_runs_a_parent_again_is_told_what_it_may_still_spawn(tmp_path: Path) -> None:
    env = place(tmp_path, CLAUDE_MAX_TOTAL_JOBS="3")
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold and fail", max_attempts=1)).id)
        inside = replace(outside, inside_job=root.id)
        notes: list[str] = []
        for n in range(2):
            child = await submit(app, inside, f"fail {n}", max_attempts=1)
            await ended(app, child.id)
            (tmp_path / "tmp" / "go").touch()
            await ended(app, root.id)
            (tmp_path / "tmp" / "go").unlink()
            notes.append((await app.jobs.retry([root.id])).note)
            await running(app, root.id)
        with pytest.raises(RecursionRefused):
            await submit(app, inside, "one too many")
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    made = "of 3 jobs (CLAUDE_MAX_TOTAL_JOBS), ended ones included:"
    assert notes == [
        f"Tree {root.id} has made 2 {made} it may spawn 1 more.",
        f"Tree {root.id} has made 3 {made} what runs again in it can spawn none. "
        "Raise the limit, or submit the work anew as a tree of its own.",
    ]


async def test_what_a_job_gave_away_from_its_shell_comes_off_its_own_budget(tmp_path: Path) -> None:
    env = place(tmp_path)
    async with running_app(env) as app:
        outside = caller(tmp_path, env)
        root = await running(app, (await submit(app, outside, "hold", tools=["Read"], max_cost_usd=1.0)).id)
        await submit(app, replace(outside, inside_job=root.id), "hold child", max_cost_usd=0.4)
        credential = app.desk.tokens.get(root.token)
        assert credential is not None
        order = await order_of(app.desk, root, root.epoch, credential)
        (tmp_path / "tmp" / "go").touch()
        await ended(app, root.id)

    assert (root.spec.nest, order.spent_nusd) == (False, 400_000_000)
