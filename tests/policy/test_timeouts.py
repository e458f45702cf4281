"""Time-outs grow and never pass the ceiling; ranks age."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from claude_jobs.domain.job import JobSpec
from claude_jobs.policy.estimate import MIN_SAMPLES, estimate_s, learned_s
from claude_jobs.policy.rank import PRIORITY_MS, rank
from claude_jobs.policy.timeouts import GROWTH, limits, timeout_s

specs = st.builds(
    JobSpec,
    prompt=st.text(max_size=400),
    model=st.just("opus"),
    cwd=st.just("/"),
    tools=st.sampled_from((None, (), ("Read",))),
    effort=st.sampled_from(("", "low", "max")),
    timeout_s=st.none() | st.floats(0.1, 5_000),
)
ceilings = st.floats(1, 5_000)


@given(specs, st.integers(0, 5_000), ceilings)
def test_never_over_the_ceiling_and_never_shorter_after_a_time_out(
    spec: JobSpec, timeouts: int, ceiling_s: float
) -> None:
    first, ceiling = limits(spec, timeouts=timeouts, ceiling_s=ceiling_s)
    second, later_ceiling = limits(spec, timeouts=timeouts + 1, ceiling_s=ceiling_s)

    assert 0 < first <= ceiling <= later_ceiling <= ceiling_s
    assert first <= second <= min(first * GROWTH, ceiling_s)


@given(specs, ceilings)
def test_what_the_caller_asked_for_holds_and_what_we_guess_does_not(spec: JobSpec, ceiling_s: float) -> None:
    expected, allowed = limits(spec, timeouts=0, ceiling_s=ceiling_s)

    if spec.timeout_s is not None:
        assert expected == allowed == min(spec.timeout_s, ceiling_s)
    else:
        assert (expected, allowed) == (min(estimate_s(spec), ceiling_s), ceiling_s)


@given(specs)
def test_like_jobs_teach_and_a_caller_knows_better(spec: JobSpec) -> None:
    seen_ms = [700_000] * MIN_SAMPLES
    learned = timeout_s(spec, run_times_ms=seen_ms)

    assert learned == (spec.timeout_s or learned_s(spec, seen_ms))
    assert timeout_s(replace(spec, timeout_s=None)) == estimate_s(spec)


@given(st.integers(0, 10**13), st.integers(-1_000, 1_000), st.integers(1, 1_000))
def test_a_level_of_priority_is_worth_a_minute(queued_ms: int, priority: int, levels: int) -> None:
    waited = rank(queued_ms, priority)

    assert rank(queued_ms + levels * PRIORITY_MS, priority + levels) == waited
    assert rank(queued_ms, priority + levels) < waited < rank(queued_ms + 1, priority)
