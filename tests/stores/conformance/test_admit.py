"""Handing out work: order, caps, tokens, batches, deadlines, dead owners, clocks."""

from __future__ import annotations

import pytest
from stores.builders import NOW, TOKENS, Desk, asking, batch, failed, item, limited

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, Job, JobState, Outcome, Reason
from claude_jobs.domain.token import TokenKind, TokenNote
from claude_jobs.policy.rank import PRIORITY_MS
from claude_jobs.policy.retry import MAX_LOSSES, Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import Admission, AdmitRequest


def ids(admission: Admission) -> list[str]:
    return [grant.job.id for grant in admission.grants]


def test_a_grant_is_a_job_with_its_next_epoch_owner_token_and_permits(desk: Desk) -> None:
    job = desk.one()

    grant = desk.grant()

    assert desk.store.get(job.id) == grant.job
    assert (grant.job.state, grant.epoch, grant.job.owner, grant.token) == (JobState.ADMITTED, 1, "w1", "aaa")
    assert ("g", "d:0", f"r:{job.id}", "t:aaa", "h:w1") == grant.job.permits
    (attempt,) = desk.store.attempts(job.id)
    assert (attempt.epoch, attempt.token, attempt.owner, attempt.admitted_ms) == (1, "aaa", "w1", NOW)


def test_a_job_is_handed_out_once(desk: Desk) -> None:
    desk.submit(*(item() for _ in range(5)))

    first, second = desk.admit(asking(free=3)), desk.admit(asking(owner="w2"))

    assert (len(first.grants), len(second.grants)) == (3, 2)
    assert len({*ids(first), *ids(second)}) == 5
    assert desk.store.owners() == ("w1", "w2")
    assert desk.admit().grants == ()


def test_no_free_slot_no_job(desk: Desk) -> None:
    desk.one()

    assert desk.admit(asking(free=0)).grants == ()


def test_oldest_first_in_order_of_submission(desk: Desk) -> None:
    jobs = desk.submit(*(item() for _ in range(4)))

    assert [job.id for job in jobs] == ids(desk.admit())


def test_priority_is_a_head_start_of_a_minute(desk: Desk) -> None:
    old = desk.submit(item("old"))[0]
    urgent = desk.submit(item("urgent", priority=2), now_ms=NOW + PRIORITY_MS)[0]
    late = desk.submit(item("late", priority=2), now_ms=NOW + 3 * PRIORITY_MS)[0]

    assert [urgent.id, old.id, late.id] == ids(desk.admit())


def test_an_unimportant_job_does_not_starve(desk: Desk) -> None:
    poor = desk.one(item(priority=-5))

    for minute in range(15):
        now_ms = NOW + minute * PRIORITY_MS
        desk.submit(item(), item(), now_ms=now_ms)
        granted = desk.admit(asking(free=1, now_ms=now_ms)).grants
        if granted[0].job.id == poor.id:
            return
    pytest.fail("it never came to its turn")


def test_only_pools_that_were_asked_for(desk: Desk) -> None:
    mine, other = desk.submit(item(), item(pool="host:b"))

    assert [mine.id] == ids(desk.admit())
    assert [other.id] == ids(desk.admit(asking(pools=("host:b", "host:c"))))


def test_caps_are_kept(desk: Desk) -> None:
    desk.submit(*(item() for _ in range(10)))

    assert len(desk.admit(asking(running=4)).grants) == 4
    assert len(desk.admit(asking(owner="w2", running=4)).grants) == 0
    assert len(desk.admit(asking(owner="w2", per_token=2)).grants) == 2


def test_caps_lowered_while_full_only_stop_new_jobs(desk: Desk) -> None:
    desk.submit(*(item() for _ in range(6)))
    first = desk.admit(asking(free=4))

    assert desk.admit(asking(running=2)).grants == ()
    for grant in first.grants[:3]:
        desk.store.begin(grant.job.id, grant.epoch, None, NOW)
        desk.end(grant)
    assert len(desk.admit(asking(running=2)).grants) == 1


def test_zero_means_zero(desk: Desk) -> None:
    desk.one()

    assert desk.admit(asking(running=0)).grants == ()
    assert desk.admit(asking(per_token=0)).grants == ()


def test_tokens_are_dealt_in_turn(desk: Desk) -> None:
    desk.submit(*(item() for _ in range(6)))

    assert [*TOKENS, *TOKENS] == [grant.token for grant in desk.admit().grants]


def test_only_tokens_that_were_offered_and_are_held(desk: Desk) -> None:
    desk.submit(item(offers=("bbb", "ccc")), item(offers=("aaa",)))

    (grant,) = desk.admit(asking(held=("ccc",))).grants

    assert grant.token == "ccc"


def test_a_job_without_a_usable_token_does_not_hold_up_the_others(desk: Desk) -> None:
    stuck = desk.submit(*(item(offers=("zzz",), priority=9) for _ in range(20)))
    job = desk.one()

    assert [job.id] == ids(desk.admit())
    assert JobState.READY is desk.store.get(stuck[0].id).state


