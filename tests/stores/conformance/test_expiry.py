"""What is said of a job whose deadline passed in the queue: what it waited for."""

from __future__ import annotations

from dataclasses import replace

from stores.builders import NOW, Desk, asking, cooling, failed, item, limited

from claude_jobs.domain.job import DependencyMode, Failure, Job, JobState, Reason
from claude_jobs.domain.token import TokenNote
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import AdmitRequest, Limits

DEADLINE = NOW + 10
LATE = asking(free=0, now_ms=NOW + 20)


def said(desk: Desk, job: Job, request: AdmitRequest = LATE) -> str:
    """The middle of the message; the rest is the same for all."""
    assert job.id in desk.store.admit(request).expired
    ended = desk.store.get(job.id)
    assert ended.outcome is not None
    assert (ended.state, ended.outcome.failure) == (JobState.EXPIRED, Failure.DEADLINE)
    before, _, rest = ended.outcome.message.partition("waited for ")
    what, _, after = rest.partition(". Retry it")
    assert (before, after) == ("The deadline passed while it ", ", or submit it with a later deadline.")
    return what


def test_the_dependencies_that_had_not_ended(desk: Desk) -> None:
    done, running, ready = desk.submit(item("done"), item("running"), item("ready"))
    desk.complete(done)
    desk.run(asking(free=1))
    job = desk.one(item(after=(done.id, running.id, ready.id), deadline_ms=DEADLINE))

    assert said(desk, job) == f"{running.id} (running), {ready.id} (ready)"


def test_one_of_many_dependencies(desk: Desk) -> None:
    needed = desk.submit(*(item(f"{n}") for n in range(7)))
    ids = tuple(job.id for job in needed)
    job = desk.one(item(after=ids, needs=DependencyMode.ANY, deadline_ms=DEADLINE))

    shown = ", ".join(f"{job_id} (ready)" for job_id in ids[:5])
    assert said(desk, job) == f"one of {shown} and 2 more"


def test_a_dependency_that_ran_out_of_time_with_it(desk: Desk) -> None:
    first = desk.one(item("first", deadline_ms=DEADLINE))
    job = desk.one(item("job", after=(first.id,), deadline_ms=DEADLINE))

    assert said(desk, job) == f"{first.id} (expired)"


def test_a_usage_limit_until_its_end(desk: Desk) -> None:
    job = desk.one(item(offers=("aaa",), deadline_ms=DEADLINE))
    desk.end(desk.run(), limited(resets_at_ms=NOW + 60_000))

    assert said(desk, job) == "the end of a usage limit, which lasts until 2027-01-15 08:01:00 UTC"


def test_a_usage_limit_that_others_had_met(desk: Desk) -> None:
    job = desk.one(item(offers=("aaa",), deadline_ms=DEADLINE))
    desk.store.note_token("aaa", cooling(NOW + 120_000), NOW)

    assert said(desk, job) == "the end of a usage limit, which lasts until 2027-01-15 08:02:00 UTC"


def test_a_backoff(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=DEADLINE))
    put_off = Disposition(
        trigger=Trigger.RETRY_LATER,
        reason=Reason.BACKOFF,
        not_before_ms=NOW + 30_000,
        trouble=Failure.SERVER_ERROR,
    )
    desk.finish(desk.run(), put_off, failed(Failure.SERVER_ERROR))

    assert said(desk, job) == "its next attempt after server_error, which was put off until 2027-01-15 08:00:30 UTC"


def test_a_time_before_which_it_was_not_to_run(desk: Desk) -> None:
    job = desk.one(item(not_before_ms=NOW + 3_600_000, deadline_ms=DEADLINE))

    assert said(desk, job) == "its time to begin: it was not to run until 2027-01-15 09:00:00 UTC"


def test_a_free_place_also_when_its_time_to_begin_had_come(desk: Desk) -> None:
    ready, due = desk.submit(item("a", deadline_ms=DEADLINE), item("b", not_before_ms=NOW + 5, deadline_ms=DEADLINE))
    full = replace(LATE, free=1, limits=Limits(running=0))

    assert said(desk, ready, full) == "a free place"
    assert "a free place" in _message(desk, due)


def test_a_credential(desk: Desk) -> None:
    nobodys, bad = desk.submit(
        item("a", offers=("zzz",), deadline_ms=DEADLINE), item("b", offers=("aaa",), deadline_ms=DEADLINE)
    )
    desk.store.note_token("aaa", TokenNote(quarantine="no such token."), NOW)

    assert said(desk, nobodys) == "a credential that a worker holds"
    assert "a credential that may be used (AAA (aaa): no such token). Retry" in _message(desk, bad)


def test_a_depth_that_is_not_admitted_any_more(desk: Desk) -> None:
    root = desk.one(item("root"))
    desk.run()
    job = desk.one(item("child", parent_id=root.id, deadline_ms=DEADLINE))

    assert said(desk, job, replace(LATE, limits=Limits(depth=0))) == (
        "a higher CLAUDE_MAX_RECURSION_DEPTH: it is at depth 1"
    )


def test_places_at_its_depth_if_there_are_none(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=DEADLINE))

    assert said(desk, job, replace(LATE, limits=Limits(at_depth=0))) == (
        "a higher CLAUDE_MAX_CONCURRENT_AT_DEPTH, which is 0"
    )


def test_room_in_its_tree(desk: Desk) -> None:
    root = desk.one(item("root"))
    desk.run()
    job = desk.one(item("child", parent_id=root.id, deadline_ms=DEADLINE))
    desk.store.admit(asking(total=1))

    late = asking(total=1, free=0, now_ms=NOW + 20)
    assert said(desk, job, late) == "a higher CLAUDE_MAX_TOTAL_JOBS: it is job 2 of its tree"


def test_the_reset_of_a_quota(desk: Desk) -> None:
    job = desk.one(item(deadline_ms=DEADLINE))
    held = Disposition(trigger=Trigger.RETRY_LATER, reason=Reason.LIMIT, not_before_ms=NOW + 60_000, counts=False)
    desk.finish(desk.run(), held)

    assert said(desk, job) == "the reset of a quota of its organization"


def test_a_worker_of_its_pool(desk: Desk) -> None:
    job = desk.one(item(pool="host:b", offers=("zzz",), deadline_ms=DEADLINE))

    assert said(desk, job) == "a worker that serves 'host:b'"


def _message(desk: Desk, job: Job) -> str:
    outcome = desk.store.get(job.id).outcome
    return outcome.message if outcome else ""
