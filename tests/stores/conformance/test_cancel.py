"""Cancelling against everything else that can happen at that moment."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, failed, item

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, JobState, PublicState
from claude_jobs.errors import JobNotFound
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import CancelAck


def test_a_queued_job_ends_at_once(desk: Desk) -> None:
    ready, delayed = desk.submit(item(), item(not_before_ms=NOW + 9))

    acks = desk.store.cancel([ready.id, delayed.id], "enough", NOW + 1)

    assert acks == tuple(CancelAck(job_id=job.id, was=PublicState.QUEUED, is_done=True) for job in (ready, delayed))
    ended = desk.store.get(ready.id)
    assert (ended.state, ended.cancel_why, ended.finished_ms) == (JobState.CANCELLED, "enough", NOW + 1)
    assert ended.outcome is not None
    assert (ended.outcome.failure, ended.outcome.message) == (Failure.CANCELLED, "enough")
    assert desk.admit(asking(now_ms=NOW + 10)).grants == ()


def test_a_running_job_is_flagged_for_its_owner(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()

    (ack,) = desk.store.cancel([job.id], "enough", NOW)

    assert ack == CancelAck(job_id=job.id, was=PublicState.RUNNING, is_done=False)
    assert desk.store.beat("w1", [(job.id, 1)], NOW).cancel == ((job.id, "enough"),)
    assert desk.end(grant, failed(Failure.CANCELLED))
    assert desk.store.get(job.id).state is JobState.CANCELLED


def test_cancel_between_admit_and_begin(desk: Desk) -> None:
    job = desk.one()
    desk.grant()
    desk.store.cancel([job.id], "enough", NOW)

    assert not desk.store.begin(job.id, 1, None, NOW)

    ended = desk.store.get(job.id)
    assert (ended.state, ended.permits, ended.owner) == (JobState.CANCELLED, (), "")
    assert [token.running for token in desk.store.tokens()] == [0, 0, 0]


def test_success_that_was_reached_before_the_cancel_stands(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()
    desk.store.cancel([job.id], "enough", NOW)

    assert desk.end(grant)
    assert desk.store.get(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("trigger", [Trigger.RETRY_NOW, Trigger.RETRY_LATER, Trigger.LOSE_OWNER])
def test_a_retry_decided_before_the_cancel_was_seen_becomes_a_cancel(desk: Desk, trigger: Trigger) -> None:
    job = desk.one()
    grant = desk.run()
    desk.store.cancel([job.id], "enough", NOW)

    assert desk.finish(grant, Disposition(trigger=trigger, not_before_ms=NOW + 5), failed())

    ended = desk.store.get(job.id)
    assert ended.state is JobState.CANCELLED
    assert ended.outcome is not None
    assert (ended.outcome.failure, ended.outcome.message) == (Failure.CANCELLED, "enough")


def test_an_ended_job_stays_as_it_is(desk: Desk) -> None:
    job = desk.one()
    desk.end(desk.run())
    before = desk.store.get(job.id)

    assert desk.store.cancel([job.id], "x", NOW) == (CancelAck(job_id=job.id, was=PublicState.SUCCEEDED, is_done=True),)
    assert desk.store.get(job.id) == before


def test_cancelling_twice_keeps_the_first_reason(desk: Desk) -> None:
    job = desk.one()
    desk.run()
    desk.store.cancel([job.id], "first", NOW)
    desk.store.cancel([job.id, job.id], "second", NOW)

    assert desk.store.get(job.id).cancel_why == "first"
    requested = [event for event in desk.store.read(0, job.id) if event.kind is EventKind.CANCEL_REQUESTED]
    assert [event.data for event in requested] == [{"why": "first"}]


def test_the_whole_tree_is_cancelled(desk: Desk) -> None:
    root, other = desk.submit(item("root"), item("other"))
    child = desk.one(item(parent_id=root.id))
    for grant in desk.admit().grants:
        desk.store.begin(grant.job.id, grant.epoch, None, NOW)
    grandchild = desk.one(item(parent_id=child.id))

    acks = desk.store.cancel([root.id], "stop", NOW)

    assert [(ack.job_id, ack.is_done) for ack in acks] == [(root.id, False), (child.id, False), (grandchild.id, True)]
    assert desk.store.get(other.id).cancel_why is None


def test_a_tree_is_cancelled_below_an_ended_parent(desk: Desk) -> None:
    root = desk.one()
    grant = desk.run()
    child = desk.one(item(parent_id=root.id))
    desk.end(grant)

    acks = desk.store.cancel([root.id], "stop", NOW)

    assert [(ack.job_id, ack.was) for ack in acks] == [
        (root.id, PublicState.SUCCEEDED),
        (child.id, PublicState.QUEUED),
    ]


def test_one_unknown_id_cancels_none(desk: Desk) -> None:
    job = desk.one()

    with pytest.raises(JobNotFound):
        desk.store.cancel([job.id, "j-\ud800"], "x", NOW)

    assert desk.store.get(job.id).state is JobState.READY
