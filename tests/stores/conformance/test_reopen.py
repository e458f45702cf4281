"""Running ended jobs again by hand: one, the failed part of a tree, what never ran because of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stores.builders import NOW, Desk, asking, batch, failed, item, spec

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import DependencyMode, Failure, Job, JobState, Outcome, Progress, Reason
from claude_jobs.domain.usage import Usage
from claude_jobs.errors import InvalidRequest, JobNotFound
from claude_jobs.stores.base import MAX_EVENTS_PER_JOB

LATER = NOW + 10_000


def states(desk: Desk, *jobs: Job) -> list[JobState]:
    return [desk.store.get(job.id).state for job in jobs]


def reopened(desk: Desk, *jobs: Job, tree: bool = False) -> list[str]:
    return [job.id for job in desk.store.reopen([job.id for job in jobs], LATER, tree=tree)]


def test_a_failed_job_begins_again_under_its_id(desk: Desk) -> None:
    job = desk.one(item(key="k", deadline_ms=NOW + 9_999))
    desk.end(desk.run(), failed(Failure.TIMED_OUT))
    desk.end(desk.run(asking(now_ms=NOW + 9_000)), failed(Failure.AUTHENTICATION))
    usage = Outcome(failure=Failure.REFUSED, text="é" * 90_000, usage=Usage(cost_nusd=4), session_cost_nusd=9)
    grant = desk.run(asking(now_ms=NOW + 9_001))
    desk.store.append(job.id, grant.epoch, [], Progress(turns=3), NOW)
    desk.end(grant, usage, now_ms=NOW + 9_002)
    desk.store.mark_read([job.id], NOW + 9_003)
    before = desk.store.get(job.id)

    (again,) = desk.store.reopen([job.id], LATER)

    assert desk.store.get(job.id) == again
    assert (before.state, again.state, again.reopened) == (JobState.FAILED, JobState.READY, 1)
    assert (again.attempts, again.moves, again.losses, again.timeouts, again.refused_by) == (0, 0, 0, 0, ())
    assert (again.cancel_why, again.outcome, again.finished_ms, again.read_ms) == (None, None, None, None)
    assert (again.progress, again.deadline_ms, again.queued_since_ms) == (Progress(), None, LATER)
    assert (again.usage, again.rank, again.ordinal) == (before.usage, before.rank, before.ordinal)
    assert again.session_id != before.session_id
    assert again.session_cost_nusd == 0
    assert desk.store.find_key("uid:1", "k") == again
    event = desk.store.read(0, job.id)[-1]
    assert (event.kind, event.data) == (EventKind.REOPENED, {"why": "refused", "was": "failed", "state": "ready"})


def test_it_runs_and_ends_once_more(desk: Desk) -> None:
    job = desk.one()
    desk.complete(job, Failure.REFUSED)
    reopened(desk, job)
    grant = desk.run(asking(now_ms=LATER))
    desk.end(grant, Outcome(text="x" * 90_000))

    ended = desk.store.get(job.id)
    assert (grant.epoch, ended.state) == (2, JobState.SUCCEEDED)
    assert ended.outcome is not None
    assert len(ended.outcome.text) == 90_000
    assert desk.store.counts().unread == 1
    assert [attempt.epoch for attempt in desk.store.attempts(job.id)] == [1, 2]


def test_a_cancelled_and_an_expired_job_can_be_reopened(desk: Desk) -> None:
    cancelled, expired = desk.submit(item("a"), item("b", deadline_ms=NOW + 5))
    desk.store.cancel([cancelled.id], "enough", NOW)
    desk.admit(asking(free=0, now_ms=NOW + 5))

    assert reopened(desk, expired, cancelled) == [cancelled.id, expired.id]
    assert {grant.job.id for grant in desk.admit(asking(now_ms=LATER)).grants} == {cancelled.id, expired.id}


def test_a_deadline_in_the_future_stays(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=LATER + 1))
    desk.complete(job, Failure.REFUSED)
    reopened(desk, job)

    assert desk.store.get(job.id).deadline_ms == LATER + 1


def test_what_has_not_failed_is_refused_and_then_nothing_is_reopened(desk: Desk) -> None:
    bad, good, live = desk.submit(item("bad"), item("good"), item("live"))
    desk.complete(bad, Failure.REFUSED)
    desk.complete(good)

    for other in (good, live):
        with pytest.raises(InvalidRequest) as refused:
            reopened(desk, bad, other)
        assert refused.value.field == "job_ids"
        assert other.id in refused.value.message
    with pytest.raises(JobNotFound):
        desk.store.reopen([bad.id, "j-none"], LATER)
    with pytest.raises(InvalidRequest):
        desk.store.reopen([], LATER)
    assert states(desk, bad, good, live) == [JobState.FAILED, JobState.SUCCEEDED, JobState.READY]


def test_dependents_that_never_ran_come_back_with_it(desk: Desk) -> None:
    a, other = desk.submit(item("a"), item("other"))
    b = desk.one(item("b", after=(a.id,)))
    c = desk.one(item("c", after=(b.id,)))
    both = desk.one(item("both", after=(a.id, other.id)))
    desk.complete(a, Failure.REFUSED)
    desk.complete(other, Failure.REFUSED)
    desk.store.cancel([c.id], "already failed", NOW)

    assert reopened(desk, a) == [a.id, b.id, c.id]
    waiting = desk.store.get(b.id)
    assert (waiting.state, waiting.reason, waiting.outcome) == (JobState.WAITING, Reason.DEPENDENCY, None)
    assert states(desk, both) == [JobState.FAILED]
    assert reopened(desk, other) == [other.id, both.id]
    for job in (a, other, b, c, both):
        desk.close(desk.run(asking(free=1, now_ms=LATER)))
        assert states(desk, job) == [JobState.SUCCEEDED]


def test_a_job_whose_dependency_stays_failed_is_refused(desk: Desk) -> None:
    a = desk.one(item("a"))
    b = desk.one(item("b", after=(a.id,)))
    desk.complete(a, Failure.REFUSED)

    with pytest.raises(InvalidRequest) as refused:
        reopened(desk, b)

    assert f"{a.id} (failed)" in refused.value.message
    assert reopened(desk, b, a) == [a.id, b.id]


def test_a_job_that_itself_failed_after_its_dependencies_is_ready_again(desk: Desk) -> None:
    a, spare = desk.submit(item("a"), item("spare"))
    b = desk.one(item("b", after=(a.id,)))
    c = desk.one(item("c", after=(a.id, spare.id), needs=DependencyMode.ANY))
    desk.complete(a)
    desk.complete(spare, Failure.REFUSED)
    desk.complete(b, Failure.REFUSED)
    desk.complete(c, Failure.REFUSED)

    assert reopened(desk, b, c) == [b.id, c.id]
    assert states(desk, b, c) == [JobState.READY, JobState.READY]


def test_a_pruned_dependency_cannot_be_met_any_more(desk: Desk) -> None:
    a = desk.one(item("a"))
    b = desk.one(item("b", after=(a.id,)))
    desk.complete(a)
    desk.complete(b, Failure.REFUSED, now_ms=NOW + 9)
    desk.store.prune(NOW + 5)

    with pytest.raises(InvalidRequest) as refused:
        reopened(desk, b)

    assert a.id in refused.value.message


def tree(desk: Desk) -> tuple[Job, Job, Job, Job, Job]:
    """root succeeded; child failed, its own child failed; sibling succeeded; nephew, below that, was cancelled."""
    root = desk.one(item("root"))
    above = desk.run()
    child, sibling = desk.submit(item("child", parent_id=root.id), item("sibling", parent_id=root.id))
    grants = desk.start()
    grandchild, nephew = desk.submit(item("grandchild", parent_id=child.id), item("nephew", parent_id=sibling.id))
    desk.complete(grandchild, Failure.REFUSED)
    desk.store.cancel([nephew.id], "enough", NOW)
    desk.close(grants[child.id], Failure.REFUSED)
    desk.close(grants[sibling.id])
    desk.close(above)
    return root, child, grandchild, sibling, nephew


def test_a_tree_comes_back_from_its_topmost_failures(desk: Desk) -> None:
    root, child, grandchild, sibling, nephew = tree(desk)

    assert reopened(desk, root, tree=True) == [child.id, nephew.id]
    assert states(desk, root, child, grandchild, sibling, nephew) == [
        JobState.SUCCEEDED,
        JobState.READY,
        JobState.FAILED,
        JobState.SUCCEEDED,
        JobState.READY,
    ]


def test_a_job_below_an_ended_parent_can_be_reopened_alone(desk: Desk) -> None:
    _, child, grandchild, _, _ = tree(desk)

    assert reopened(desk, grandchild) == [grandchild.id]
    again = desk.store.get(grandchild.id)
    assert (again.parent_id, again.depth) == (child.id, 2)


def test_a_tree_without_failures_has_nothing_to_run_again(desk: Desk) -> None:
    job = desk.one()
    desk.complete(job)

    with pytest.raises(InvalidRequest) as refused:
        reopened(desk, job, tree=True)

    assert "nothing to run again" in refused.value.message


def test_a_tree_takes_its_batchs_dependents_along(desk: Desk) -> None:
    items = (item("a"), item("b", after=("#0",)), item("c", after=("#1",)), item("apart"))
    a, b, c, apart = (receipt.job for receipt in desk.store.submit(batch(*items, batch_id="B")))
    elsewhere = desk.one(item("elsewhere", after=(c.id,)))
    desk.store.cancel([b.id, c.id, apart.id], "enough", NOW)
    desk.complete(a)

    assert reopened(desk, a, tree=True) == [b.id, c.id, elsewhere.id]
    assert states(desk, b, c, elsewhere, apart) == [
        JobState.READY,
        JobState.WAITING,
        JobState.WAITING,
        JobState.CANCELLED,
    ]


def test_in_a_tree_what_cannot_run_stays(desk: Desk) -> None:
    root, outside = desk.submit(item("root"), item("outside"))
    above = desk.run(asking(free=1))
    child = desk.one(item("child", parent_id=root.id, after=(outside.id,)))
    other = desk.one(item("other", parent_id=root.id))
    desk.store.cancel([outside.id, other.id], "enough", NOW)
    desk.close(above)

    assert reopened(desk, root, tree=True) == [other.id]
    assert states(desk, child) == [JobState.FAILED]


def test_fail_fast_still_holds_after_a_reopening(desk: Desk) -> None:
    items = (item("a"), item("b", not_before_ms=NOW + 50_000), item("c", after=("#1",)))
    a, b, c = (receipt.job for receipt in desk.store.submit(batch(*items, batch_id="B", fail_fast=True)))
    desk.complete(a, Failure.REFUSED)
    stopped = states(desk, b, c)
    reopened(desk, a, b, c)
    back = states(desk, a, b, c)
    desk.close(desk.run(asking(free=1)), Failure.REFUSED)

    assert stopped == [JobState.CANCELLED, JobState.CANCELLED]
    assert back == [JobState.READY, JobState.READY, JobState.WAITING]
    assert states(desk, a, b, c) == [JobState.FAILED, JobState.CANCELLED, JobState.CANCELLED]


@pytest.mark.parametrize("fork", [False, True])
def test_a_job_that_goes_on_with_a_session_stays_in_it_and_a_copy_is_made_anew(desk: Desk, fork: bool) -> None:
    first = desk.one()
    desk.complete(first)
    resuming = replace(spec("go on"), resume_session=first.session_id, fork=fork)
    asked = replace(item(session_id="" if fork else first.session_id), spec=resuming)
    second = desk.one(asked)
    desk.end(desk.run(), Outcome(failure=Failure.REFUSED, session_cost_nusd=7))

    (again,) = desk.store.reopen([second.id], LATER)

    assert (again.session_id == first.session_id, again.session_cost_nusd) == ((False, 0) if fork else (True, 7))
    assert (again.session_id == second.session_id) is not fork


def test_a_session_that_is_in_use_by_now_is_not_shared(desk: Desk) -> None:
    first = desk.one()
    desk.complete(first)
    resuming = replace(spec("go on"), resume_session=first.session_id)
    asked = replace(item(session_id=first.session_id), spec=resuming)
    second = desk.one(asked)
    desk.complete(second, Failure.REFUSED)
    third = desk.one(asked)

    with pytest.raises(InvalidRequest) as refused:
        reopened(desk, second)

    assert third.id in refused.value.message
    assert states(desk, second) == [JobState.FAILED]


def test_a_reopened_job_has_room_in_its_log_again(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()
    desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT)] * MAX_EVENTS_PER_JOB, None, NOW)
    desk.close(grant, Failure.REFUSED)
    reopened(desk, job)
    again = desk.run(asking(now_ms=LATER))
    desk.store.append(job.id, again.epoch, [NewEvent(kind=EventKind.TEXT)], None, LATER)

    assert desk.store.read(0, job.id, limit=9_999)[-1].kind is EventKind.TEXT


def test_a_thousand_dependents_come_back(desk: Desk) -> None:
    chain = desk.submit(item("0"), *(item(f"{n}", after=(f"#{n - 1}",)) for n in range(1, 1_000)))
    desk.close(desk.run(), Failure.REFUSED)

    assert reopened(desk, chain[0]) == [job.id for job in chain]
