"""What one attempt reserves at the gate before it may begin, for all kinds of attempts."""

from __future__ import annotations

import asyncio

from claude_jobs.domain.generation import Route
from claude_jobs.policy.attempts import DEAD_KEY_S
from claude_jobs.services.calls import Call, Parts
from claude_jobs.services.planner import Target
from claude_jobs.services.quotas import Demand
from claude_jobs.stores.gate import LEASE_MS, Refused, ReserveAsk, Reserved


async def reserve(parts: Parts, call: Call, attempt_id: str, target: Target, route: Route) -> Reserved | Refused:
    """The gate's answer: all that the attempt may use at most is held, or nothing.

    Raises:
        NoRoute: A quota is in dollars, and nobody knows the model's price.
        StoreError: The gate cannot be asked; it may hold the reservation all the same.
    """
    most = target.request.max_output_tokens or 0
    nusd = parts.pricing.reserve_nusd(route.provider, route.model, call.plan.input_tokens, most)
    demand = Demand(tokens=call.plan.input_tokens + most, nusd=nusd)
    ask = ReserveAsk(
        id=attempt_id,
        owner=parts.owner,
        now_ms=parts.clock(),
        lease_ms=LEASE_MS,
        quotas=await parts.quotas.of(call.org, route, demand),
        rates=parts.quotas.rates(call.org, demand.tokens),
        route=route,
        needs_tokens=demand.tokens,
        breaker=parts.rules.breaker,
    )
    answer = await parts.gate(parts.store.reserve, ask)
    if isinstance(answer, Reserved):
        for warning in answer.warnings:
            call.trace.add("quota", "warning", why=warning)
    return answer


async def revived(parts: Parts, key: str) -> bool:
    """Whether a refused key may be tried once more: by a process that has not seen it refused, or not lately."""
    now = asyncio.get_running_loop().time()
    if parts.dead.get(key, now) > now:
        return False
    parts.dead[key] = now + DEAD_KEY_S
    await parts.gate(parts.store.revive_key, key)
    return True