def test_a_cooling_token_wakes_the_queue_at_its_reset(desk: Desk) -> None:
    job = desk.one(item(offers=("aaa",)))
    desk.store.note_token("aaa", TokenNote(cool_window="five_hour", cool_until_ms=NOW + 7_000), NOW)

    waiting = desk.admit()
    woken = desk.admit(asking(now_ms=NOW + 7_000))

    assert (waiting.grants, waiting.next_ms) == ((), NOW + 7_000)
    assert [job.id] == ids(woken)


def test_a_login_that_has_not_answered_takes_one_job(desk: Desk) -> None:
    desk.know("login", kind=TokenKind.LOGIN)
    desk.submit(*(item(offers=("login",)) for _ in range(3)))
    (first,) = desk.admit(asking(held=("login",))).grants
    cold = desk.admit(asking(held=("login",)))
    desk.store.note_token(first.token, TokenNote(warm=True), NOW)

    assert cold.grants == ()
    assert len(desk.admit(asking(held=("login",))).grants) == 2


def test_a_token_taken_away_while_held_keeps_its_job_and_gets_no_other(desk: Desk) -> None:
    desk.submit(item(offers=("aaa",)), item(offers=("aaa",)))
    (grant,) = desk.admit(asking(free=1)).grants
    desk.store.note_token("aaa", TokenNote(quarantine="revoked"), NOW)
    desk.store.begin(grant.job.id, grant.epoch, None, NOW)

    assert desk.admit().grants == ()
    assert desk.admit(asking(held=())).grants == ()
    assert desk.end(grant)
    assert [token.running for token in desk.store.tokens()] == [0, 0, 0]


def test_max_parallel_of_a_batch(desk: Desk) -> None:
    items = [item(f"{n}", model="opus" if n % 2 else "sonnet") for n in range(6)]
    jobs = [receipt.job for receipt in desk.store.submit(batch(*items, batch_id="B", max_parallel=2))]
    first = desk.admit()
    blocked = desk.admit()
    desk.store.begin(jobs[0].id, 1, None, NOW)
    desk.end(first.grants[0])

    assert [jobs[0].id, jobs[1].id] == ids(first)
    assert blocked.grants == ()
    assert [jobs[2].id] == ids(desk.admit())


def test_a_full_batch_does_not_hold_up_the_jobs_behind_it(desk: Desk) -> None:
    desk.store.submit(batch(*(item() for _ in range(5)), batch_id="B", max_parallel=1))
    other = desk.submit(item("other"), now_ms=NOW + 1)[0]

    assert other.id == ids(desk.admit())[1]


def test_a_batch_that_is_joined_is_one_under_the_latest_cap(desk: Desk) -> None:
    old = [receipt.job for receipt in desk.store.submit(batch(item("a"), item("b"), batch_id="B", max_parallel=1))]
    first = ids(desk.admit())
    new = [receipt.job for receipt in desk.store.submit(batch(item("c"), item("d"), batch_id="B", max_parallel=3))]

    assert first == [old[0].id]
    assert ids(desk.admit()) == [old[1].id, new[0].id]
    assert ids(desk.admit()) == []


def test_a_batch_can_be_given_other_rules(desk: Desk) -> None:
    jobs = [receipt.job for receipt in desk.store.submit(batch(*(item() for _ in range(4)), batch_id="B"))]
    desk.store.set_batch("B", max_parallel=1, fail_fast=True)
    first = desk.admit()
    second = ids(desk.admit())
    desk.store.set_batch("B", max_parallel=2, fail_fast=True)
    third = ids(desk.admit())
    desk.store.begin(jobs[0].id, 1, None, NOW)
    desk.close(first.grants[0], Failure.REFUSED)

    assert (ids(first), second, third) == ([jobs[0].id], [], [jobs[1].id])
    assert [desk.store.get(job.id).state for job in jobs[2:]] == [JobState.CANCELLED] * 2


def test_rules_for_a_batch_without_jobs_are_ignored(desk: Desk) -> None:
    desk.store.set_batch("B", max_parallel=0, fail_fast=True)
    desk.store.set_batch("", max_parallel=0, fail_fast=True)
    jobs = desk.submit(item(), item())

    assert ids(desk.admit()) == [job.id for job in jobs]


def test_overdue_jobs_in_the_queue_expire(desk: Desk) -> None:
    sleeping = desk.one(item(not_before_ms=NOW + 50, deadline_ms=NOW + 20))
    ready = desk.one(item(deadline_ms=NOW + 10))

    assert desk.admit(asking(free=0)).next_ms == NOW + 10
    admission = desk.admit(asking(now_ms=NOW + 20))

    assert ([], {sleeping.id, ready.id}) == (ids(admission), set(admission.expired))
    ended = desk.store.get(ready.id)
    assert (ended.state, ended.finished_ms) == (JobState.EXPIRED, NOW + 20)
    assert ended.outcome is not None
    assert Failure.DEADLINE is ended.outcome.failure


