"""How many processes may wait for work."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from claude_jobs.policy.slots import JOB_BYTES
from claude_jobs.policy.warm import MAX_AHEAD, SHARE, idle_limit, may_prepare, must_give_way

GIB = 1 << 30
COUNTS = st.integers(0, 64)
BYTES = st.integers(0, 1 << 40)


def test_a_big_machine_keeps_one_for_each_slot() -> None:
    assert idle_limit(slots=16, idle=0, free_bytes=64 * GIB) == 16


def test_a_small_machine_keeps_what_fits_into_a_quarter() -> None:
    assert idle_limit(slots=16, idle=0, free_bytes=4 * GIB) == 3


def test_without_memory_nothing_waits() -> None:
    assert idle_limit(slots=16, idle=3, free_bytes=0) == 0


@given(slots=COUNTS, idle=COUNTS, free_bytes=BYTES)
def test_the_limit_is_within_slots_and_share(slots: int, idle: int, free_bytes: int) -> None:
    limit = idle_limit(slots=slots, idle=idle, free_bytes=free_bytes)

    assert 0 <= limit <= slots
    assert limit * JOB_BYTES * SHARE <= free_bytes + idle * JOB_BYTES


@given(slots=COUNTS, idle=COUNTS, free_bytes=BYTES, less=BYTES)
def test_less_memory_never_lets_more_wait(slots: int, idle: int, free_bytes: int, less: int) -> None:
    more = idle_limit(slots=slots, idle=idle, free_bytes=free_bytes)

    assert idle_limit(slots=slots, idle=idle, free_bytes=max(0, free_bytes - less)) <= more


@given(slots=COUNTS, idle=COUNTS, free_bytes=BYTES)
def test_trimming_once_is_enough(slots: int, idle: int, free_bytes: int) -> None:
    """Those that went have given their memory back: the rest may stay."""
    limit = idle_limit(slots=slots, idle=idle, free_bytes=free_bytes)
    gone = max(0, idle - limit)

    assert idle_limit(slots=slots, idle=idle - gone, free_bytes=free_bytes + gone * JOB_BYTES) == limit


@given(prepared=COUNTS, free_bytes=BYTES)
def test_what_is_prepared_leaves_room_for_a_job(prepared: int, free_bytes: int) -> None:
    if may_prepare(prepared=prepared, free_bytes=free_bytes):
        assert prepared < MAX_AHEAD
        assert not must_give_way(free_bytes - JOB_BYTES)
