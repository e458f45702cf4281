"""An attempt's life: begin, beat, log, move, finish; the epoch fence around all of it."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, cooling, failed, item, limited

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import Failure, JobState, Outcome, ProcessRef, Progress, Reason
from claude_jobs.domain.token import TokenKind
from claude_jobs.domain.usage import Usage
from claude_jobs.errors import InvalidTransition
from claude_jobs.policy.retry import MAX_MOVES, Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import MAX_EVENTS_PER_JOB, Beat, Limits

HELD = frozenset({"aaa", "bbb", "ccc"})
PROCESS = ProcessRef(pid=41, pgid=41, started_ticks=9, boot_id="b")


def test_begin_makes_it_run_and_records_the_process(desk: Desk) -> None:
    desk.one()
    grant = desk.grant()

    assert desk.store.begin(grant.job.id, 1, None, NOW + 1)
    assert desk.store.begin(grant.job.id, 1, PROCESS, NOW + 2)

    job = desk.store.get(grant.job.id)
    (attempt,) = desk.store.owned("w1")
    assert (job.state, job.started_ms) == (JobState.RUNNING, NOW + 1)
    assert (attempt.process, attempt.started_ms) == (PROCESS, NOW + 1)
    assert sum(event.kind is EventKind.STARTED for event in desk.store.read(0, job.id)) == 1


def test_a_new_session_of_a_running_attempt_is_recorded_and_has_cost_nothing(desk: Desk) -> None:
    job = desk.one()
    desk.end(desk.run(), Outcome(failure=Failure.INTERRUPTED, session_cost_nusd=7))
    grant = desk.run()
    before = desk.store.get(job.id)

    assert desk.store.begin(job.id, grant.epoch, PROCESS, NOW, session_id="another")
    assert desk.store.begin(job.id, grant.epoch, PROCESS, NOW)
    assert not desk.store.begin(job.id, grant.epoch - 1, None, NOW, session_id="stale")

    after = desk.store.get(job.id)
    assert (before.session_id, before.session_cost_nusd) == (job.session_id, 7)
    assert (after.session_id, after.session_cost_nusd) == ("another", 0)
    assert (after.state, after.permits) == (JobState.RUNNING, before.permits)


def test_a_stale_epoch_touches_nothing(desk: Desk) -> None:
    job = desk.one()
    zombie = desk.run()
    live = desk.run(asking(owner="w2", dead=("w1",)))
    before = desk.store.get(job.id), desk.store.read(0)

    assert not desk.store.begin(job.id, zombie.epoch, PROCESS, NOW)
    assert not desk.store.append(job.id, zombie.epoch, [NewEvent(kind=EventKind.TEXT)], Progress(turns=9), NOW)
    assert not desk.end(zombie)
    assert desk.store.move(job.id, zombie.epoch, cooling(), HELD, Limits(), NOW) is None
    assert before == (desk.store.get(job.id), desk.store.read(0))
    assert Beat(lost=((job.id, zombie.epoch),)) == desk.store.beat("w1", [(job.id, zombie.epoch)], NOW)
    assert desk.end(live)


def test_an_unknown_job_is_lost_not_an_error(desk: Desk) -> None:
    assert not desk.store.begin("j-none", 1, None, NOW)
    assert not desk.store.append("j-none", 1, [], None, NOW)
    assert desk.store.move("j-none", 1, cooling(), HELD, Limits(), NOW) is None
    assert Beat(lost=(("j-none", 1),)) == desk.store.beat("w1", [("j-none", 1)], NOW)


def test_finishing_twice_counts_once(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()

    assert desk.end(grant)
    assert not desk.end(grant)

    ended = desk.store.get(job.id)
    assert (ended.state, ended.attempts, ended.usage.cost_nusd) == (JobState.SUCCEEDED, 1, 5)
    assert (ended.permits, ended.owner, ended.token) == ((), "", "aaa")
    assert [token.running for token in desk.store.tokens()] == [0, 0, 0]
    assert sum(event.kind is EventKind.FINISHED for event in desk.store.read(0, job.id)) == 1


def test_a_result_is_whole_in_get(desk: Desk) -> None:
    job = desk.one()
    outcome = Outcome(
        text="é" * 60_000 + "\ud800",
        structured="{}" * 50_000,
        usage=Usage(output_tokens=2),
        session_cost_nusd=7,
        denied=("Bash",),
        turns=3,
        exit_code=0,
        signalled=(4,),
    )
    desk.end(desk.run(), outcome)

    ended = desk.store.get(job.id)

    assert (outcome, 7) == (ended.outcome, ended.session_cost_nusd)


def test_usage_adds_up_over_attempts_and_the_session_cost_is_the_last(desk: Desk) -> None:
    job = desk.one()
    first = Outcome(failure=Failure.NETWORK, usage=Usage(cost_nusd=3, output_tokens=1), session_cost_nusd=3)
    desk.end(desk.run(), first)
    second = Outcome(text="x", usage=Usage(cost_nusd=4, output_tokens=2), session_cost_nusd=7)
    desk.end(desk.run(asking(now_ms=NOW + 99_000)), second)

    ended = desk.store.get(job.id)

    assert (ended.usage.cost_nusd, ended.usage.output_tokens, ended.session_cost_nusd) == (7, 3, 7)
    assert [attempt.failure for attempt in desk.store.attempts(job.id)] == [Failure.NETWORK, Failure.NONE]
    assert sum(token.cost_nusd for token in desk.store.tokens()) == 7


def test_a_retry_sleeps_and_the_first_start_stays(desk: Desk) -> None:
    job = desk.one()
    desk.end(desk.run(), failed(Failure.TIMED_OUT))

    delayed = desk.store.get(job.id)
    assert (delayed.state, delayed.reason, delayed.not_before_ms) == (JobState.DELAYED, Reason.BACKOFF, NOW + 2_500)
    assert (delayed.attempts, delayed.timeouts, delayed.started_ms) == (1, 1, NOW)
    assert desk.admit().next_ms == NOW + 2_500
    grant = desk.run(asking(now_ms=NOW + 2_500))
    assert (grant.epoch, desk.store.get(job.id).started_ms) == (2, NOW)


def test_attempts_run_out(desk: Desk) -> None:
    job = desk.one()
    for turn in range(3):
        now_ms = NOW + turn * 400_000
        desk.end(desk.run(asking(now_ms=now_ms)), failed(Failure.CRASHED), now_ms=now_ms)

    ended = desk.store.get(job.id)

    assert (ended.state, ended.attempts) == (JobState.FAILED, 3)
    assert ended.outcome is not None
    assert (ended.outcome.failure, ended.outcome.message) == (Failure.CRASHED, "it was crashed")


def test_a_trouble_is_kept_with_the_job_until_it_is_over(desk: Desk) -> None:
    job = desk.one()
    later = [NOW, NOW + 100_000, NOW + 200_000]
    desk.end(desk.run(), failed(Failure.NETWORK))
    first = desk.store.get(job.id)
    desk.end(desk.run(asking(now_ms=later[1])), failed(Failure.OVERLOADED), now_ms=later[1])
    second = desk.store.get(job.id)
    desk.end(desk.run(asking(now_ms=later[2])), failed(Failure.CRASHED), now_ms=later[2])
    over = desk.store.get(job.id)

    assert (first.state, first.reason, first.attempts) == (JobState.DELAYED, Reason.BACKOFF, 0)
    assert (first.trouble, first.trouble_ms, first.troubles) == (Failure.NETWORK, 2_500, 1)
    assert (second.trouble, second.trouble_ms, second.troubles) == (Failure.OVERLOADED, 5_000, 2)
    assert (over.attempts, over.trouble, over.trouble_ms, over.troubles) == (1, Failure.NONE, 0, 2)


def test_a_limit_moves_the_job_at_once_and_is_no_attempt(desk: Desk) -> None:
    job = desk.one()
    desk.end(desk.run(), limited())
    queued = desk.store.get(job.id)

    grant = desk.run()

    assert (queued.state, queued.reason, queued.attempts, queued.moves) == (JobState.READY, Reason.RATE_LIMIT, 0, 0)
    assert (grant.job.moves, desk.store.get(job.id).moves) == (1, 1)
    assert job.rank == queued.rank
    assert (grant.token, desk.store.tokens()[0].limits_hit) == ("bbb", 1)
    limit = next(event for event in desk.store.read(0, job.id) if event.kind is EventKind.LIMITED)
    assert limit.data == {"token": "aaa", "window": "five_hour", "resets_at_ms": NOW + 60_000}


def test_a_limit_met_again_on_the_same_token_is_no_move(desk: Desk) -> None:
    job = desk.one(item(offers=("aaa",)))
    for turn in range(MAX_MOVES + 2):
        now_ms = NOW + turn * 100_000_000
        desk.end(desk.run(asking(now_ms=now_ms)), limited(now_ms + 60_000), now_ms=now_ms)

    waiting = desk.store.get(job.id)

    assert (waiting.state, waiting.moves, waiting.attempts) == (JobState.READY, 0, 0)


def test_with_every_token_limited_the_queue_sleeps_to_the_earliest_reset(desk: Desk) -> None:
    job = desk.one()
    for turn in range(3):
        desk.end(desk.run(), limited(NOW + 60_000 - turn * 1_000))
    sleeping = desk.admit()

    assert (sleeping.grants, sleeping.next_ms) == ((), NOW + 58_000)
    assert JobState.READY is desk.store.get(job.id).state
    assert desk.grant(asking(now_ms=NOW + 58_000)).token == "ccc"


def test_two_refusals_are_the_jobs_fault(desk: Desk) -> None:
    job = desk.one()
    desk.end(desk.run(), failed(Failure.FORBIDDEN))
    desk.end(desk.run(), failed(Failure.FORBIDDEN))

    ended = desk.store.get(job.id)

    assert (ended.state, ended.refused_by) == (JobState.FAILED, ("aaa", "bbb"))


def test_success_of_an_attempt_that_never_began_is_no_transition(desk: Desk) -> None:
    desk.one()
    grant = desk.grant()

    with pytest.raises(InvalidTransition):
        desk.finish(grant, Disposition(trigger=Trigger.SUCCEED))

    assert desk.finish(grant, Disposition(trigger=Trigger.FAIL, failure=Failure.CLI_MISSING))


def test_hot_swap_exchanges_the_token_of_a_running_job(desk: Desk) -> None:
    job = desk.one()
    grant = desk.run()

    assert desk.store.move(job.id, 1, cooling(), HELD, Limits(), NOW) == "bbb"

    moved = desk.store.get(job.id)
    assert (moved.state, moved.token, moved.moves, moved.epoch) == (JobState.RUNNING, "bbb", 1, 1)
    assert [token.running for token in desk.store.tokens()] == [0, 1, 0]
    assert "t:bbb" in moved.permits
    assert desk.store.attempts(job.id)[0].token == "bbb"
    assert [event.kind for event in desk.store.read(0, job.id)][-2:] == [EventKind.LIMITED, EventKind.MOVED]
    assert desk.end(grant)


def test_hot_swap_stays_with_the_same_kind_and_within_caps(desk: Desk) -> None:
    desk.know("key", kind=TokenKind.API_KEY)
    job = desk.one(item(offers=("aaa", "key", "bbb")))
    desk.run()

    assert desk.store.move(job.id, 1, cooling(), frozenset({"aaa", "key"}), Limits(), NOW) is None
    assert desk.store.move(job.id, 1, cooling(), HELD | {"key"}, Limits(per_token=0), NOW) is None
    assert desk.store.move(job.id, 1, cooling(), HELD | {"key"}, Limits(), NOW) == "bbb"
    assert desk.store.tokens()[0].cooldowns["five_hour"] == NOW + 60_000


def test_hot_swap_is_bounded_and_gives_way_to_a_cancel(desk: Desk) -> None:
    first, second = desk.one(), desk.one()
    for grant in desk.admit().grants:
        desk.store.begin(grant.job.id, grant.epoch, None, NOW)
    nothing = cooling(NOW)
    swaps = [desk.store.move(first.id, 1, nothing, HELD, Limits(), NOW) for _ in range(MAX_MOVES + 1)]
    desk.store.cancel([second.id], "stop", NOW)

    assert None not in swaps[:-1]
    assert swaps[-1] is None
    assert desk.store.move(second.id, 1, nothing, HELD, Limits(), NOW) is None


def test_beat_names_cancelled_and_lost_jobs(desk: Desk) -> None:
    kept, cancelled = desk.one(), desk.one()
    desk.admit()
    desk.store.cancel([cancelled.id], "enough", NOW)

    beat = desk.store.beat("w1", [(kept.id, 1), (cancelled.id, 1), (kept.id, 7)], NOW)

    assert Beat(cancel=((cancelled.id, "enough"),), lost=((kept.id, 7),)) == beat
    assert Beat(lost=((kept.id, 1),)) == desk.store.beat("w2", [(kept.id, 1)], NOW)


def test_events_are_appended_in_order_and_progress_replaced(desk: Desk) -> None:
    job = desk.one()
    desk.run()
    events = [NewEvent(kind=EventKind.TOOL, data={"name": f"t{n}\ud800", "ok": True, "n": n}) for n in range(3)]

    assert desk.store.append(job.id, 1, events, Progress(doing="Bash", turns=2), NOW + 5)
    assert desk.store.append(job.id, 1, [], None, NOW + 6)

    found = desk.store.read(0, job.id)[-3:]
    assert [event.data for event in events] == [event.data for event in found]
    assert Progress(doing="Bash", turns=2) == desk.store.get(job.id).progress
    assert [found[1], found[2]] == list(desk.store.read(found[0].seq, job.id))
    assert (found[0],) == desk.store.read(found[0].seq - 1, limit=1)


def test_nothing_is_appended_before_begin_or_after_the_end(desk: Desk) -> None:
    job = desk.one()
    grant = desk.grant()
    early = desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT)], None, NOW)
    desk.store.begin(job.id, 1, None, NOW)
    desk.end(grant)

    assert not early
    assert not desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT)], None, NOW)


def test_a_log_is_bounded_but_keeps_what_matters(desk: Desk) -> None:
    job = desk.one()
    desk.run()
    desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT)] * (MAX_EVENTS_PER_JOB + 50), None, NOW)
    desk.store.append(job.id, 1, [NewEvent(kind=EventKind.TEXT), NewEvent(kind=EventKind.DENIED)], None, NOW)

    log = desk.store.read(0, job.id, limit=5_000)

    assert (len(log), log[-1].kind) == (MAX_EVENTS_PER_JOB + 1, EventKind.DENIED)


def test_progress_starts_again_with_each_attempt(desk: Desk) -> None:
    job = desk.one()
    desk.run()
    desk.store.append(job.id, 1, [], Progress(turns=5), NOW)
    desk.admit(asking(owner="w2", dead=("w1",)))

    assert Progress() == desk.store.get(job.id).progress