def test_overdue_running_jobs_are_named_to_their_owner(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=NOW + 10))
    desk.run()

    assert (job.id,) == desk.admit(asking(now_ms=NOW + 10)).overdue
    assert desk.admit(asking(owner="w2", now_ms=NOW + 10)).overdue == ()


def test_nothing_to_wait_for(desk: Desk) -> None:
    assert Admission() == desk.admit()


def test_a_dead_owners_jobs_go_on_elsewhere_without_losing_their_place(desk: Desk) -> None:
    job = desk.one()
    desk.submit(item("younger"), now_ms=NOW + 1)
    desk.run(asking(owner="w1", free=1))

    admission = desk.admit(asking(owner="w2", dead=("w1",), free=1))

    (grant,) = admission.grants
    assert ((job.id,), job.id, 2) == (admission.reaped, grant.job.id, grant.epoch)
    assert (1, 0, job.rank) == (grant.job.losses, grant.job.attempts, grant.job.rank)
    assert Failure.OWNER_LOST is desk.store.attempts(job.id)[0].failure
    assert desk.store.owners() == ("w2",)


def test_an_admitted_job_that_never_began_is_taken_back_too(desk: Desk) -> None:
    job = desk.one()
    desk.grant()

    assert (job.id,) == desk.admit(asking(owner="w2", dead=("w1",))).reaped
    assert not desk.store.begin(job.id, 1, None, NOW)


def test_a_job_that_keeps_killing_workers_ends(desk: Desk) -> None:
    job = desk.one()
    for turn in range(MAX_LOSSES + 1):
        desk.run(asking(owner=f"w{turn}", dead=(f"w{turn - 1}",)))
    last = desk.admit(asking(owner="w", dead=(f"w{MAX_LOSSES}",)))

    assert ((), (job.id,)) == (last.grants, last.reaped)
    assert JobState.FAILED is desk.store.get(job.id).state


def test_a_cancelled_job_of_a_dead_owner_is_cancelled(desk: Desk) -> None:
    job = desk.one()
    desk.run()
    desk.store.cancel([job.id], "stop", NOW)

    assert desk.admit(asking(owner="w2", dead=("w1",))).grants == ()
    assert JobState.CANCELLED is desk.store.get(job.id).state


def retried(desk: Desk, outcome: Outcome, later: AdmitRequest) -> tuple[str, str]:
    first = desk.run()
    desk.end(first, outcome)
    return first.token, desk.grant(later).token


@pytest.mark.parametrize("outcome", [failed(), limited(), failed(Failure.AUTHENTICATION), failed(Failure.FORBIDDEN)])
def test_a_retry_goes_to_another_token_if_one_is_free(desk: Desk, outcome: Outcome) -> None:
    desk.one(item(offers=("aaa", "bbb")))

    first, second = retried(desk, outcome, asking(now_ms=NOW + 30_000))

    assert (first, second) == ("aaa", "bbb")


def test_a_retry_takes_the_same_token_if_no_other_is_there(desk: Desk) -> None:
    desk.one(item(offers=("aaa",)))

    assert retried(desk, failed(), asking(now_ms=NOW + 30_000)) == ("aaa", "aaa")


def test_the_clock_set_back_neither_loses_nor_doubles_jobs(desk: Desk) -> None:
    year_ms = 365 * 86_400_000
    desk.submit(*(item(f"{n}") for n in range(3)), now_ms=NOW + year_ms)
    first = desk.admit(asking(free=1, now_ms=NOW + year_ms))
    second = desk.admit(asking(owner="w2", now_ms=NOW))
    late = first.grants[0]
    desk.store.begin(late.job.id, late.epoch, None, NOW)
    disposition = Disposition(trigger=Trigger.RETRY_LATER, reason=Reason.BACKOFF, not_before_ms=NOW + year_ms + 5_000)
    desk.store.finish(late.job.id, late.epoch, failed(), disposition, None, NOW + year_ms)
    woken = desk.admit(asking(now_ms=NOW + 1))

    assert len({*ids(first), *ids(second)}) == 3
    assert [late.job.id] == ids(woken)


def test_the_clock_far_ahead_takes_nothing_from_live_owners(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()

    assert Admission() == desk.admit(asking(owner="w2", now_ms=NOW * 2))
    assert desk.end(grant)
    assert JobState.SUCCEEDED is desk.store.get(job.id).state


def test_admissions_are_in_the_log(desk: Desk) -> None:
    job: Job = desk.one()
    desk.grant(asking(now_ms=NOW + 40))

    event = desk.store.read(0, job.id)[-1]

    assert (event.kind, event.epoch) == (EventKind.ADMITTED, 1)
    assert event.data == {"owner": "w1", "token": "aaa", "waited_ms": 40, "depth": 0, "root_id": job.id}
