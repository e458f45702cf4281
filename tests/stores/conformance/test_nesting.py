"""Jobs that spawn jobs: lineage, limits at submit and at admit, budgets, order, sessions."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, batch, cooling, item

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, Grant, Job, JobState, Outcome, Progress, Reason
from claude_jobs.domain.usage import NANO, Usage
from claude_jobs.errors import InvalidRequest, QueueFull, RecursionRefused
from claude_jobs.policy.rank import PRIORITY_MS
from claude_jobs.policy.recursion import RATE_WINDOW_MS, RecursionLimits
from claude_jobs.stores.base import HOLD_MS, AdmitRequest

ROOMY = RecursionLimits(depth=9, total=99, rate=99)


def children(
    desk: Desk,
    parent: Job,
    count: int,
    limits: RecursionLimits = ROOMY,
    *,
    now_ms: int = NOW,
    cost: float | None = None,
) -> list[Job]:
    items = [item(f"{parent.id}.{n}.{now_ms}", parent_id=parent.id, max_cost_usd=cost) for n in range(count)]
    return [receipt.job for receipt in desk.store.submit(batch(*items, now_ms=now_ms, recursion=limits))]


def refused(desk: Desk, parent: Job, limits: RecursionLimits, *, count: int = 1, now_ms: int = NOW) -> RecursionRefused:
    before = desk.store.read(0, limit=9_999)
    with pytest.raises(RecursionRefused) as error:
        children(desk, parent, count, limits, now_ms=now_ms)
    assert desk.store.read(0, limit=9_999) == before
    return error.value


def ids(desk: Desk, request: AdmitRequest) -> list[str]:
    return [grant.job.id for grant in desk.admit(request).grants]


def test_ordinals_count_the_tree(desk: Desk) -> None:
    root, other = desk.submit(item("root"), item("other"))
    first, second = children(desk, root, 2)
    (grandchild,) = children(desk, first, 1)

    assert [job.ordinal for job in (root, other, first, second, grandchild)] == [1, 1, 2, 3, 4]
    event = desk.store.read(0, grandchild.id)[0]
    assert event.kind is EventKind.SUBMITTED
    assert [event.data[name] for name in ("parent_id", "root_id", "depth", "ordinal")] == [first.id, root.id, 2, 4]


def test_depth_is_bounded_and_the_error_shows_the_chain(desk: Desk) -> None:
    root = desk.one()
    (child,) = children(desk, root, 1)

    error = refused(desk, child, RecursionLimits(depth=1, total=99, rate=99))

    assert (error.limit, error.value, error.chain) == ("depth", 1, (root.id, child.id))
    assert refused(desk, root, RecursionLimits(depth=0)).limit == "depth"


def test_the_total_holds_over_several_parents_and_within_one_request(desk: Desk) -> None:
    root = desk.one()
    first, second = children(desk, root, 2)
    limits = RecursionLimits(depth=9, total=5, rate=99)

    assert refused(desk, first, limits, count=3).limit == "total"
    children(desk, first, 1, limits)
    children(desk, second, 1, limits)
    assert refused(desk, root, limits).value == 5


def test_a_retry_and_a_known_key_do_not_count(desk: Desk) -> None:
    root = desk.one()
    limits = RecursionLimits(depth=9, total=2, rate=1)
    child = item("child", parent_id=root.id, key="k")
    first = desk.store.submit(batch(child, recursion=limits))[0]
    again = desk.store.submit(batch(child, recursion=limits))[0]

    assert (first.is_new, again.is_new) == (True, False)
    assert first.job.id == again.job.id
    assert refused(desk, root, limits).limit == "total"


def test_the_rate_is_per_tree_and_minute_and_says_when_to_come_back(desk: Desk) -> None:
    root, other = desk.submit(item("root"), item("other"))
    limits = RecursionLimits(depth=9, total=99, rate=3)
    children(desk, root, 2, limits)
    children(desk, root, 1, limits, now_ms=NOW + 10_000)

    error = refused(desk, root, limits, now_ms=NOW + 20_000)

    assert (error.limit, error.retry_after_s) == ("rate", 40)
    children(desk, other, 3, limits)
    assert refused(desk, root, limits, count=3, now_ms=NOW + RATE_WINDOW_MS).limit == "rate"
    children(desk, root, 2, limits, now_ms=NOW + RATE_WINDOW_MS)


def test_a_job_may_not_be_its_own_ancestor(desk: Desk) -> None:
    root = desk.one(item("count  the LINES"))
    (child,) = children(desk, root, 1)
    with pytest.raises(RecursionRefused) as error:
        desk.store.submit(batch(item("Count the lines", parent_id=child.id), recursion=ROOMY))

    assert (error.value.limit, error.value.chain) == ("cycle", (root.id, child.id))


def test_without_limits_nothing_is_checked(desk: Desk) -> None:
    root = desk.one(item("same"))

    assert desk.one(item("same", parent_id=root.id)).ordinal == 2


def test_totals_survive_pruning(desk: Desk) -> None:
    root = desk.one()
    grant = desk.run()
    for _ in range(2):
        desk.one(item("child", parent_id=root.id))
        desk.close(desk.run())
    desk.close(grant, Failure.BAD_REQUEST, now_ms=NOW + 10)

    assert desk.store.prune(NOW + 5) == 2
    desk.store.reopen([root.id], NOW + 20)
    assert desk.one(item("another", parent_id=root.id)).ordinal == 4


def test_a_child_is_never_behind_its_parent(desk: Desk) -> None:
    root = desk.one()
    desk.run()
    later = NOW + 5 * PRIORITY_MS
    rival = desk.submit(item("rival", priority=3), now_ms=NOW + PRIORITY_MS)[0]
    child, urgent = desk.submit(
        item("child", parent_id=root.id), item("urgent", parent_id=root.id, priority=9), now_ms=later
    )

    assert (child.rank, urgent.rank) == (root.rank, later - 9 * PRIORITY_MS)
    assert ids(desk, asking(now_ms=later)) == [urgent.id, rival.id, child.id]


def budgets(desk: Desk, parent: Job, *asked: float | None) -> list[float | None]:
    items = [item(f"{n}", parent_id=parent.id, max_cost_usd=cost) for n, cost in enumerate(asked)]
    receipts = desk.store.submit(batch(*items, recursion=ROOMY))
    return [receipt.job.spec.max_cost_usd for receipt in receipts]


def test_a_budget_is_shared_out_evenly_and_a_share_stays(desk: Desk) -> None:
    parent = desk.one(item(max_cost_usd=8))

    assert budgets(desk, parent, None, 2, None) == [2, 2, 2]


def test_what_the_parent_and_its_children_used_is_gone(desk: Desk) -> None:
    parent = desk.one(item(max_cost_usd=8))
    desk.run()
    desk.store.append(parent.id, 1, [], Progress(cost_nusd=NANO), NOW)
    (child,) = children(desk, parent, 1, cost=6)
    grant = desk.run()
    assert grant.job.id == child.id
    with pytest.raises(RecursionRefused) as error:
        budgets(desk, parent, 2)
    desk.end(grant, Outcome(text="x", usage=Usage(cost_nusd=NANO)))

    assert error.value.limit == "budget"
    assert budgets(desk, parent, 4, None) == [4, 1]


def test_what_is_asked_within_one_request_is_added_up(desk: Desk) -> None:
    parent = desk.one(item(max_cost_usd=8))
    with pytest.raises(RecursionRefused):
        budgets(desk, parent, 5, 4)

    assert budgets(desk, parent, 4, 4) == [4, 4]


def test_a_share_is_no_part_of_what_a_key_stands_for(desk: Desk) -> None:
    parent = desk.one(item(max_cost_usd=8))
    asked = batch(item("child", parent_id=parent.id, key="k"), recursion=ROOMY)
    first = desk.store.submit(asked)[0].job

    assert first.spec.max_cost_usd == 4
    assert desk.store.submit(asked)[0].job == first


def test_a_full_queue_refuses_children_too(desk: Desk) -> None:
    root = desk.one()
    desk.run()

    with pytest.raises(QueueFull):
        desk.store.submit(batch(item("child", parent_id=root.id), queue_size=0, recursion=ROOMY))


def test_a_session_belongs_to_one_unfinished_job(desk: Desk) -> None:
    first = desk.one()
    with pytest.raises(InvalidRequest) as busy:
        desk.one(item("go on", session_id=first.session_id))
    desk.complete(first)
    with pytest.raises(InvalidRequest):
        desk.submit(*(item("go on", session_id=first.session_id) for _ in range(2)))
    second = desk.one(item("go on", session_id=first.session_id))

    assert busy.value.field == "resume"
    assert first.id in busy.value.message
    assert second.session_id == first.session_id
    with pytest.raises(InvalidRequest):
        desk.one(item("and on", session_id=first.session_id))


def tree_of_three(desk: Desk) -> tuple[Job, Job, Job, Grant]:
    """A running root, with a ready child and grandchild."""
    root = desk.one()
    grant = desk.run()
    (child,) = children(desk, root, 1)
    (grandchild,) = children(desk, child, 1)
    return root, child, grandchild, grant


def test_the_cap_of_a_depth_holds_up_that_depth_only(desk: Desk) -> None:
    desk.submit(*(item(f"root {n}") for n in range(3)))
    held = desk.admit(asking(at_depth=2)).grants
    root = held[0].job
    first, *_ = children(desk, root, 3)
    (grandchild,) = children(desk, first, 1)

    assert len(held) == 2
    nested = desk.admit(asking(at_depth=2))
    assert sorted(grant.job.depth for grant in nested.grants) == [1, 1, 2]
    assert grandchild.id in {grant.job.id for grant in nested.grants}
    assert nested.next_ms is None
    assert ids(desk, asking(at_depth=2)) == []
    assert sorted(job.depth for job in (grant.job for grant in desk.admit(asking(at_depth=3)).grants)) == [0, 1]


def test_a_full_depth_is_waited_for_and_not_asked_again(desk: Desk) -> None:
    desk.submit(item("a", offers=("aaa",)), item("b", offers=("bbb",)))
    desk.run(asking(free=1))
    desk.store.note_token("bbb", cooling(NOW + 5_000), NOW)

    assert desk.admit(asking(at_depth=1)).next_ms is None
    assert desk.admit(asking(at_depth=2)).next_ms == NOW + 5_000


def test_zero_at_a_depth_means_zero(desk: Desk) -> None:
    desk.one()

    assert ids(desk, asking(at_depth=0)) == []


def test_what_is_too_deep_stays_in_the_queue(desk: Desk) -> None:
    _, child, grandchild, _ = tree_of_three(desk)

    assert ids(desk, asking(depth=1)) == [child.id]
    assert desk.store.get(grandchild.id).state is JobState.READY
    assert desk.admit(asking(depth=1)).next_ms is None
    assert ids(desk, asking(depth=2)) == [grandchild.id]


def test_what_is_beyond_the_total_is_held_back_for_a_while(desk: Desk) -> None:
    _, child, grandchild, _ = tree_of_three(desk)
    other = desk.one(item("other"))

    admission = desk.admit(asking(total=2))

    held = desk.store.get(grandchild.id)
    assert {grant.job.id for grant in admission.grants} == {child.id, other.id}
    assert (held.state, held.reason, held.not_before_ms) == (JobState.DELAYED, Reason.LIMIT, NOW + HOLD_MS)
    assert admission.next_ms == NOW + HOLD_MS
    assert ids(desk, asking(total=2, now_ms=NOW + HOLD_MS)) == []
    assert ids(desk, asking(total=3, now_ms=NOW + 2 * HOLD_MS)) == [grandchild.id]


def test_a_job_that_could_not_run_anyway_is_not_held_back(desk: Desk) -> None:
    _, child, grandchild, _ = tree_of_three(desk)

    assert ids(desk, asking(total=1, free=0)) == []
    assert desk.store.get(child.id).state is desk.store.get(grandchild.id).state is JobState.READY


def test_holding_back_does_not_outlive_a_clock_that_was_set_back(desk: Desk) -> None:
    year_ms = 365 * 86_400_000
    _, child, _, _ = tree_of_three(desk)
    desk.admit(asking(total=1, now_ms=NOW + year_ms))

    assert desk.store.get(child.id).state is JobState.DELAYED
    assert child.id in ids(desk, asking(now_ms=NOW + 1))


def test_nested_jobs_alone_deepest_first(desk: Desk) -> None:
    root, child, grandchild, _ = tree_of_three(desk)
    desk.one(item("urgent", priority=9))
    (sibling,) = children(desk, root, 1)

    assert ids(desk, asking(nested_first=True)) == [grandchild.id, child.id, sibling.id]


def test_roots_that_are_left_out_wake_nobody(desk: Desk) -> None:
    desk.one(item(offers=("aaa",)))
    desk.store.note_token("aaa", cooling(NOW + 5_000), NOW)

    assert desk.admit(asking(nested_first=True)).next_ms is None
    assert desk.admit(asking()).next_ms == NOW + 5_000


def test_by_rank_otherwise(desk: Desk) -> None:
    _, child, grandchild, _ = tree_of_three(desk)
    urgent = desk.one(item("urgent", priority=9))

    assert ids(desk, asking()) == [urgent.id, child.id, grandchild.id]
