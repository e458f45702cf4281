"""The ledger's line of each call: exactly one, whether it was answered, failed, or was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claude_jobs.domain.generation import Cost, Route, Tokens
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.services import answers
from claude_jobs.services.calls import Call
from claude_jobs.services.chain import Chain
from claude_jobs.services.generation_api import Ask
from claude_jobs.stores.gate import CallRecord


class Scribe:
    """`write` takes lines that nothing else waits for."""

    def __init__(self, write: Callable[[CallRecord], None], clock: Callable[[], int]) -> None:
        self._write = write
        self._clock = clock

    def line(
        self,
        call: Call,
        route: Route,
        outcome: str,
        tokens: Tokens,
        cost: Cost,
        *,
        cached: str = "",
        first_ms: float | None = None,
    ) -> CallRecord:
        """The line of a call as it stands now."""
        return CallRecord(
            id=call.id,
            at_ms=self._clock(),
            org=call.org,
            route=route,
            outcome=outcome,
            tokens=tokens,
            cost=cost,
            cached=cached,
            took_ms=round(call.trace.ms()),
            first_token_ms=None if first_ms is None else round(first_ms),
            steps=answers.steps_json(call.trace.steps),
        )

    def spent(self, call: Call, chain: Chain, error: BaseException) -> None:
        """What failed attempts cost, for the record that `_ended` writes."""
        call.spent = (chain.books.used, chain.books.spent)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.ended(call, None)

    def ended(self, call: Call, error: ClaudeJobsError | None) -> ClaudeJobsError:
        """Write the record of a call that got no answer, once; the error names it."""
        ended = error or ClaudeJobsError("The caller left.")
        if not ended.call_id:
            ended.call_id = call.id
        if not call.is_recorded:
            call.is_recorded = True
            tokens, cost = call.spent
            first = call.plan.targets[0].routes[0] if call.plan.targets else _asked_route(call.ask)
            outcome = ended.code if error is not None else "cancelled"
            self._write(self.line(call, first, outcome, tokens, cost))
        return ended


def _asked_route(ask: Ask) -> Route:
    return Route(provider=ask.request.provider, model=ask.request.model)
