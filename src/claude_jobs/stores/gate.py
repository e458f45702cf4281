"""The GateStore Protocol and its values: quotas, rates, breakers, key states, cache, flights, the ledger of calls.

Every method is ONE transaction (SQLite) or ONE script (Redis): all of it happens or nothing. Amounts are integers (tokens,
nano-dollars, requests, milliseconds). The rules are those of `policy.quota`, `policy.rates`, `policy.breaker` and
`policy.keys`; a store only keeps their state. Methods are synchronous; errors are those of `stores.base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from claude_jobs.domain.generation import Cost, RateHeaders, Route, Tokens
from claude_jobs.policy.breaker import BreakerRules, CircuitState, Verdict
from claude_jobs.policy.keys import KeyState
from claude_jobs.policy.quota import Quota, QuotaUse
from claude_jobs.policy.rates import Rate

LEASE_MS = 15_000
"""How long a reservation is held without a renewal; whoever died is swept by the next one who asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveAsk:
    """One attempt that wants to begin: everything it needs is had at once, or nothing of it.

    Attributes:
        id: Of the reservation, unique.
        owner: The process.
        quotas: Each with the amount to reserve.
        rates: Each with its cost in requests or tokens.
        route: Whose circuit and key state are asked; None for neither (a CLI job's budget).
        needs_tokens: What the attempt may use of the key's announced token limit.
    """

    id: str
    owner: str
    now_ms: int
    lease_ms: int = LEASE_MS
    quotas: tuple[tuple[Quota, int], ...] = ()
    rates: tuple[tuple[Rate, int], ...] = ()
    route: Route | None = None
    needs_tokens: int = 0
    breaker: BreakerRules = BreakerRules()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """It may begin.

    Attributes:
        is_probe: It is one of the few that find out whether an open circuit may close.
        warnings: Quotas that are at 80 % or 95 % with this, speakable.
    """

    id: str
    is_probe: bool = False
    warnings: tuple[str, ...] = ()


