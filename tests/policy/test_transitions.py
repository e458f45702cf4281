"""The state machine: terminal is terminal, every state can end, every trigger has a use."""

from __future__ import annotations

import pytest

from claude_jobs.domain.job import OWNED, QUEUED, TERMINAL, JobState, PublicState
from claude_jobs.errors import InvalidTransition
from claude_jobs.policy.transitions import TRANSITIONS, Trigger, advance, public


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", JobState)
def test_advance_follows_the_table_or_refuses(state: JobState, trigger: Trigger) -> None:
    if (state, trigger) in TRANSITIONS:
        assert advance(state, trigger) is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(InvalidTransition) as refused:
            advance(state, trigger)
        assert (refused.value.state, refused.value.trigger) == (state.value, trigger.value)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_only_a_retry_by_hand_leads_out_of_an_end_and_nothing_out_of_success(state: JobState) -> None:
    ways = {trigger for (before, trigger) in TRANSITIONS if before is state}

    assert ways == (set() if state is JobState.SUCCEEDED else {Trigger.REOPEN, Trigger.REOPEN_WAITING})


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_every_other_state_can_be_cancelled_and_can_expire(state: JobState) -> None:
    assert advance(state, Trigger.CANCEL) is JobState.CANCELLED
    assert advance(state, Trigger.EXPIRE) is JobState.EXPIRED


@pytest.mark.parametrize("trigger", Trigger)
def test_every_trigger_has_a_use(trigger: Trigger) -> None:
    assert [pair for pair in TRANSITIONS if pair[1] is trigger]


def test_every_state_is_reached_and_success_only_by_running() -> None:
    assert set(TRANSITIONS.values()) == set(JobState)
    ways = [state for (state, _), after in TRANSITIONS.items() if after is JobState.SUCCEEDED]
    assert ways == [JobState.RUNNING, JobState.BLOCKED]


def test_an_owner_is_got_by_admission_only() -> None:
    entries = {trigger for (state, trigger), after in TRANSITIONS.items() if after in OWNED and state not in OWNED}

    assert entries == {Trigger.ADMIT}


def test_the_three_groups_are_all_states() -> None:
    assert set(JobState) == QUEUED | OWNED | TERMINAL
    assert len(JobState) == len(QUEUED) + len(OWNED) + len(TERMINAL)


@pytest.mark.parametrize("state", JobState)
def test_callers_see_a_word_for_every_state(state: JobState) -> None:
    word = public(state)

    assert (word is PublicState.QUEUED) == (state in QUEUED or state is JobState.ADMITTED)
    assert word is PublicState.QUEUED or word.value == state.value
