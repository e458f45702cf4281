"""GateStore as a model: dictionaries and plain scans. The executable specification of GateStore, not a product.

What is held is found by looking at all holds again, so there is no sum that could be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from claude_jobs.domain.generation import Route
from claude_jobs.policy import breaker, keys, quota, rates
from claude_jobs.policy.breaker import CircuitState
from claude_jobs.policy.keys import KeyState
from claude_jobs.policy.quota import Quota, QuotaUse, Scope, Unit
from claude_jobs.stores.gate import (
    CacheStats,
    CallRecord,
    LedgerQuery,
    LedgerRow,
    Look,
    LookAsk,
    Refused,
    RefusedBy,
    ReserveAsk,
    Reserved,
    Settlement,
)
from claude_jobs.stores.memory.answers import Answers
from claude_jobs.stores.memory.calls import Calls

_Window = tuple[str, int]
"""A counter: the quota's id and when its window starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    """One that is not settled. `is_open` is False once its lease was seen to have ended."""

    amounts: tuple[tuple[_Window, Unit, int], ...]
    until_ms: int
    is_open: bool = True


@dataclass(slots=True)
class _Pass:
    """What a reservation would change."""

    warnings: list[str]
    tats: dict[str, int]
    key: KeyState | None = None
    circuit: CircuitState | None = None
    is_probe: bool = False


