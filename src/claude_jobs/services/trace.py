"""What happened on the way to an answer, step by step: the explain record while it is written."""

from __future__ import annotations

import time

from claude_jobs.domain.generation import Cost, Route, Step


class Trace:
    """Steps of one call, with milliseconds since it began."""

    __slots__ = ("_began", "steps")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.steps: list[Step] = []

    def ms(self) -> float:
        """Since the call began."""
        return (time.perf_counter() - self._began) * 1_000

    def add(
        self,
        what: str,
        outcome: str,
        *,
        route: Route | None = None,
        why: str = "",
        cost: Cost | None = None,
        since_ms: float | None = None,
    ) -> None:
        """One more step; `since_ms` is when it began, if it took time."""
        now_ms = self.ms()
        at_ms = now_ms if since_ms is None else since_ms
        self.steps.append(
            Step(what=what, outcome=outcome, at_ms=at_ms, took_ms=now_ms - at_ms, route=route, why=why, cost=cost)
        )
