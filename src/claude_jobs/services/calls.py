"""What a call and its attempts are while they are under way, and what all calls of a process share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Answer, Completion, Cost, Route, StreamEvent, Tokens
from claude_jobs.errors import ProviderTimeout
from claude_jobs.policy.attempts import RetryBudget
from claude_jobs.policy.breaker import BreakerRules
from claude_jobs.policy.routing import HEDGE_SHARE, HEDGE_STOCK, Load
from claude_jobs.providers.base import Provider
from claude_jobs.services.gate import GateThread
from claude_jobs.services.generation_api import Ask
from claude_jobs.services.leases import Leases
from claude_jobs.services.planner import Plan, Target
from claude_jobs.services.pricing import Pricing
from claude_jobs.services.quotas import QuotaBook
from claude_jobs.services.trace import Trace
from claude_jobs.services.turnstile import Turnstile
from claude_jobs.stores.gate import GateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRules:
    """The operator's settings, in seconds."""

    request_timeout_s: float
    max_retries: int
    max_requests: int
    breaker: BreakerRules


MOST_ROUTES = 1_000
"""Routes of which something is remembered in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all calls of a process share. `loads` and `budgets` (of retries) are kept by route and by provider.

    `dead` are refused keys, with the event loop's time at which they may be tried again: somebody may have mended them.
    `shut` are routes that were refused a moment ago: until when that is believed without asking again, and when it may end.
    """

    store: GateStore
    gate: GateThread
    quotas: QuotaBook
    pricing: Pricing
    provider: Callable[[str], Provider]
    leases: Leases
    turnstile: Turnstile
    owner: str
    clock: Callable[[], int]
    rnd: Callable[[], float]
    rules: ChainRules
    loads: dict[Route, Load] = field(default_factory=dict[Route, Load])
    dead: dict[str, float] = field(default_factory=dict[str, float])
    shut: dict[Route, tuple[int, int]] = field(default_factory=dict[Route, tuple[int, int]])
    budgets: dict[str, RetryBudget] = field(default_factory=dict[str, RetryBudget])
    hedges: RetryBudget = field(
        default_factory=lambda: RetryBudget(left=HEDGE_STOCK, share=HEDGE_SHARE, most=HEDGE_STOCK)
    )

    def load(self, route: Route) -> Load:
        """What goes on with a route."""
        found = self.loads.get(route)
        if found is None:
            if len(self.loads) >= MOST_ROUTES:  # names of models come from callers
                self.shut.clear()
                for idle in [each for each, load in self.loads.items() if not load.running]:
                    del self.loads[idle]
            found = self.loads[route] = Load(limit=float(self.rules.max_requests))
        return found

    def budget(self, provider: str) -> RetryBudget:
        """Of a provider's retries."""
        return self.budgets.setdefault(provider, RetryBudget())

    def attempt(self, attempt_id: str, target: Target, route: Route, load: Load, began_ms: float) -> Attempt:
        """One that has its turn and its reservation, which is held on."""
        provider = self.provider(target.provider)
        self.leases.hold(attempt_id)
        return Attempt(
            id=attempt_id,
            target=target,
            route=route,
            provider=provider,
            key=target.keys[route.key],
            load=load,
            began_ms=began_ms,
        )


DEFAULT_ORG = "default"
_SPEAKABLE = "abcdefghjkmnpqrstuvwxyz23456789"
NO_PLAN = Plan(targets=(), input_tokens=0)


@dataclass(slots=True, kw_only=True)
class Call:
    """A call under way.

    Attributes:
        deadline, first_by: The event loop's time, seconds: the end of everything, and of the search for an answer.
        spent: What failed attempts used.
        is_recorded: Whether the ledger has its line.
    """

    id: str
    org: str
    ask: Ask
    trace: Trace
    plan: Plan = NO_PLAN
    deadline: float = float("inf")
    first_by: float = float("inf")
    spent: tuple[Tokens, Cost] = (Tokens(), Cost(nusd=0))
    is_recorded: bool = False


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at one route that has its turn and its reservation.

    Attributes:
        patience_s: What REQUEST_TIMEOUT leaves it to begin to answer.
        is_hurried: Whether its caller's deadline leaves it less.
        chars: What it delivered so far.
    """

    id: str
    target: Target
    route: Route
    provider: Provider
    key: ApiKey | None
    load: Load
    began_ms: float
    patience_s: float = 0.0
    is_hurried: bool = False
    first_ms: float | None = None
    chars: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A stream that has begun: its first event, and the rest."""

    attempt: Attempt
    first: StreamEvent
    rest: AsyncGenerator[StreamEvent]


async def next_event(events: AsyncGenerator[StreamEvent], by: float, route: Route) -> StreamEvent | None:
    """The next of a stream, None at its end.

    Raises:
        ProviderTimeout: It did not come by that time of the event loop. A provider's own time-out begins anew with every
            sign of life, and may never end.
    """
    if by == float("inf"):
        return await anext(events, None)
    try:
        async with asyncio.timeout_at(by):
            return await anext(events, None)
    except TimeoutError:
        message = f"The time for this answer of {route.provider} is over."
        raise ProviderTimeout(message, provider=route.provider, model=route.model) from None


def add(one: Tokens, other: Tokens) -> Tokens:
    """The sum; it is only as sure as the less sure of both."""
    sure = max((one.provenance, other.provenance), key=["reported", "estimated", "unknown"].index)
    return Tokens(
        input=one.input + other.input,
        output=one.output + other.output,
        cache_read=one.cache_read + other.cache_read,
        cache_write=one.cache_write + other.cache_write,
        cache_write_1h=one.cache_write_1h + other.cache_write_1h,
        thinking=one.thinking + other.thinking,
        provenance=sure,
    )


def total(costs: Sequence[Cost]) -> Cost:
    """The sum; unknown if one is. The price named is the last one's."""
    if any(cost.nusd is None for cost in costs):
        return Cost(nusd=None, price=costs[-1].price)
    return Cost(nusd=sum(cost.nusd or 0 for cost in costs), price=costs[-1].price)


def new_call(ask: Ask, call_id: str = "") -> Call:
    """One that begins now."""
    letters = "".join(random.choices(_SPEAKABLE, k=10))  # noqa: S311 - an id, no secret
    return Call(id=call_id or f"g-{letters}", org=ask.org or DEFAULT_ORG, ask=ask, trace=Trace())


def answer_of(
    call: Call,
    completion: Completion,
    route: Route,
    paid: Cost,
    *,
    cached: str = "",
    age_s: float = 0.0,
    first_ms: float | None = None,
) -> Answer:
    """What its caller gets."""
    return Answer(
        id=call.id,
        completion=completion,
        route=route,
        paid=paid,
        steps=tuple(call.trace.steps),
        took_ms=call.trace.ms(),
        first_token_ms=first_ms,
        cached=cached,
        age_s=age_s,
        org=call.org,
    )