class MemoryGate:
    """See GateStore."""

    def __init__(self) -> None:
        self._set: dict[str, Quota] = {}
        self._used: Counter[_Window] = Counter()
        self._holds: dict[str, _Hold] = {}
        self._tats: dict[str, int] = {}
        self._circuits: dict[Route, CircuitState] = {}
        self._keys: dict[Route, KeyState] = {}
        self._dead: dict[tuple[str, str], str] = {}
        self._answers = Answers()
        self._calls = Calls()

    def group(self) -> AbstractContextManager[None]:
        return nullcontext()

    def reserve(self, ask: ReserveAsk) -> Reserved | Refused:
        self._sweep(ask.now_ms)
        found = _Pass(warnings=[], tats={})
        refused = (
            self._check_quotas(ask, found)
            or self._check_rates(ask, found)
            or self._check_key(ask, found)
            or self._check_circuit(ask, found)
        )
        if refused is not None:
            return refused
        self._tats.update(found.tats)
        if ask.route is not None and found.key is not None and found.circuit is not None:
            self._save(ask.route, found.circuit, found.key)
        amounts = tuple((_window(one, ask.now_ms), one.unit, amount) for one, amount in ask.quotas)
        self._holds[ask.id] = _Hold(amounts=amounts, until_ms=ask.now_ms + ask.lease_ms)
        return Reserved(id=ask.id, is_probe=found.is_probe, warnings=tuple(found.warnings))

    def _sweep(self, now_ms: int) -> None:
        for one, hold in self._holds.items():
            if hold.until_ms <= now_ms:
                self._holds[one] = replace(hold, is_open=False)

    def _save(self, route: Route, circuit: CircuitState, key: KeyState) -> None:
        if (circuit, key) != (self._circuits.get(route, CircuitState()), self._key(route)):
            self._circuits[route] = circuit
            self._keys[route] = replace(key, dead="")

    def _check_quotas(self, ask: ReserveAsk, found: _Pass) -> Refused | None:
        for one, amount in ask.quotas:
            use = self._use(one, ask.now_ms)
            if not quota.fits(one.limit, use.used, use.held, amount):
                return Refused(
                    by=RefusedBy.QUOTA,
                    counter=quota.speak(one),
                    limit=one.limit,
                    used=use.used + use.held,
                    asked=amount,
                    retry_at_ms=quota.retry_at(one.limit, amount, use.resets_ms),
                    is_org=one.scope in (Scope.ORG, Scope.CLI),
                )
            if warning := quota.warning(use, amount):
                found.warnings.append(warning)
        return None

    def _check_rates(self, ask: ReserveAsk, found: _Pass) -> Refused | None:
        for rate, cost in ask.rates:
            tat, wait_ms = rates.decide(self._tats.get(rate.id, 0), rate, cost, ask.now_ms)
            if wait_ms:
                retry_at_ms = ask.now_ms + wait_ms if rate.per_minute > 0 else 0
                return Refused(
                    by=RefusedBy.RATE, counter=rate.id, limit=rate.per_minute, asked=cost, retry_at_ms=retry_at_ms
                )
            found.tats[rate.id] = tat
        return None

    def _check_key(self, ask: ReserveAsk, found: _Pass) -> Refused | None:
        if ask.route is None:
            return None
        state = self._key(ask.route)
        admitted = keys.admit(state, ask.needs_tokens, ask.now_ms)
        if isinstance(admitted, int):
            by = RefusedBy.DEAD_KEY if state.dead else RefusedBy.COOLING
            return Refused(by=by, counter=_speak(ask.route), retry_at_ms=admitted)
        found.key = admitted
        return None

    def _check_circuit(self, ask: ReserveAsk, found: _Pass) -> Refused | None:
        if ask.route is None:
            return None
        state = self._circuits.get(ask.route, CircuitState())
        admitted = breaker.admit(state, ask.now_ms, ask.id, ask.breaker)
        if isinstance(admitted, int):
            return Refused(by=RefusedBy.CIRCUIT, counter=_speak(ask.route), retry_at_ms=admitted)
        found.circuit, found.is_probe = admitted
        return None

    def _use(self, one: Quota, now_ms: int) -> QuotaUse:
        starts_ms, resets_ms = quota.bounds(one.window, now_ms)
        window = (one.id, starts_ms)
        held = sum(
            amount
            for hold in self._holds.values()
            if hold.is_open and hold.until_ms > now_ms
            for counter, _, amount in hold.amounts
            if counter == window
        )
        return QuotaUse(quota=one, used=self._used[window], held=held, starts_ms=starts_ms, resets_ms=resets_ms)

    def _key(self, route: Route) -> KeyState:
        state = self._keys.get(route, KeyState())
        return replace(state, dead=self._dead.get((route.provider, route.key), ""))

    def renew(self, ids: Sequence[str], until_ms: int) -> tuple[str, ...]:
        held = tuple(one for one in ids if one in self._holds)
        for one in held:
            self._holds[one] = replace(self._holds[one], until_ms=until_ms, is_open=True)
        return held

    def settle(self, settlement: Settlement) -> bool:
        if settlement.id:
            hold = self._holds.pop(settlement.id, None)
            if hold is None:
                return False
            self._book(hold, settlement)
        if settlement.route is not None:
            self._learn(settlement.route, settlement)
        if settlement.record is not None:
            self._calls.add(settlement.record)
        if settlement.put is not None:
            self._answers.put(settlement.put)
        if settlement.landing is not None:
            self._answers.land(settlement.landing, settlement.now_ms)
        return True

    def _book(self, hold: _Hold, settlement: Settlement) -> None:
        actual = {Unit.TOKENS: settlement.tokens, Unit.NUSD: settlement.nusd}
        for window, unit, reserved in hold.amounts:
            known = actual.get(unit)
            if unit is Unit.REQUESTS:
                self._used[window] += reserved if settlement.requests else 0
            else:
                self._used[window] += reserved if known is None else known

    def _learn(self, route: Route, settlement: Settlement) -> None:
        now_ms, verdict = settlement.now_ms, settlement.verdict
        circuit, rnd = self._circuits.get(route, CircuitState()), breaker.luck(settlement.id)
        circuit = breaker.record(circuit, now_ms, verdict, settlement.id, settlement.breaker, rnd)
        state = self._key(route)
        if settlement.headers is not None:
            state = keys.heard(state, settlement.headers, now_ms)
        if settlement.cool_until_ms:
            state = keys.cooled(state, settlement.cool_until_ms)
        if settlement.is_key_dead:
            state = keys.killed(state, settlement.why)
        self._save(route, circuit, state)
        if state.dead:
            self._dead[route.provider, route.key] = state.dead

    def look(self, ask: LookAsk) -> Look:
        return self._answers.look(ask)

    def renew_flights(self, flights: Sequence[tuple[str, int]], until_ms: int) -> None:
        self._answers.renew(flights, until_ms)

    def touch(self, keys: Sequence[str], now_ms: int, *, stale: int = 0) -> None:
        self._answers.touch(keys, stale=stale)

    def invalidate(self, *, org: str = "", provider: str = "", model: str = "", key: str = "") -> int:
        return self._answers.invalidate((org, provider, model, key))

    def cache_stats(self) -> CacheStats:
        return self._answers.stats()

    def record(self, records: Sequence[CallRecord]) -> None:
        for record in records:
            self._calls.add(record)

    def call(self, call_id: str) -> CallRecord | None:
        return self._calls.get(call_id)

    def calls(self, *, limit: int = 20, org: str = "") -> tuple[CallRecord, ...]:
        return self._calls.latest(limit=limit, org=org)

    def ledger(self, query: LedgerQuery) -> tuple[LedgerRow, ...]:
        return self._calls.ledger(query)

    def quotas(self) -> tuple[Quota, ...]:
        return tuple(self._set[one] for one in sorted(self._set))

    def set_quota(self, quota: Quota) -> None:
        self._set[quota.id] = quota

    def drop_quota(self, quota_id: str) -> bool:
        return self._set.pop(quota_id, None) is not None

    def uses(self, quotas: Sequence[Quota], now_ms: int) -> tuple[QuotaUse, ...]:
        return tuple(self._use(one, now_ms) for one in quotas)

    def circuits(self, now_ms: int) -> tuple[tuple[Route, CircuitState], ...]:
        telling = [(route, one) for route, one in self._circuits.items() if breaker.is_telling(one, now_ms)]
        return tuple(sorted(telling, key=lambda pair: _order(pair[0])))

    def keys(self, now_ms: int) -> tuple[tuple[Route, KeyState], ...]:
        states = [(route, self._key(route)) for route in sorted(self._keys, key=_order)]
        return tuple((route, state) for route, state in states if keys.is_telling(state, now_ms))

    def revive_key(self, fingerprint: str) -> None:
        self._dead = {key: death for key, death in self._dead.items() if key[1] != fingerprint}

    def clean(self, now_ms: int, *, keep_ms: int) -> int:
        before_ms = now_ms - keep_ms
        self._sweep(now_ms)
        old = [one for one, hold in self._holds.items() if not hold.is_open and hold.until_ms < before_ms]
        for one in old:
            del self._holds[one]
        return len(old) + self._calls.clean(before_ms) + self._answers.clean(now_ms)

    def close(self) -> None:
        """Nothing to close."""


def _window(one: Quota, now_ms: int) -> _Window:
    return one.id, quota.bounds(one.window, now_ms)[0]


def _order(route: Route) -> tuple[str, str, str]:
    return route.provider, route.model, route.key


def _speak(route: Route) -> str:
    return "/".join(part for part in _order(route) if part)
