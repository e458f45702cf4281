"""What becomes of a job after an attempt, for any job and outcome."""

from __future__ import annotations

import random
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from policy.strategies import NOW, jobs, outcomes

from claude_jobs.domain.job import Failure, Job, Outcome, Reason
from claude_jobs.policy.retry import (
    LONGEST_LIMIT_MS,
    MAX_DELAY_MS,
    MAX_LOSSES,
    MAX_MOVES,
    MAX_TROUBLES,
    MOVES,
    PATIENCE_MS,
    REFUSALS,
    STEP_MS,
    TRANSIENT,
    UNSTARTED,
    Disposition,
    RetryRules,
    after_loss,
    backoff_ms,
    decide,
    is_move,
)
from claude_jobs.policy.transitions import Trigger, advance

RULES = RetryRules()
JITTER = st.floats(0, 1, exclude_max=True)
LATER = frozenset({Trigger.RETRY_LATER, Trigger.RETRY_NOW})


def decided(job: Job, outcome: Outcome, jitter: float = 0.5) -> Disposition:
    return decide(job, outcome, RULES, now_ms=NOW, jitter=jitter)


@given(jobs(), outcomes, JITTER)
def test_every_disposition_is_a_transition_of_a_running_job(job: Job, outcome: Outcome, jitter: float) -> None:
    disposition = decided(job, outcome, jitter)

    assert advance(job.state, disposition.trigger)
    assert (disposition.trigger is Trigger.RETRY_LATER) == (disposition.not_before_ms is not None)
    assert (disposition.trigger is Trigger.SUCCEED) == outcome.succeeded


@given(jobs(cancelled=False), outcomes, JITTER)
def test_never_more_attempts_than_allowed(job: Job, outcome: Outcome, jitter: float) -> None:
    disposition = decided(job, outcome, jitter)

    if disposition.trigger in LATER and disposition.counts:
        assert job.attempts + 1 < job.spec.max_attempts


@given(jobs(), outcomes, JITTER)
def test_a_requested_cancel_wins_over_everything_but_success(job: Job, outcome: Outcome, jitter: float) -> None:
    if job.cancel_why is not None and not outcome.succeeded:
        assert decided(job, outcome, jitter).trigger is Trigger.CANCEL


@given(jobs(cancelled=False), outcomes, JITTER)
def test_retry_after_is_a_minimum_and_the_deadline_a_maximum(job: Job, outcome: Outcome, jitter: float) -> None:
    disposition = decided(job, outcome, jitter)

    if disposition.not_before_ms is not None:
        assert disposition.not_before_ms >= NOW + (outcome.retry_after_ms or 0)
        assert disposition.not_before_ms <= NOW + max(MAX_DELAY_MS, outcome.retry_after_ms or 0)
        assert job.deadline_ms is None or disposition.not_before_ms < job.deadline_ms


@given(jobs(cancelled=False), st.sampled_from(sorted(MOVES)))
def test_a_limit_never_counts_and_moves_a_bounded_number_of_times(job: Job, failure: Failure) -> None:
    disposition = decided(job, Outcome(failure=failure))

    if job.deadline_ms is not None and job.deadline_ms <= NOW:
        assert disposition.trigger is Trigger.EXPIRE
    elif job.moves >= MAX_MOVES:
        assert disposition.failure is Failure.TOO_MANY_MOVES
    else:
        assert (disposition.trigger, disposition.counts) == (Trigger.RETRY_NOW, False)
        assert (disposition.reason, disposition.trouble) == (Reason.RATE_LIMIT, Failure.NONE)


def on(job: Job, token: str, *, limited: bool = False, refused: bool = False) -> Job:
    """The queued job after an attempt on `token`."""
    reason = Reason.RATE_LIMIT if limited else Reason.NONE
    return replace(job, token=token, reason=reason, refused_by=(token,) if refused else ())


@given(jobs())
def test_only_a_change_of_token_after_a_limit_or_refusal_is_a_move(job: Job) -> None:
    assert is_move(on(job, "aaa", limited=True), "bbb")
    assert is_move(on(job, "aaa", refused=True), "bbb")
    assert not is_move(on(job, "aaa", limited=True), "aaa")
    assert not is_move(on(job, "aaa"), "bbb")
    assert not is_move(on(job, "", limited=True), "aaa")


