"""Jobs that come after others: what releases them, what fails them, what a failure does to its batch."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, batch, failed, item

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Dependency, DependencyMode, DependencyOn, Failure, Job, JobState, Reason
from claude_jobs.errors import InvalidRequest, JobNotFound
from claude_jobs.stores.base import CancelAck

ANY, END = DependencyMode.ANY, DependencyOn.END


def states(desk: Desk, *jobs: Job) -> list[JobState]:
    return [desk.store.get(job.id).state for job in jobs]


def test_a_job_waits_for_all_its_dependencies(desk: Desk) -> None:
    first, second = desk.submit(item("first"), item("second"))
    last = desk.one(item("last", after=(first.id, second.id)))
    desk.complete(first)
    between = desk.store.get(last.id)
    desk.complete(second)

    assert (last.state, last.reason) == (JobState.WAITING, Reason.DEPENDENCY)
    assert last.depends_on == tuple(Dependency(name=job.id, job_id=job.id) for job in (first, second))
    assert between.state is JobState.WAITING
    released = desk.store.get(last.id)
    assert (released.state, released.reason) == (JobState.READY, Reason.NONE)
    assert desk.run().job.id == last.id


def test_one_success_is_enough_for_any(desk: Desk) -> None:
    first, second = desk.submit(item("first"), item("second"))
    last = desk.one(item("last", after=(first.id, second.id), needs=ANY))
    desk.complete(first, Failure.BAD_REQUEST)
    between = states(desk, last)
    desk.complete(second)

    assert between == [JobState.WAITING]
    assert states(desk, last) == [JobState.READY]


def test_an_end_of_any_kind_is_enough_for_on_end(desk: Desk) -> None:
    first, second = desk.submit(item("first"), item("second"))
    last = desk.one(item("last", after=(first.id, second.id), on=END))
    desk.complete(first, Failure.BAD_REQUEST)
    desk.store.cancel([second.id], "enough", NOW)

    assert states(desk, last) == [JobState.READY]


@pytest.mark.parametrize("needs", DependencyMode)
def test_a_job_whose_dependencies_failed_fails_and_names_them(desk: Desk, needs: DependencyMode) -> None:
    first, second = desk.submit(item("first"), item("second"))
    last = desk.one(item("last", after=(first.id, second.id), needs=needs))
    desk.complete(first, Failure.BAD_REQUEST)
    desk.store.cancel([second.id], "enough", NOW)

    ended = desk.store.get(last.id)
    assert (ended.state, ended.finished_ms, ended.attempts) == (JobState.FAILED, NOW, 0)
    assert ended.outcome is not None
    assert ended.outcome.failure is Failure.DEPENDENCY
    assert f"{first.id} (failed)" in ended.outcome.message
    assert "Retry" in ended.outcome.message
    event = desk.store.read(0, last.id)[-1]
    assert (event.kind, event.data["failure"]) == (EventKind.FINISHED, "dependency")


def test_a_failure_goes_down_a_chain_and_a_release_only_one_step(desk: Desk) -> None:
    a = desk.one(item("a"))
    b = desk.one(item("b", after=(a.id,)))
    c = desk.one(item("c", after=(b.id,)))
    cleanup = desk.one(item("cleanup", after=(c.id,), on=END))
    desk.complete(a)
    released = states(desk, b, c, cleanup)
    desk.complete(b, Failure.REFUSED)

    assert released == [JobState.READY, JobState.WAITING, JobState.WAITING]
    assert states(desk, b, c, cleanup) == [JobState.FAILED, JobState.FAILED, JobState.READY]


def test_a_chain_of_a_thousand_fails_at_once(desk: Desk) -> None:
    chain = desk.submit(item("0"), *(item(f"{n}", after=(f"#{n - 1}",)) for n in range(1, 1_000)))
    grant = desk.run(asking(free=1))

    desk.close(grant, Failure.BAD_REQUEST)

    assert grant.job.id == chain[0].id
    assert desk.store.counts().by_state == {"failed": 1_000}
    assert desk.store.admit(asking()).grants == ()


def test_dependencies_within_a_request_go_by_index_in_both_directions(desk: Desk) -> None:
    last, middle, first = desk.submit(item("last", after=("#1", "#2")), item("middle", after=("#2",)), item("first"))

    assert [one.job_id for one in last.depends_on] == [middle.id, first.id]
    assert [one.name for one in last.depends_on] == ["#1", "#2"]
    for job in (first, middle, last):
        desk.complete(job)
    assert states(desk, first, middle, last) == [JobState.SUCCEEDED] * 3


@pytest.mark.parametrize("index", ["#2", "#", "#-1", "#x"])
def test_an_index_that_names_nothing_is_refused(desk: Desk, index: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        desk.submit(item("a"), item("b", after=(index,)))

    assert refused.value.field == "depends_on"
    assert repr(index) in refused.value.message


def test_an_index_may_name_a_job_that_was_there_before(desk: Desk) -> None:
    old = desk.one(item("old", key="k"))
    desk.complete(old)

    again, new = desk.submit(item("old", key="k"), item("new", after=("#0",)))

    assert again.id == old.id
    assert (new.state, new.depends_on[0].job_id) == (JobState.READY, old.id)


def test_an_unknown_dependency_refuses_the_request(desk: Desk) -> None:
    with pytest.raises(JobNotFound):
        desk.submit(item("a"), item("b", after=("j-none",)))

    assert desk.store.counts().by_state == {}


def test_dependencies_that_have_ended_count_at_once(desk: Desk) -> None:
    good, bad = desk.submit(item("good"), item("bad"))
    desk.complete(good)
    desk.complete(bad, Failure.BAD_REQUEST)

    released = desk.submit(item("1", after=(good.id,)), item("2", after=(bad.id,), on=END), item("3", after=("#0",)))
    with pytest.raises(InvalidRequest) as refused:
        desk.submit(item("4", after=(good.id, bad.id)))

    assert [job.state for job in released] == [JobState.READY, JobState.READY, JobState.WAITING]
    assert refused.value.field == "depends_on"
    assert f"({bad.id} failed)" in refused.value.message


def test_the_same_dependency_twice_is_one(desk: Desk) -> None:
    first = desk.one()
    last = desk.one(item("last", after=(first.id, first.id)))
    desk.complete(first)

    assert states(desk, last) == [JobState.READY]


def test_a_released_job_still_waits_for_its_time(desk: Desk) -> None:
    first = desk.one()
    early = desk.one(item("early", after=(first.id,), not_before_ms=NOW + 5_000))
    late = desk.one(item("late", after=(first.id,), not_before_ms=NOW - 1))
    desk.complete(first)

    found = desk.store.get(early.id)
    assert (found.state, found.not_before_ms, found.reason) == (JobState.DELAYED, NOW + 5_000, Reason.NONE)
    assert states(desk, late) == [JobState.READY]
    assert desk.admit().next_ms == NOW + 5_000
    assert [grant.job.id for grant in desk.admit(asking(now_ms=NOW + 5_000)).grants] == [early.id]


def test_a_waiting_job_can_be_cancelled_and_can_expire(desk: Desk) -> None:
    first = desk.one()
    cancelled = desk.one(item("cancelled", after=(first.id,)))
    expiring = desk.one(item("expiring", after=(first.id,), deadline_ms=NOW + 9))
    behind = desk.one(item("behind", after=(expiring.id,)))

    (ack,) = desk.store.cancel([cancelled.id], "enough", NOW)
    admission = desk.admit(asking(free=0, now_ms=NOW + 9))

    assert ack == CancelAck(job_id=cancelled.id, was=ack.was, is_done=True)
    assert admission.expired == (expiring.id,)
    assert states(desk, cancelled, expiring, behind) == [JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED]


def test_a_cancelled_tree_fails_its_dependents_outside_and_not_inside(desk: Desk) -> None:
    root = desk.one()
    desk.run()
    child = desk.one(item("child", parent_id=root.id))
    inside = desk.one(item("inside", parent_id=root.id, after=(child.id,)))
    outside = desk.one(item("outside", after=(child.id,)))
    afterwards = desk.one(item("afterwards", after=(child.id,), on=END))

    desk.store.cancel([root.id], "enough", NOW)

    assert states(desk, child, inside) == [JobState.CANCELLED, JobState.CANCELLED]
    assert states(desk, outside, afterwards) == [JobState.FAILED, JobState.READY]


def test_waiting_jobs_count_as_queued(desk: Desk) -> None:
    first = desk.one()
    desk.one(item("last", after=(first.id,)))

    assert desk.store.counts().by_state == {"queued": 2}
    assert len(desk.admit().grants) == 1


def test_fail_fast_stops_the_rest_of_the_batch(desk: Desk) -> None:
    items = (item("a"), item("b"), item("c"), item("d", after=("#0",)), item("e", after=("#2",)))
    jobs = [receipt.job for receipt in desk.store.submit(batch(*items, batch_id="B", fail_fast=True))]
    other = desk.one(item("other"))
    outside = desk.one(item("outside", after=(jobs[2].id,)))
    grants = desk.start(asking(free=2))
    child = desk.one(item("child of b", parent_id=jobs[1].id))

    desk.close(grants[jobs[0].id], Failure.BAD_REQUEST)

    why = f"{jobs[0].id} failed and its batch stops at the first failure"
    a, b, c, d, e = (desk.store.get(job.id) for job in jobs)
    assert [job.state for job in (a, b, c)] == [JobState.FAILED, JobState.RUNNING, JobState.CANCELLED]
    assert (b.cancel_why, c.cancel_why, e.cancel_why) == (why, why, why)
    assert d.outcome is not None
    assert (d.state, d.outcome.failure) == (JobState.FAILED, Failure.DEPENDENCY)
    assert states(desk, child, other, outside) == [JobState.CANCELLED, JobState.READY, JobState.FAILED]
    assert desk.store.beat("w1", [], NOW).cancel == ((b.id, why),)
    assert desk.end(grants[b.id], failed(Failure.CANCELLED))


def test_fail_fast_is_set_off_by_an_expiry_and_not_by_a_cancel_or_success(desk: Desk) -> None:
    items = (item("a"), item("b"), item("c", deadline_ms=NOW + 5, not_before_ms=NOW + 9), item("d"))
    a, b, c, d = (receipt.job for receipt in desk.store.submit(batch(*items, batch_id="B", fail_fast=True)))
    desk.complete(a)
    desk.store.cancel([b.id], "enough", NOW)
    before = states(desk, c, d)
    desk.admit(asking(free=0, now_ms=NOW + 5))

    assert before == [JobState.DELAYED, JobState.READY]
    assert states(desk, c, d) == [JobState.EXPIRED, JobState.CANCELLED]


def test_a_batch_without_fail_fast_goes_on(desk: Desk) -> None:
    a, b = (receipt.job for receipt in desk.store.submit(batch(item("a"), item("b"), batch_id="B")))
    desk.complete(a, Failure.BAD_REQUEST)

    assert states(desk, b) == [JobState.READY]


def test_a_retry_of_a_dependency_is_no_end(desk: Desk) -> None:
    first = desk.one()
    last = desk.one(item("last", after=(first.id,), on=END))
    desk.end(desk.run(), failed(Failure.INTERRUPTED))

    assert states(desk, first, last) == [JobState.READY, JobState.WAITING]
