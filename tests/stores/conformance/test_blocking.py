"""Jobs that wait for others: their permits are free meanwhile, everything else about them goes on."""

from __future__ import annotations

from stores.builders import NOW, Desk, asking, cooling, failed, item

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import Failure, JobState, Outcome, Progress, PublicState
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import Beat, Limits

HELD = frozenset({"aaa", "bbb", "ccc"})


def running(desk: Desk) -> dict[str, int]:
    return {state.fingerprint: state.running for state in desk.store.tokens() if state.running}


def test_blocking_frees_the_permits_and_unblocking_takes_them_again(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()
    before = desk.store.get(job.id)

    assert desk.store.block(job.id, grant.epoch, NOW + 1)
    blocked, free = desk.store.get(job.id), running(desk)
    assert desk.store.unblock(job.id, grant.epoch, NOW + 2)

    assert (blocked.state, blocked.permits, blocked.owner, blocked.token) == (JobState.BLOCKED, (), "w1", "aaa")
    assert (free, running(desk)) == ({}, {"aaa": 1})
    assert desk.store.get(job.id) == before
    kinds = [(event.kind, event.at_ms, event.data) for event in desk.store.read(0, job.id)][-2:]
    assert kinds == [(EventKind.BLOCKED, NOW + 1, {}), (EventKind.UNBLOCKED, NOW + 2, {})]


def test_only_a_running_job_blocks_and_only_a_blocked_one_unblocks(desk: Desk) -> None:
    job = desk.one()
    grant = desk.grant()

    assert not desk.store.block(job.id, grant.epoch, NOW)
    desk.store.begin(job.id, grant.epoch, None, NOW)
    assert not desk.store.unblock(job.id, grant.epoch, NOW)
    assert not desk.store.block(job.id, grant.epoch + 1, NOW)
    assert desk.store.block(job.id, grant.epoch, NOW)
    assert not desk.store.block(job.id, grant.epoch, NOW)
    assert not desk.store.unblock(job.id, grant.epoch - 1, NOW)
    assert not desk.store.block("j-none", 1, NOW)
    assert not desk.store.unblock("j-none", 1, NOW)


def test_with_one_slot_and_one_token_three_levels_of_waiting_parents_finish(desk: Desk) -> None:
    narrow = asking(running=1, per_token=1, at_depth=1, held=("aaa",))
    above: list[tuple[str, int]] = []
    for _ in range(3):
        desk.one(item(f"level {len(above)}", parent_id=above[-1][0] if above else None))
        grant = desk.run(narrow)
        assert desk.admit(narrow).grants == ()
        assert desk.store.block(grant.job.id, grant.epoch, NOW)
        above.append((grant.job.id, grant.epoch))
    last = desk.one(item("leaf", parent_id=above[-1][0]))
    desk.close(desk.run(narrow))

    for job_id, epoch in reversed(above):
        assert desk.store.unblock(job_id, epoch, NOW)
        disposition = Disposition(trigger=Trigger.SUCCEED)
        assert desk.store.finish(job_id, epoch, Outcome(text="x"), disposition, None, NOW)

    states = [desk.store.get(job_id).state for job_id in (*(job_id for job_id, _ in above), last.id)]
    assert states == [JobState.SUCCEEDED] * 4
    assert running(desk) == {}


def test_unblocking_goes_past_full_caps(desk: Desk) -> None:
    first, second = desk.submit(item("parent"), item("other"))
    narrow = asking(running=1, per_token=1, at_depth=1, held=("aaa",))
    grant = desk.run(narrow)
    desk.store.block(first.id, grant.epoch, NOW)
    other = desk.run(narrow)

    assert other.job.id == second.id
    assert desk.store.unblock(first.id, grant.epoch, NOW)
    assert running(desk) == {"aaa": 2}
    assert desk.admit(asking(running=2, per_token=2, at_depth=2, held=("aaa",))).grants == ()


def test_a_blocked_job_is_still_its_owners(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=NOW + 50))
    grant = desk.run()
    desk.store.block(job.id, grant.epoch, NOW)
    kept = desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT)], Progress(turns=2), NOW)

    assert kept
    assert desk.store.get(job.id).progress.turns == 2
    assert desk.store.owners() == ("w1",)
    assert [attempt.job_id for attempt in desk.store.owned("w1")] == [job.id]
    assert desk.store.beat("w1", [(job.id, 1)], NOW) == Beat()
    assert desk.admit(asking(now_ms=NOW + 50)).overdue == (job.id,)
    assert desk.store.counts().by_state == {PublicState.BLOCKED: 1}
    assert desk.store.begin(job.id, 1, None, NOW, session_id="another")
    assert desk.store.get(job.id).session_id == "another"


def test_a_blocked_job_of_a_dead_owner_goes_on_elsewhere(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()
    desk.store.block(job.id, grant.epoch, NOW)

    again = desk.run(asking(owner="w2", dead=("w1",)))

    assert (again.job.id, again.epoch, again.job.losses) == (job.id, 2, 1)
    assert not desk.store.unblock(job.id, grant.epoch, NOW)
    assert running(desk) == {again.token: 1}


def test_a_blocked_job_can_be_cancelled_finished_and_retried(desk: Desk) -> None:
    desk.submit(item("cancelled"), item("succeeded"), item("retried"))
    cancelled, succeeded, retried = desk.start().values()
    for grant in (cancelled, succeeded, retried):
        desk.store.block(grant.job.id, grant.epoch, NOW)
    desk.store.cancel([cancelled.job.id], "enough", NOW)
    flagged = desk.store.beat("w1", [], NOW).cancel

    assert flagged == ((cancelled.job.id, "enough"),)
    assert desk.end(cancelled, failed(Failure.CANCELLED))
    assert desk.end(succeeded)
    assert desk.end(retried, failed(Failure.INTERRUPTED))
    states = [desk.store.get(grant.job.id).state for grant in (cancelled, succeeded, retried)]
    assert states == [JobState.CANCELLED, JobState.SUCCEEDED, JobState.READY]
    assert running(desk) == {}


def test_a_blocked_job_changes_its_token_and_takes_the_new_one_when_it_wakes(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()
    desk.store.block(job.id, grant.epoch, NOW)

    assert desk.store.move(job.id, grant.epoch, cooling(), HELD, Limits(), NOW) == "bbb"
    assert running(desk) == {}
    assert desk.store.unblock(job.id, grant.epoch, NOW)
    assert running(desk) == {"bbb": 1}