class RefusedBy(StrEnum):
    """What stands in the way."""

    QUOTA = "quota"
    RATE = "rate"
    CIRCUIT = "circuit"
    COOLING = "cooling"
    DEAD_KEY = "dead_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It may not; nothing was consumed.

    Attributes:
        counter: Which quota or rate, speakable; the circuit's or key's id.
        is_org: It is a quota of the organization: no other route helps.
        limit, used, asked: Of a quota or rate.
        retry_at_ms: When it is worth asking again, 0 if it is not (asked > limit; a dead key).
    """

    by: RefusedBy
    counter: str
    limit: int = 0
    used: int = 0
    asked: int = 0
    retry_at_ms: int = 0
    is_org: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One line of the ledger: a call as its caller saw it. `steps` is the explain record as JSON.

    Attributes:
        outcome: "ok" or an error's code.
        cached: "" or "hit", "stale", "coalesced": then cost is nothing and tokens are those of the original.
    """

    id: str
    at_ms: int
    org: str
    route: Route
    outcome: str
    tokens: Tokens
    cost: Cost
    cached: str = ""
    took_ms: int = 0
    first_token_ms: int | None = None
    steps: str = "[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A stored answer. `value` is opaque to the store."""

    key: str
    org: str
    provider: str
    model: str
    value: bytes = field(repr=False)
    created_ms: int
    fresh_until_ms: int
    stale_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePut:
    """An entry to store.

    Attributes:
        seq: From the look that missed: what was invalidated since then is not stored.
        max_entries, max_bytes: Bounds of the whole cache; the least recently used go.
    """

    entry: CacheEntry
    seq: int
    max_entries: int
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A flight that ends: its key and fence, and the error that it ended with ("" if it left an entry).

    Followers that began to wait before now get the error (JSON, opaque); who comes later starts anew.
    """

    key: str
    fence: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of an attempt. A second one for the same reservation changes nothing.

    Attributes:
        id: Of the reservation; "" if there was none (cache hits).
        tokens, nusd: What to book; None keeps what was reserved (unknown is not zero). Booked in full, also past a limit,
            also after the lease ended, and in the window that reserved.
        requests: 0 gives the request back, for an attempt that never reached the provider.
        verdict: For the circuit.
        cool_until_ms: The key waits for this model until then; `is_key_dead` until it is offered anew, because of `why`.
        headers: What the answer said of the key's limits.
    """

    id: str
    now_ms: int
    route: Route | None = None
    tokens: int | None = None
    nusd: int | None = None
    requests: int = 1
    verdict: Verdict = Verdict.NEUTRAL
    breaker: BreakerRules = BreakerRules()  # noqa: RUF009 - frozen
    cool_until_ms: int = 0
    is_key_dead: bool = False
    why: str = ""
    headers: RateHeaders | None = None
    record: CallRecord | None = None
    put: CachePut | None = None
    landing: Landing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAsk:
    """A cacheable request that looks for its answer.

    Attributes:
        owner: Claims the flight with this name; "" only looks.
        since_ms: When this caller began to wait, 0 if it does not: an error of a flight that landed later is for it, too,
            even if somebody else tries again by now.
    """

    key: str
    org: str
    provider: str
    model: str
    now_ms: int
    owner: str = ""
    lease_ms: int = LEASE_MS
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was found.

    Attributes:
        what: "hit": `entry` is fresh. "stale": `entry` may be served; `fence` > 0 if the asker is to refresh it.
            "lead": nothing there, the asker makes it and owns the flight `fence` (the one it has, if it asks again).
            "follow": another owner makes it.
            "failed": the flight it waited for ended with `error`. "miss": nothing there, and no flight was asked for.
        seq: To be given to the CachePut.
    """

    what: Literal["hit", "stale", "lead", "follow", "failed", "miss"]
    entry: CacheEntry | None = None
    fence: int = 0
    seq: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Since the database was made, all processes together."""

    entries: int
    bytes: int
    hits: int
    stale_hits: int
    misses: int
    stores: int
    evictions: int
    invalidations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerQuery:
    """Which calls; times are [since, until) in epoch milliseconds, until 0 for no end. `by` groups: org provider model key day."""

    since_ms: int = 0
    until_ms: int = 0
    org: str = ""
    provider: str = ""
    model: str = ""
    by: tuple[str, ...] = ("day", "org", "provider", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A group's sums.

    Attributes:
        tokens: Without those of cached answers, which are counted where they were made.
        unpriced: Calls whose price nobody knows; their cost is not in `nusd`.
    """

    group: Mapping[str, str]
    calls: int
    errors: int
    cached: int
    tokens: Tokens
    nusd: int
    unpriced: int
    estimated: int


class GateStore(Protocol):
    """Shared state of the generation path. See the module."""

    def group(self) -> AbstractContextManager[None]:
        """Operations inside may share one commit. Each stays whole by itself: one that fails undoes only itself."""
        ...

    def reserve(self, ask: ReserveAsk) -> Reserved | Refused:
        """All or nothing. Expired holds are swept first. Checks quotas, rates, key, circuit, in this order."""
        ...

    def renew(self, ids: Sequence[str], until_ms: int) -> tuple[str, ...]:
        """Hold reservations on. The ids that are still held; one that was swept meanwhile is held again."""
        ...

    def settle(self, settlement: Settlement) -> bool:
        """Book it, tell the circuit and the key, write the record, store the entry, land the flight. False: had been settled."""
        ...

    def look(self, ask: LookAsk) -> Look:
        """Cache and flight in one. A flight whose lease ended is the asker's."""
        ...

    def renew_flights(self, flights: Sequence[tuple[str, int]], until_ms: int) -> None:
        """(key, fence) of flights that still go on."""
        ...

    def touch(self, keys: Sequence[str], now_ms: int, *, stale: int = 0) -> None:
        """Hits since the last call, in their order: what was used last stays longest. `stale` of them were served stale."""
        ...

    def invalidate(self, *, org: str = "", provider: str = "", model: str = "", key: str = "") -> int:
        """Nothing stored until now is served any more where all that is given matches; nothing given: everything. O(1).

        How many entries that were (counted, not touched)."""
        ...

    def cache_stats(self) -> CacheStats: ...

    def record(self, records: Sequence[CallRecord]) -> None:
        """Lines of the ledger that need no settlement (hits)."""
        ...

    def call(self, call_id: str) -> CallRecord | None: ...

    def calls(self, *, limit: int = 20, org: str = "") -> tuple[CallRecord, ...]:
        """The latest, newest first."""
        ...

    def ledger(self, query: LedgerQuery) -> tuple[LedgerRow, ...]:
        """Sums by group, in the order of the group's values."""
        ...

    def quotas(self) -> tuple[Quota, ...]:
        """Those that were set here (`claude-jobs quota set`)."""
        ...

    def set_quota(self, quota: Quota) -> None:
        """Replaces one of the same scope, subject, unit and window."""
        ...

    def drop_quota(self, quota_id: str) -> bool: ...

    def uses(self, quotas: Sequence[Quota], now_ms: int) -> tuple[QuotaUse, ...]:
        """Where each stands in its present window."""
        ...

    def circuits(self, now_ms: int) -> tuple[tuple[Route, CircuitState], ...]:
        """Circuits that saw anything lately."""
        ...

    def keys(self, now_ms: int) -> tuple[tuple[Route, KeyState], ...]:
        """Keys with a state worth telling."""
        ...

    def revive_key(self, fingerprint: str) -> None:
        """A dead key was offered anew."""
        ...

    def clean(self, now_ms: int, *, keep_ms: int) -> int:
        """Delete old ledger lines, settled holds, dead entries and flights, a bounded number at once. How many went."""
        ...

    def close(self) -> None: ...
