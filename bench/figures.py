"""Rows of the printed table, and how samples become figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, the goal, what came out, and whether the goal was met."""

    what: str
    goal: str
    measured: str
    is_met: bool


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def p95(samples: Sequence[float]) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * 0.95))]


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def paired(value: Callable[[], float], baseline: Callable[[], float], pairs: int) -> tuple[list[float], list[float]]:
    """Samples of both, taken in turn, the order swapped each time, so that a drift of the machine hits both."""
    values: list[float] = []
    baselines: list[float] = []
    for n in range(pairs):
        if n % 2:
            baselines.append(baseline())
            values.append(value())
        else:
            values.append(value())
            baselines.append(baseline())
    return values, baselines


def ratio(values: Sequence[float], baselines: Sequence[float]) -> float:
    """Median of the ratios pair by pair."""
    return median([value / baseline for value, baseline in zip(values, baselines, strict=True)])


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
