"""What running again may not do: outlive a cancel, go on for ever, take more time or money than there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from stores.builders import NOW, Desk, asking, batch, item

from claude_jobs.domain.job import Failure, Grant, Job, JobState
from claude_jobs.errors import InvalidRequest, NotPermitted, RecursionRefused
from claude_jobs.policy.recursion import MAX_RETRIES_BY_JOB, RecursionLimits

LATER = NOW + 10_000


@dataclass(frozen=True)
class Family:
    """A running root, and what it spawns."""

    desk: Desk
    root: Job
    grant: Grant

    def fail(self, *jobs: Job) -> None:
        for job in jobs:
            self.desk.complete(job, Failure.REFUSED)

    def child(self, prompt: str, parent: Job | None = None, **fields: Any) -> Job:
        one = item(prompt, parent_id=(parent or self.root).id, **fields)
        (receipt,) = self.desk.store.submit(batch(one, recursion=RecursionLimits()))
        return receipt.job

    def again(self, *jobs: Job, asker: Job | None = None, tree: bool = False) -> list[str]:
        """By the root, or whom it names."""
        ids = [job.id for job in jobs]
        return [job.id for job in self.desk.store.reopen(ids, LATER, tree=tree, asker=(asker or self.root).id)]

    def by_user(self, *jobs: Job, tree: bool = False) -> list[str]:
        return [job.id for job in self.desk.store.reopen([job.id for job in jobs], LATER, tree=tree)]


def family(desk: Desk, *, max_cost_usd: float | None = None, deadline_ms: int | None = None) -> Family:
    root = desk.one(item("root", max_cost_usd=max_cost_usd, deadline_ms=deadline_ms))
    return Family(desk, root, desk.run())


def test_a_job_may_run_each_of_its_jobs_again_a_few_times_named_or_not(desk: Desk) -> None:
    home = family(desk)
    request = batch(item("a", parent_id=home.root.id), item("b", parent_id=home.root.id, after=("#0",)), batch_id="B")
    a, b = (receipt.job for receipt in desk.store.submit(request))
    desk.complete(a)
    home.fail(b)
    for _ in range(MAX_RETRIES_BY_JOB):
        assert home.again(a, tree=True) == [b.id]
        home.fail(b)

    with pytest.raises(RecursionRefused) as refused:
        home.again(a, tree=True)

    assert (refused.value.limit, refused.value.value) == ("retries", MAX_RETRIES_BY_JOB)
    assert f"claude-jobs retry {b.id}" in refused.value.message
    assert home.by_user(b) == [b.id]


def test_a_job_runs_again_what_is_below_it_and_nothing_else(desk: Desk) -> None:
    home = family(desk)
    child, stranger = home.child("child"), desk.one(item("stranger"))
    grants = desk.start()
    below = home.child("below", child)
    home.fail(below)
    desk.close(grants[stranger.id], Failure.REFUSED)

    assert home.again(below) == [below.id]
    for asker, job in ((home.root, stranger), (child, child), (stranger, below)):
        with pytest.raises(NotPermitted, match=f"{job.id!r} is none of them"):
            home.again(job, asker=asker)
    assert desk.store.get(stranger.id).state is JobState.FAILED


def test_what_others_have_waiting_for_it_does_not_come_back_with_it(desk: Desk) -> None:
    home = family(desk)
    child = home.child("child")
    own, foreign = home.child("own", after=(child.id,)), desk.one(item("foreign", after=(child.id,)))
    home.fail(child)

    assert home.again(child) == [child.id, own.id]
    assert desk.store.get(foreign.id).state is JobState.FAILED


def test_nothing_runs_again_while_a_job_above_it_is_being_cancelled(desk: Desk) -> None:
    home = family(desk)
    child = home.child("child")
    grants = desk.start()
    below = home.child("below", child)
    desk.store.cancel([home.root.id], "enough", NOW)
    desk.close(grants[child.id], Failure.CANCELLED)

    for refusing in (home.again, home.by_user):
        for job, tree in ((child, False), (below, False), (child, True)):
            with pytest.raises(InvalidRequest, match=f"{home.root.id!r}, which is being cancelled"):
                refusing(job, tree=tree)
    assert {desk.store.get(job.id).state for job in (child, below)} <= {JobState.FAILED, JobState.CANCELLED}


def test_below_a_cancelled_job_nothing_runs_again_without_it(desk: Desk) -> None:
    home = family(desk)
    child = home.child("child")
    desk.store.cancel([home.root.id], "enough", NOW)
    desk.close(home.grant, Failure.CANCELLED)

    with pytest.raises(InvalidRequest, match=f"was cancelled. Retry {home.root.id} instead"):
        home.by_user(child)
    assert home.by_user(home.root, child) == [home.root.id, child.id]


def test_what_a_cancelled_job_had_spawned_does_not_come_back_with_its_dependency(desk: Desk) -> None:
    home = family(desk)
    first = desk.one(item("first"))
    middle = home.child("middle")
    grants = desk.start()
    follower = home.child("follower", middle, after=(first.id,))
    desk.close(grants[first.id], Failure.REFUSED)
    desk.store.cancel([middle.id], "enough", NOW)
    desk.close(grants[middle.id], Failure.CANCELLED)

    assert home.by_user(first) == [first.id]
    assert desk.store.get(follower.id).state is JobState.FAILED


def test_a_tree_that_succeeded_in_spite_of_a_cancel_can_be_completed(desk: Desk) -> None:
    home = family(desk)
    child = home.child("child")
    desk.store.cancel([home.root.id], "enough", NOW)
    desk.close(home.grant)

    assert desk.store.get(home.root.id).state is JobState.SUCCEEDED
    assert home.by_user(home.root, tree=True) == [child.id]


@pytest.mark.parametrize("failure", [Failure.NONE, Failure.REFUSED])
def test_a_job_brings_nothing_back_below_one_that_has_ended(desk: Desk, failure: Failure) -> None:
    home = family(desk)
    child = home.child("child")
    grants = desk.start()
    below = home.child("below", child)
    home.fail(below)
    desk.close(grants[child.id], failure)

    with pytest.raises(InvalidRequest, match=f"{below.id!r} cannot run again below {child.id!r}"):
        home.again(below)
    with pytest.raises(InvalidRequest):
        home.again(below, asker=child)
    assert home.by_user(below) == [below.id]


@pytest.mark.parametrize(
    ("above", "own", "then"),
    [
        (LATER + 9, NOW + 1, LATER + 9),
        (LATER + 9, LATER + 5, LATER + 5),
        (LATER - 1, NOW + 1, LATER - 1),
        (None, NOW + 1, None),
    ],
)
def test_a_deadline_that_is_over_gives_way_to_that_of_the_job_above(
    desk: Desk, above: int | None, own: int, then: int | None
) -> None:
    home = family(desk, deadline_ms=above)
    child = home.child("child", deadline_ms=own)
    home.fail(child)
    home.again(child)

    assert desk.store.get(child.id).deadline_ms == then


def test_below_a_job_that_ended_by_its_deadline_a_user_gets_time_again(desk: Desk) -> None:
    home = family(desk, deadline_ms=NOW + 5)
    child = home.child("child", deadline_ms=NOW + 5)
    home.fail(child)
    desk.close(home.grant, Failure.DEADLINE)
    home.by_user(child)

    assert desk.store.get(child.id).deadline_ms is None


def test_money_that_went_to_another_is_not_there_a_second_time(desk: Desk) -> None:
    home = family(desk, max_cost_usd=1.0)
    first = home.child("first", max_cost_usd=0.9)
    home.fail(first)
    second = home.child("second", max_cost_usd=0.9)

    for refusing in (home.again, home.by_user):
        with pytest.raises(RecursionRefused, match=r"had \$0.9 of the budget") as refused:
            refusing(first)
        assert refused.value.limit == "budget"
        assert "Wait for other children to end" in refused.value.message
    assert desk.store.get(first.id).state is JobState.FAILED
    home.fail(second)
    assert home.again(first) == [first.id]


def test_those_that_come_back_together_share_what_is_left(desk: Desk) -> None:
    home = family(desk, max_cost_usd=1.0)
    jobs: list[Job] = []
    for prompt in ("first", "second"):
        jobs.append(home.child(prompt, max_cost_usd=0.6))
        home.fail(jobs[-1])

    with pytest.raises(RecursionRefused):
        home.again(*jobs)
    assert [desk.store.get(job.id).state for job in jobs] == [JobState.FAILED] * 2
    assert home.again(jobs[1]) == [jobs[1].id]


def test_below_an_ended_job_the_money_is_that_of_the_next_one_above(desk: Desk) -> None:
    home = family(desk, max_cost_usd=1.0)
    child = home.child("child", max_cost_usd=0.8)
    grants = desk.start()
    below = home.child("below", child, max_cost_usd=0.5)
    home.fail(below)
    desk.close(grants[child.id], Failure.REFUSED)
    other = home.child("other", max_cost_usd=0.7)

    with pytest.raises(RecursionRefused, match=f"budget of job {home.root.id!r}"):
        home.by_user(below)
    desk.store.cancel([other.id], "enough", NOW)
    assert home.by_user(below) == [below.id]
    assert desk.admit(asking(now_ms=LATER)).grants[0].job.id == below.id
