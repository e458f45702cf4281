"""Short ways to say reservations, settlements, looks and calls in gate tests. Times are milliseconds after `NOW`."""

from __future__ import annotations

from claude_jobs.domain.generation import Cost, RateHeaders, Route, Tokens
from claude_jobs.policy.breaker import BreakerRules, Verdict
from claude_jobs.policy.quota import Quota, Scope, Unit
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import (
    CacheEntry,
    CachePut,
    CallRecord,
    GateStore,
    Landing,
    Look,
    LookAsk,
    Refused,
    ReserveAsk,
    Reserved,
    Settlement,
)

NOW = 1_800_000_000_000
"""The beginning of an hour."""
HOUR = 3_600_000
LEASE = 60_000
ROUTE = Route(provider="openai", model="gpt", key="k1")
RULES = BreakerRules(failure_threshold=2, recovery_ms=1_000, min_calls=4, window_ms=10_000, probe_ms=5_000)


def quota(
    limit: int, *, subject: str = "acme", scope: Scope = Scope.ORG, unit: Unit = Unit.TOKENS, window: str = "3600"
) -> Quota:
    """An organization's tokens per hour, if nothing else is said."""
    return Quota(scope=scope, subject=subject, unit=unit, limit=limit, window=window)


class Gate:
    """A store, spoken to briefly."""

    def __init__(self, store: GateStore) -> None:
        self.store = store

    def ask(
        self,
        reservation: str,
        *quotas: tuple[Quota, int],
        at: int = 0,
        rates: tuple[tuple[Rate, int], ...] = (),
        route: Route | None = None,
        needs: int = 0,
        lease: int = LEASE,
        rules: BreakerRules = RULES,
    ) -> Reserved | Refused:
        """Reserve."""
        return self.store.reserve(
            ReserveAsk(
                id=reservation,
                owner="w1",
                now_ms=NOW + at,
                lease_ms=lease,
                quotas=quotas,
                rates=rates,
                route=route,
                needs_tokens=needs,
                breaker=rules,
            )
        )

    def had(self, reservation: str, *quotas: tuple[Quota, int], at: int = 0, lease: int = LEASE) -> Reserved:
        """Reserve what there must be room for."""
        answer = self.ask(reservation, *quotas, at=at, lease=lease)
        assert isinstance(answer, Reserved)
        return answer

    def attempt(
        self, reservation: str, *, at: int = 0, route: Route = ROUTE, needs: int = 0, rules: BreakerRules = RULES
    ) -> Reserved | Refused:
        """Ask for a route alone."""
        return self.ask(reservation, at=at, route=route, needs=needs, rules=rules)

    def settle(
        self,
        reservation: str,
        *,
        at: int = 0,
        tokens: int | None = None,
        nusd: int | None = None,
        requests: int = 1,
        route: Route | None = None,
        verdict: Verdict = Verdict.NEUTRAL,
        rules: BreakerRules = RULES,
        cool_until: int | None = None,
        dead: str = "",
        headers: RateHeaders | None = None,
        record: CallRecord | None = None,
        put: CachePut | None = None,
        landing: Landing | None = None,
    ) -> bool:
        """Settle."""
        return self.store.settle(
            Settlement(
                id=reservation,
                now_ms=NOW + at,
                route=route,
                tokens=tokens,
                nusd=nusd,
                requests=requests,
                verdict=verdict,
                breaker=rules,
                cool_until_ms=0 if cool_until is None else NOW + cool_until,
                is_key_dead=bool(dead),
                why=dead,
                headers=headers,
                record=record,
                put=put,
                landing=landing,
            )
        )

    def call(
        self, reservation: str, verdict: Verdict, *, at: int = 0, route: Route = ROUTE, rules: BreakerRules = RULES
    ) -> None:
        """A whole attempt that ends so."""
        assert isinstance(self.attempt(reservation, at=at, route=route, rules=rules), Reserved)
        assert self.settle(reservation, at=at, route=route, verdict=verdict, rules=rules)

    def stands(self, one: Quota, *, at: int = 0) -> tuple[int, int]:
        """What is (used, held) of a quota."""
        (use,) = self.store.uses([one], NOW + at)
        return use.used, use.held

    def look(self, key: str = "k", *, at: int = 0, owner: str = "w1", since: int | None = None) -> Look:
        """Look for an answer; `owner` "" only looks."""
        return self.store.look(
            LookAsk(
                key=key,
                org="acme",
                provider="openai",
                model="gpt",
                now_ms=NOW + at,
                owner=owner,
                lease_ms=LEASE,
                since_ms=0 if since is None else NOW + since,
            )
        )

    def store_answer(
        self,
        key: str = "k",
        value: bytes = b"answer",
        *,
        at: int = 0,
        fresh: int = 10_000,
        stale: int = 20_000,
        seq: int | None = None,
        org: str = "acme",
        provider: str = "openai",
        model: str = "gpt",
        max_entries: int = 100,
        max_bytes: int = 10_000,
        landing: Landing | None = None,
    ) -> None:
        """Put an answer there, as of a look now if `seq` is not given."""
        entry = CacheEntry(
            key=key,
            org=org,
            provider=provider,
            model=model,
            value=value,
            created_ms=NOW + at,
            fresh_until_ms=NOW + at + fresh,
            stale_until_ms=NOW + at + stale,
        )
        known = self.look(key, at=at, owner="").seq if seq is None else seq
        put = CachePut(entry=entry, seq=known, max_entries=max_entries, max_bytes=max_bytes)
        assert self.settle("", at=at, put=put, landing=landing)

    def land(self, key: str, fence: int, *, at: int = 0, error: str = "") -> None:
        """End a flight without an answer to keep."""
        assert self.settle("", at=at, landing=Landing(key=key, fence=fence, error=error))

    def has(self, key: str, *, at: int = 0) -> bool:
        """Whether a fresh answer is served."""
        return self.look(key, at=at, owner="").what == "hit"


def line(
    call_id: str,
    *,
    at: int = 0,
    org: str = "acme",
    route: Route = ROUTE,
    outcome: str = "ok",
    tokens: Tokens = Tokens(input=10, output=5),  # noqa: B008 - frozen
    nusd: int | None = 7,
    cached: str = "",
) -> CallRecord:
    """A call in the ledger."""
    return CallRecord(
        id=call_id,
        at_ms=NOW + at,
        org=org,
        route=route,
        outcome=outcome,
        tokens=tokens,
        cost=Cost(nusd=nusd, price="own"),
        cached=cached,
        took_ms=3,
        steps='[{"what":"cache"}]',
    )
