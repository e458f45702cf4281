"""Accepting jobs: order, keys, all or none, bounds, parents."""

from __future__ import annotations

import re

import pytest
from stores.builders import NOW, Desk, asking, batch, item, spec

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import JobState, Submission
from claude_jobs.errors import InvalidRequest, JobNotFound, KeyConflict, QueueFull
from claude_jobs.stores.base import JobFilter


def test_jobs_come_back_in_the_order_they_were_given(desk: Desk) -> None:
    jobs = desk.submit(*(item(f"prompt {n}") for n in range(20)))

    assert [f"prompt {n}" for n in range(20)] == [job.spec.prompt for job in jobs]
    assert jobs == [desk.store.get(job.id) for job in jobs]


def test_ids_are_short_and_unambiguous(desk: Desk) -> None:
    jobs = desk.submit(*(item() for _ in range(50)))

    assert len({job.id for job in jobs}) == len({job.session_id for job in jobs}) == 50
    assert all(re.fullmatch(r"j-[a-hjkmnp-z2-9]{5}", job.id) for job in jobs)


def test_every_field_survives(desk: Desk) -> None:
    asked = Submission(
        spec=spec("x\ud800 \U0001f600 \x00 y", model="opus"),
        offers=("aaa", "zzz"),
        submitter="uid:\udcff",
        pool="host:é",
        key="ключ\ud800",
        priority=-3,
        label="ro\ud800t",
        labels=("a", "b\x1fc"),
        org="o",
        not_before_ms=NOW + 5,
        deadline_ms=NOW + 9,
    )

    job = desk.store.get(desk.one(asked).id)

    assert asked.spec == job.spec
    assert (asked.offers, asked.submitter, asked.pool, asked.key) == (job.offers, job.submitter, job.pool, job.key)
    assert (asked.label, asked.labels, asked.org, asked.priority) == (job.label, job.labels, job.org, job.priority)
    assert (job.state, job.not_before_ms, job.deadline_ms) == (JobState.DELAYED, NOW + 5, NOW + 9)
    assert desk.store.find_key("uid:\udcff", "ключ\ud800") == job


@pytest.mark.parametrize("text", ["é" * 70_000, "a" * 5_000_000, "\ud800" * 40_000])
def test_a_long_prompt_survives(desk: Desk, text: str) -> None:
    job = desk.one(item(text))

    assert text == desk.store.get(job.id).spec.prompt
    assert text == desk.grant().job.spec.prompt
    assert text[:200] == desk.store.list(JobFilter()).jobs[0].spec.prompt


def test_the_same_key_gives_the_same_job(desk: Desk) -> None:
    first = desk.store.submit(batch(item(key="k")))[0]
    again = desk.store.submit(batch(item(key="k"), now_ms=NOW + 1))[0]

    assert (first.is_new, again.is_new) == (True, False)
    assert first.job == again.job == desk.store.find_key("uid:1", "k")
    assert desk.store.find_key("uid:2", "k") is None
    assert desk.store.find_key("uid:1", "") is None


def test_a_key_still_names_its_job_after_it_ended(desk: Desk) -> None:
    job = desk.one(item(key="k"))
    desk.end(desk.run())

    assert desk.store.get(job.id) == desk.submit(item(key="k"))[0]


def test_a_key_used_for_something_else_is_refused(desk: Desk) -> None:
    job = desk.one(item("this", key="k"))

    with pytest.raises(KeyConflict) as refused:
        desk.one(item("that", key="k"))

    assert job.id == refused.value.job_id


def test_a_key_twice_in_one_batch(desk: Desk) -> None:
    first, second = desk.store.submit(batch(item("a", key="k"), item("a", key="k")))
    with pytest.raises(InvalidRequest):
        desk.submit(item("a", key="n"), item("b", key="n"))

    assert (first.is_new, second.is_new) == (True, False)
    assert first.job.id == second.job.id


def test_a_batch_is_all_or_none(desk: Desk) -> None:
    desk.one(item("old", key="k"))
    for broken, error in ((item("new", key="k"), KeyConflict), (item(parent_id="j-none"), JobNotFound)):
        with pytest.raises(error):
            desk.submit(item(), item(), broken)

    assert desk.store.list(JobFilter()).total == 1
    assert len(desk.store.read(0)) == 1
    assert len(desk.admit().grants) == 1


def test_a_full_queue_refuses_the_whole_batch_and_says_the_numbers(desk: Desk) -> None:
    desk.store.submit(batch(item(), item(), queue_size=3))

    with pytest.raises(QueueFull) as refused:
        desk.store.submit(batch(item(), item(), queue_size=3))

    assert (refused.value.limit, refused.value.queued) == (3, 2)
    assert "2 more" in refused.value.message
    assert desk.store.list(JobFilter()).total == 2


def test_running_jobs_leave_room_in_the_queue(desk: Desk) -> None:
    desk.store.submit(batch(item(), queue_size=1))
    desk.run()

    assert desk.store.submit(batch(item(), queue_size=1))[0].is_new


def test_a_known_key_is_answered_even_when_the_queue_is_full(desk: Desk) -> None:
    job = desk.one(item(key="k"))

    assert job == desk.store.submit(batch(item(key="k"), queue_size=0))[0].job


def test_a_child_knows_its_lineage(desk: Desk) -> None:
    root = desk.one()
    child = desk.one(item(parent_id=root.id))
    grandchild = desk.one(item(parent_id=child.id))

    assert (0, root.id) == (root.depth, root.root_id)
    assert (1, root.id, root.id) == (child.depth, child.root_id, child.parent_id)
    assert (2, root.id, child.id) == (grandchild.depth, grandchild.root_id, grandchild.parent_id)


def test_no_child_for_an_ended_parent(desk: Desk) -> None:
    parent = desk.one()
    desk.end(desk.run())

    with pytest.raises(InvalidRequest) as refused:
        desk.one(item(parent_id=parent.id))

    assert refused.value.field == "parent_id"


def test_no_child_for_a_running_parent_whose_tree_is_being_cancelled(desk: Desk) -> None:
    root = desk.one()
    child = desk.one(item(parent_id=root.id))
    for grant in desk.admit().grants:
        desk.store.begin(grant.job.id, grant.epoch, None, NOW)
    desk.store.cancel([root.id], "stop", NOW)

    with pytest.raises(InvalidRequest):
        desk.one(item(parent_id=child.id))

    assert desk.store.list(JobFilter()).total == 2


def test_a_submission_is_in_the_log(desk: Desk) -> None:
    job = desk.one(item(priority=2))
    (event,) = desk.store.read(0, job.id)

    assert (EventKind.SUBMITTED, job.id, 0, NOW) == (event.kind, event.job_id, event.epoch, event.at_ms)
    assert event.data == {
        "state": "ready",
        "model": "opus",
        "priority": 2,
        "parent_id": None,
        "root_id": job.id,
        "depth": 0,
        "ordinal": 1,
    }


def test_a_job_for_later_sleeps_until_then(desk: Desk) -> None:
    job = desk.one(item(not_before_ms=NOW + 1_000))

    early, late = desk.admit(), desk.admit(asking(now_ms=NOW + 1_000))

    assert (early.grants, early.next_ms) == ((), NOW + 1_000)
    assert [job.id] == [grant.job.id for grant in late.grants]
