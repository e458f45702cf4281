"""What the state machine makes jobs, outcomes and requests from: few values, so that they meet."""

from __future__ import annotations

import hypothesis.strategies as st
from stores.builders import POOL, TOKENS, item

from claude_jobs.domain.job import DependencyMode, DependencyOn, Failure, Outcome
from claude_jobs.domain.usage import Usage
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.stores.base import Limits

OUTCOMES = st.builds(
    Outcome,
    failure=st.sampled_from(
        (
            Failure.NONE,
            Failure.USAGE_LIMIT,
            Failure.SERVER_ERROR,
            Failure.TIMED_OUT,
            Failure.AUTHENTICATION,
            Failure.FORBIDDEN,
            Failure.BAD_REQUEST,
            Failure.INTERRUPTED,
            Failure.CANCELLED,
        )
    ),
    text=st.sampled_from(("", "fine", "\ud800")),
    usage=st.none() | st.builds(Usage, output_tokens=st.integers(0, 9), cost_nusd=st.integers(0, 9)),
    session_cost_nusd=st.none() | st.integers(0, 99),
    duration_ms=st.integers(0, 9),
    limit_window=st.sampled_from(("five_hour", "seven_day_opus", "")),
)
ITEMS = st.builds(
    item,
    prompt=st.sampled_from(("a", "b", "c", "d", "\ud83d alone")),
    model=st.sampled_from(("opus", "sonnet")),
    offers=st.sampled_from((("aaa",), ("aaa", "bbb"), TOKENS, ())),
    key=st.sampled_from((*("",) * 9, "k1", "k2")),
    priority=st.integers(-2, 2),
    pool=st.sampled_from((POOL, POOL, "host:b")),
    label=st.sampled_from(("", "red")),
    needs=st.sampled_from(DependencyMode),
    on=st.sampled_from(DependencyOn),
    max_cost_usd=st.sampled_from((None, None, None, None, 1.0, 4.0)),
)
LIMITS = st.none() | st.builds(
    RecursionLimits,
    depth=st.sampled_from((0, 2, 9)),
    total=st.sampled_from((2, 5, 99, 99)),
    rate=st.sampled_from((2, 99, 99)),
)
CAPS = st.just(Limits()) | st.builds(
    Limits,
    running=st.sampled_from((None, None, 0, 2)),
    per_token=st.integers(0, 2),
    at_depth=st.sampled_from((None, None, 0, 1, 2)),
    depth=st.sampled_from((None, None, 0, 1)),
    total=st.sampled_from((None, None, 1, 3)),
)