@given(jobs(cancelled=False), st.sampled_from(sorted(REFUSALS)))
def test_two_tokens_refusing_a_job_end_it(job: Job, failure: Failure) -> None:
    disposition = decided(job, Outcome(failure=failure))
    refused = {*job.refused_by, job.token}

    if job.deadline_ms is not None and job.deadline_ms <= NOW:
        return
    is_over = len(refused) >= 2 or not set(job.offers) - refused
    assert disposition.trigger is (Trigger.FAIL if is_over else Trigger.RETRY_NOW)
    assert disposition.refused


@pytest.mark.parametrize(
    "failure", sorted(set(Failure) - TRANSIENT - MOVES - REFUSALS - set(PATIENCE_MS) - {Failure.NONE, Failure.QUOTA})
)
@settings(max_examples=25)
@given(job=jobs(cancelled=False))
def test_what_would_fail_the_same_way_is_not_tried_again(failure: Failure, job: Job) -> None:
    disposition = decided(job, Outcome(failure=failure))

    if failure is not Failure.INTERRUPTED:
        assert disposition.trigger in {Trigger.FAIL, Trigger.EXPIRE, Trigger.CANCEL}


@given(jobs(cancelled=False), st.none() | st.integers(1, 10**9))
def test_a_used_up_quota_is_waited_out_uncounted(job: Job, retry_after_ms: int | None) -> None:
    disposition = decided(job, Outcome(failure=Failure.QUOTA, retry_after_ms=retry_after_ms))

    if disposition.trigger is Trigger.RETRY_LATER:
        assert (disposition.counts, disposition.reason) == (False, Reason.LIMIT)
        assert disposition.not_before_ms == NOW + min(LONGEST_LIMIT_MS, retry_after_ms or STEP_MS[1])
    else:
        assert disposition.trigger is Trigger.EXPIRE
        assert job.deadline_ms is not None


@given(st.integers(1, 10_000), JITTER, st.none() | st.integers(0, 10**9))
def test_backoff_grows_to_a_ceiling(attempts: int, jitter: float, retry_after_ms: int | None) -> None:
    delay = backoff_ms(attempts, RULES, jitter=jitter, retry_after_ms=retry_after_ms)
    later = backoff_ms(attempts + 1, RULES, jitter=jitter, retry_after_ms=retry_after_ms)

    assert (retry_after_ms or 0) <= delay <= later <= max(MAX_DELAY_MS, retry_after_ms or 0)


@given(jobs(cancelled=False), outcomes, JITTER)
def test_a_trouble_is_waited_out_uncounted_unless_one_attempt_was_asked_for(
    job: Job, outcome: Outcome, jitter: float
) -> None:
    disposition = decided(job, outcome, jitter)

    if outcome.failure in PATIENCE_MS and disposition.trigger is Trigger.RETRY_LATER:
        assert job.spec.max_attempts > 1
        assert (disposition.counts, disposition.reason) == (False, Reason.BACKOFF)
        assert disposition.trouble is outcome.failure
        assert (disposition.not_before_ms or 0) - NOW <= max(STEP_MS[1], outcome.retry_after_ms or 0)
    elif disposition.trigger in LATER and outcome.failure not in {Failure.INTERRUPTED, Failure.QUOTA}:
        assert disposition.trouble is Failure.NONE
    else:
        assert disposition.trouble is None


def lived(job: Job, disposition: Disposition) -> Job:
    """The job as the stores leave it, queued again, of what matters here."""
    assert disposition.trouble is not None
    troubles = job.troubles + bool(disposition.trouble)
    return replace(job, trouble=disposition.trouble, trouble_ms=disposition.trouble_ms, troubles=troubles)


def waits_ms(job: Job, outcome: Outcome, rules: RetryRules, seed: int) -> tuple[list[int], Disposition]:
    """All waits of a trouble that does not end, and how the job then ends."""
    chance, waits, now_ms = random.Random(seed), list[int](), NOW
    while True:
        disposition = decide(job, outcome, rules, now_ms=now_ms, jitter=chance.random())
        if disposition.not_before_ms is None:
            return waits, disposition
        waits.append(disposition.not_before_ms - now_ms)
        # Woken hours late: a queue, or a computer that slept. That is no part of the trouble.
        now_ms = disposition.not_before_ms + 10**8
        job = lived(job, disposition)


def fresh(job: Job, **changes: object) -> Job:
    """A job that has had no trouble yet."""
    spec = replace(job.spec, max_attempts=3)
    blank = replace(job, spec=spec, trouble=Failure.NONE, trouble_ms=0, troubles=0, deadline_ms=None, attempts=0)
    return replace(blank, **changes)


