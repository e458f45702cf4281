"""Pure time-out rules: progressive, counted in running time only, never past the operator's ceiling.

Two times bound an attempt. What we guessed is an expectation: beyond it an attempt ends once it is silent
(runner.watchdog). What somebody set, the operator or the caller, holds in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from claude_jobs.domain.job import JobSpec
from claude_jobs.policy.estimate import estimate_s, learned_s

GROWTH = 2.0
"""Each attempt that ran out of time doubles the next one's."""


def limits(spec: JobSpec, *, timeouts: int, ceiling_s: float, run_times_ms: Sequence[int] = ()) -> tuple[float, float]:
    """Running time that the next attempt is expected to need, and running time that it may have in any case.

    Args:
        timeouts: How many attempts of this job ran out of time before.
        ceiling_s: CLAUDE_TIMEOUT_SECONDS; a time-out the caller asked for may not exceed it either.
        run_times_ms: How long jobs of the same kind ran until they succeeded (policy.estimate.kind).
    """
    if spec.timeout_s is not None:
        hard_s = _grown_s(spec.timeout_s, timeouts, ceiling_s)
        return hard_s, hard_s
    guess_s = learned_s(spec, run_times_ms)
    return _grown_s(estimate_s(spec) if guess_s is None else guess_s, timeouts, ceiling_s), ceiling_s


def timeout_s(
    spec: JobSpec, *, timeouts: int = 0, ceiling_s: float = math.inf, run_times_ms: Sequence[int] = ()
) -> float:
    """The first of `limits`: what an attempt is expected to need."""
    return limits(spec, timeouts=timeouts, ceiling_s=ceiling_s, run_times_ms=run_times_ms)[0]


def _grown_s(first_s: float, timeouts: int, ceiling_s: float) -> float:
    # 64 doublings pass every ceiling; a power of a float overflows at a thousand.
    return min(first_s * GROWTH ** min(timeouts, 64), ceiling_s)
