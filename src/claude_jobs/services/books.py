"""What the attempts of a call used, and telling the gate: each attempt is settled once, however it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claude_jobs.domain.generation import Completion, Cost, Route, Tokens
from claude_jobs.errors import BadResponse, Overloaded, ProviderError, ProviderTimeout, RateLimited
from claude_jobs.policy import attempts as rules
from claude_jobs.policy.breaker import Verdict
from claude_jobs.policy.routing import Load
from claude_jobs.services.calls import Attempt, Call, Parts, add, total
from claude_jobs.services.spend import counted, estimated
from claude_jobs.stores.gate import Settlement

DEADLINE_SLACK_S = 0.05
"""A provider's time-out set for the caller's deadline may fire this much before it."""


def leave(parts: Parts, load: Load) -> None:
    """An attempt has ended: others may have its turn."""
    parts.turnstile.leave(load)


async def give_back(parts: Parts, attempt_id: str, route: Route) -> None:
    """Nothing was asked of the provider: what was reserved is free again, the place of a probe, too."""
    back = Settlement(
        id=attempt_id,
        now_ms=parts.clock(),
        route=route,
        tokens=0,
        nusd=0,
        requests=0,
        breaker=parts.rules.breaker,
    )
    await parts.gate(parts.store.settle, back)


class Books:
    """The account of one call. `spent` and `used` are sums over its attempts."""

    def __init__(self, parts: Parts, call: Call) -> None:
        self._parts = parts
        self._call = call
        self.spent = Cost(nusd=0)
        self.used = Tokens()

    async def failed(self, attempt: Attempt, error: ProviderError, *, tokens: Tokens | None = None) -> int:
        """Settle an attempt that failed: its circuit and key learn of it, what it used is booked.

        Until when its key cools, epoch milliseconds; 0 if it does not.
        """
        parts = self._parts
        now_ms = parts.clock()
        tokens = tokens or self._sent(error)
        cost = self._charge(attempt, tokens)
        self._call.trace.add(
            "attempt", error.code, route=attempt.route, why=error.message, cost=cost, since_ms=attempt.began_ms
        )
        if isinstance(error, RateLimited | Overloaded):
            attempt.load.was_refused(asyncio.get_running_loop().time())
        if rules.kills_key(error):
            parts.dead[attempt.route.key] = asyncio.get_running_loop().time() + rules.DEAD_KEY_S
        cool_s = rules.cooling_s(error)
        until_ms = now_ms + round(cool_s * 1_000) if cool_s else 0
        maybe_billed = isinstance(error, ProviderTimeout)
        if maybe_billed and tokens is None:
            self.spent = total([self.spent, Cost(nusd=None)])
        nothing = None if maybe_billed else 0  # unknown is what was reserved
        await self._settle(
            attempt,
            Settlement(
                id=attempt.id,
                now_ms=now_ms,
                route=attempt.route,
                tokens=tokens.total if tokens else nothing,
                nusd=cost.nusd if cost else nothing,
                requests=0 if error.status is None and tokens is None and not maybe_billed else 1,
                verdict=self._told_by(attempt, error),
                breaker=parts.rules.breaker,
                cool_until_ms=until_ms,
                is_key_dead=rules.kills_key(error),
                why=error.code,
            ),
        )
        return until_ms

    def _sent(self, error: ProviderError) -> Tokens | None:
        """What a failed attempt used for sure: the provider said so, or answered something, if no answer of its API."""
        if error.input_tokens or error.output_tokens:
            return Tokens(input=error.input_tokens, output=error.output_tokens)
        return estimated(self._call.plan.input_tokens, "") if isinstance(error, BadResponse) else None

    def abandoned(self, attempt: Attempt, *, tokens: Tokens | None = None) -> None:
        """Nobody waits for it any more: what it used, or else an estimate of that, is booked in a task of its own."""
        tokens = tokens or estimated(self._call.plan.input_tokens, "".join(attempt.chars))
        cost = self._charge(attempt, tokens)
        self._call.trace.add("attempt", "cancelled", route=attempt.route, cost=cost, since_ms=attempt.began_ms)
        settlement = Settlement(
            id=attempt.id,
            now_ms=self._parts.clock(),
            route=attempt.route,
            tokens=tokens.total,
            nusd=cost.nusd if cost else None,
            breaker=self._parts.rules.breaker,
        )
        self._parts.leases.chore(self._settle(attempt, settlement))

    def counted(self, completion: Completion) -> Completion:
        """With its tokens estimated if the provider did not tell them."""
        return counted(completion, self._call.plan.input_tokens)

    def _charge(self, attempt: Attempt, tokens: Tokens | None) -> Cost | None:
        """Add to what the call cost so far."""
        if tokens is None:
            return None
        route = attempt.route
        cost = self._parts.pricing.cost(route.provider, route.model, tokens, at_ms=self._parts.clock())
        self.used = add(self.used, tokens)
        self.spent = total([self.spent, cost])
        return cost

    async def succeeded(
        self, attempt: Attempt, completion: Completion, settlement: Callable[[Cost], Settlement]
    ) -> Cost:
        """Settle an attempt that answered; `settlement` is made when its cost is known. What it cost."""
        cost = self._charge(attempt, completion.tokens) or Cost(nusd=None)
        attempt.load.went_well(self._parts.rules.max_requests)
        self._call.trace.add("attempt", "ok", route=attempt.route, cost=cost, since_ms=attempt.began_ms)
        await self._settle(attempt, settlement(cost))
        return cost

    async def _settle(self, attempt: Attempt, settlement: Settlement) -> None:
        leave(self._parts, attempt.load)
        await self._parts.leases.settle(settlement)

    def _told_by(self, attempt: Attempt, error: ProviderError) -> Verdict:
        """Of a failure. A caller's deadline that came before REQUEST_TIMEOUT says nothing of the provider."""
        is_over = asyncio.get_running_loop().time() >= self._call.deadline - DEADLINE_SLACK_S
        took_s = (self._call.trace.ms() - attempt.began_ms) / 1_000
        is_cut = is_over if attempt.first_ms is not None else attempt.is_hurried and took_s < attempt.patience_s
        return rules.verdict(error, is_cut=is_cut)

    def verdict(self, attempt: Attempt) -> Verdict:
        """Of an answer: well, or so late that it speaks against the provider."""
        is_whole = attempt.first_ms is None
        came_ms = self._call.trace.ms() if attempt.first_ms is None else attempt.first_ms
        most = (attempt.target.request.max_output_tokens or 0) if is_whole else 0
        is_slow = rules.is_slow(
            (came_ms - attempt.began_ms) / 1_000, self._parts.rules.request_timeout_s, whole_tokens=most
        )
        return Verdict.SLOW if is_slow else Verdict.OK