@pytest.mark.parametrize("failure", sorted(PATIENCE_MS))
@given(job=jobs(cancelled=False), seed=st.integers(), delay_ms=st.sampled_from((0, 100, 5_000, 3_600_000)))
def test_a_trouble_is_waited_out_in_growing_steps_until_patience_ends(
    failure: Failure, job: Job, seed: int, delay_ms: int
) -> None:
    outcome = Outcome(failure=failure, message="Trouble.", duration_ms=300)
    waits, end = waits_ms(fresh(job), outcome, RetryRules(delay_ms=delay_ms), seed)
    spent_ms = sum(waits) + 300 * (len(waits) + 1)

    assert (end.trigger, end.failure) == (Trigger.FAIL, failure)
    assert spent_ms >= PATIENCE_MS[failure] or len(waits) == MAX_TROUBLES - 1
    assert spent_ms <= PATIENCE_MS[failure] + STEP_MS[1] + 600
    assert max(waits) <= STEP_MS[1]
    assert "Trouble. It was tried" in end.message


@given(jobs(cancelled=False), st.integers())
def test_two_minutes_without_a_network_are_ridden_out_at_any_luck(job: Job, seed: int) -> None:
    outcome = Outcome(failure=Failure.NETWORK, duration_ms=700)
    waits, _ = waits_ms(fresh(job), outcome, RULES, seed)

    assert sum(waits) > 120_000


@given(jobs(cancelled=False), JITTER)
def test_progress_begins_the_ladder_anew(job: Job, jitter: float) -> None:
    worn = fresh(job, trouble=Failure.NETWORK, trouble_ms=PATIENCE_MS[Failure.NETWORK] - 1, troubles=40)
    got_further = Outcome(failure=Failure.NETWORK, turns=1, duration_ms=900_000)
    disposition = decided(worn, got_further, jitter)

    assert disposition.trigger is Trigger.RETRY_LATER
    assert disposition.trouble_ms <= RULES.delay_ms
    assert decided(worn, replace(got_further, turns=0), jitter).trigger is Trigger.FAIL
    assert decided(replace(worn, troubles=MAX_TROUBLES - 1), got_further, jitter).trigger is Trigger.FAIL


@given(jobs(cancelled=False), st.sampled_from(sorted(PATIENCE_MS)), st.sampled_from(sorted(PATIENCE_MS)))
def test_the_machines_troubles_and_the_apis_are_two(job: Job, before: Failure, now: Failure) -> None:
    worn = fresh(job, trouble=before, trouble_ms=10**7, troubles=1)

    is_same = (before in UNSTARTED) == (now in UNSTARTED)
    assert decided(worn, Outcome(failure=now)).trigger is (Trigger.FAIL if is_same else Trigger.RETRY_LATER)


@given(jobs(cancelled=False), st.sampled_from(sorted(PATIENCE_MS)), st.integers(1, 100_000), JITTER)
def test_a_deadline_shortens_the_wait_and_only_retry_after_makes_it_too_late(
    job: Job, failure: Failure, left_ms: int, jitter: float
) -> None:
    hurried = fresh(job, deadline_ms=NOW + left_ms, trouble_ms=60_000, trouble=failure, troubles=3)
    waiting = decided(hurried, Outcome(failure=failure), jitter)
    too_late = decided(hurried, Outcome(failure=failure, retry_after_ms=left_ms), jitter)

    assert waiting.trigger is Trigger.RETRY_LATER
    assert NOW <= (waiting.not_before_ms or 0) < NOW + left_ms
    assert (too_late.trigger, too_late.failure) == (Trigger.EXPIRE, Failure.DEADLINE)


@given(jobs(cancelled=False), st.sampled_from(sorted(PATIENCE_MS)))
def test_one_attempt_means_that_nothing_is_waited_out(job: Job, failure: Failure) -> None:
    once = fresh(job, spec=replace(job.spec, max_attempts=1))

    assert decided(once, Outcome(failure=failure)).trigger is Trigger.FAIL


@given(jobs())
def test_a_lost_owner_costs_no_attempt_but_not_for_ever(job: Job) -> None:
    disposition = after_loss(job)

    if job.cancel_why is not None:
        assert disposition.trigger is Trigger.CANCEL
    elif job.losses >= MAX_LOSSES:
        assert (disposition.trigger, disposition.failure) == (Trigger.FAIL, Failure.OWNER_LOST)
    else:
        assert (disposition.trigger, disposition.counts) == (Trigger.LOSE_OWNER, False)
