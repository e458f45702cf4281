"""The circuit breaker: opens on a ratio of failures, lets a few probes find out when to close. Pure.

The state is shared by all processes. A probe is known by the id of its reservation.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from enum import StrEnum

BUCKETS = 10
"""The rolling window moves in tenths."""
JITTER = 0.2
"""An open time is up to a fifth longer, so that circuits that opened together do not probe together."""
AGAIN_MS = 1_000
"""When to ask again while probes are under way: they may end at any moment."""
REMEMBERED_PROBES = 8
"""Probes whose lease ended no longer take a place, but a late answer of one still tells something."""
LATELY_MS = 3_600_000
_MAX_DOUBLINGS = 16


class Verdict(StrEnum):
    """What one attempt says about its provider."""

    OK = "ok"
    SLOW = "slow"
    FAULT = "fault"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a circuit opens and closes. Durations are milliseconds.

    Attributes:
        failure_threshold: Consecutive faults that open it, whatever the ratio (CIRCUIT_FAILURE_THRESHOLD).
        recovery_ms: First open time (CIRCUIT_RECOVERY_TIMEOUT); doubles with each failed probe up to `longest_ms`.
        window_ms, min_calls, ratio: It also opens when of at least `min_calls` in the window `ratio` were faults or slow.
        probes: At most so many at once, over all processes; `probe_ms` frees a lost one.
        closes_after: Successful probes that close it.
    """

    failure_threshold: int = 5
    recovery_ms: int = 30_000
    longest_ms: int = 300_000
    window_ms: int = 60_000
    min_calls: int = 20
    ratio: float = 0.5
    probes: int = 1
    probe_ms: int = 60_000
    closes_after: int = 1


class Phase(StrEnum):
    """Where a circuit is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """A circuit. `buckets`: (start_ms, ok, faults, slow), oldest first; `probes`: (reservation id, until_ms)."""

    phase: Phase = Phase.CLOSED
    buckets: tuple[tuple[int, int, int, int], ...] = ()
    faults_in_a_row: int = 0
    open_until_ms: int = 0
    opened: int = 0
    probes: tuple[tuple[str, int], ...] = ()
    probes_ok: int = 0


def admit(state: CircuitState, now_ms: int, probe_id: str, rules: BreakerRules) -> tuple[CircuitState, bool] | int:
    """One call that wants to begin.

    Returns:
        The state with it, and whether it is a probe; or when it is worth asking again, epoch milliseconds.
    """
    if state.phase is Phase.CLOSED:
        return state, False
    if state.phase is Phase.OPEN and now_ms < state.open_until_ms <= now_ms + _longest_ms(rules):
        return state.open_until_ms
    busy = [until for _, until in state.probes if now_ms < until <= now_ms + rules.probe_ms + AGAIN_MS]
    if len(busy) >= max(1, rules.probes):
        return min(now_ms + AGAIN_MS, *busy)
    probes = (*state.probes, (probe_id, now_ms + rules.probe_ms))
    kept = max(REMEMBERED_PROBES, 2 * rules.probes)
    return replace(state, phase=Phase.HALF_OPEN, probes=probes[-kept:]), True


def _longest_ms(rules: BreakerRules) -> int:
    """No circuit is open longer at a time: one that seems to be was opened before the clock was set back."""
    return int(max(rules.longest_ms, rules.recovery_ms) * (1 + JITTER)) + AGAIN_MS


def record(
    state: CircuitState, now_ms: int, verdict: Verdict, probe_id: str, rules: BreakerRules, rnd: float
) -> CircuitState:
    """One call has ended. What is no probe tells nothing while the circuit is not closed: it began before that.

    Args:
        probe_id: The call's reservation; whether that is a probe is for the state to know.
        rnd: Uniform in [0, 1), lengthens the open time (see `luck`).
    """
    is_probe = any(probe_id == probe for probe, _ in state.probes)
    if state.phase is Phase.HALF_OPEN and is_probe:
        return _probed(state, now_ms, verdict, probe_id, rules, rnd)
    if state.phase is not Phase.CLOSED or verdict is Verdict.NEUTRAL:
        return state
    counted = _counted(state, now_ms, verdict, rules)
    return _opened(counted, now_ms, rules, rnd) if _is_over(counted, rules) else counted


def _probed(
    state: CircuitState, now_ms: int, verdict: Verdict, probe_id: str, rules: BreakerRules, rnd: float
) -> CircuitState:
    if verdict in (Verdict.FAULT, Verdict.SLOW):
        return _opened(state, now_ms, rules, rnd)
    rest = replace(state, probes=tuple(probe for probe in state.probes if probe[0] != probe_id))
    if verdict is Verdict.NEUTRAL:
        return rest
    return CircuitState() if rest.probes_ok + 1 >= rules.closes_after else replace(rest, probes_ok=rest.probes_ok + 1)


def _counted(state: CircuitState, now_ms: int, verdict: Verdict, rules: BreakerRules) -> CircuitState:
    """With one more in the newest bucket. A clock that is a little behind counts there, too; one that was set back anew."""
    width_ms = max(1, rules.window_ms // BUCKETS)
    recent = [bucket for bucket in state.buckets if now_ms - rules.window_ms < bucket[0] <= now_ms + rules.window_ms]
    starts_ms = now_ms - now_ms % width_ms
    if recent and recent[-1][0] >= starts_ms:
        starts_ms, ok, faults, slow = recent.pop()
    else:
        ok = faults = slow = 0
    newest = (
        starts_ms,
        ok + (verdict is Verdict.OK),
        faults + (verdict is Verdict.FAULT),
        slow + (verdict is Verdict.SLOW),
    )
    in_a_row = state.faults_in_a_row + 1 if verdict is Verdict.FAULT else 0
    return replace(state, buckets=(*recent, newest), faults_in_a_row=in_a_row)


def _is_over(state: CircuitState, rules: BreakerRules) -> bool:
    if state.faults_in_a_row >= rules.failure_threshold > 0:
        return True
    bad = sum(faults + slow for _, _, faults, slow in state.buckets)
    calls = bad + sum(ok for _, ok, _, _ in state.buckets)
    return bad > 0 and calls >= rules.min_calls and bad >= rules.ratio * calls


def _opened(state: CircuitState, now_ms: int, rules: BreakerRules, rnd: float) -> CircuitState:
    """Open, longer each time until it closed once; never shorter than somebody else has it open already."""
    base_ms = min(rules.longest_ms, rules.recovery_ms * 2 ** min(state.opened, _MAX_DOUBLINGS))
    until_ms = now_ms + round(base_ms * (1 + JITTER * rnd))
    known_ms = state.open_until_ms if state.open_until_ms <= now_ms + _longest_ms(rules) else 0
    return CircuitState(phase=Phase.OPEN, open_until_ms=max(known_ms, until_ms), opened=state.opened + 1)


def luck(reservation_id: str) -> float:
    """Jitter for `record`, uniform in [0, 1) over ids: every store that settles the same call opens as long."""
    return zlib.crc32(reservation_id.encode()) / 2**32


def is_telling(state: CircuitState, now_ms: int) -> bool:
    """Whether it is worth showing: it is not closed, or calls were counted within the last hour."""
    return state.phase is not Phase.CLOSED or any(bucket[0] > now_ms - LATELY_MS for bucket in state.buckets)
