"""Stores against the model: any sequence of operations gives the same answers, and no limit is ever passed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast
from unittest import TestCase

import gate.strategies as some
import hypothesis.strategies as st
from gate.builders import NOW, line
from gate.conftest import STORES
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_jobs.domain.generation import RateHeaders, Route
from claude_jobs.policy.breaker import BreakerRules, CircuitState, Verdict
from claude_jobs.policy.quota import Quota
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import (
    CachePut,
    GateStore,
    Landing,
    LedgerQuery,
    Look,
    LookAsk,
    Refused,
    RefusedBy,
    ReserveAsk,
    Reserved,
    Settlement,
)
from claude_jobs.stores.memory.gate import MemoryGate

T = TypeVar("T")
PICK = st.integers(0, 30)
SPEAKABLE = (RefusedBy.QUOTA, RefusedBy.RATE)
"""The names of other refusers are the store's own."""


class GateMachine(RuleBasedStateMachine):
    """Each rule does the same to both stores and compares. Fences and sequence numbers are each store's own."""

    open_store: Callable[[Path], GateStore]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="gate-machine-"))
        self.real = type(self).open_store(self.directory)
        self.model = MemoryGate()
        self.now_ms = NOW
        self.count = 0
        self.open: dict[str, Route | None] = {}
        self.leads: list[tuple[str, Look, Look]] = []

    def both(self, act: Callable[[GateStore], T]) -> T:
        found, expected = act(self.real), act(self.model)

        assert found == expected
        return expected

    @rule(
        quotas=some.asked_quotas,
        rates=some.asked_rates,
        route=some.routes,
        needs=st.integers(0, 40),
        rules=some.rules,
        lease_ms=st.sampled_from((2_000, 60_000, 60_000)),
    )
    def reserve(
        self,
        quotas: list[tuple[Quota, int]],
        rates: list[tuple[Rate, int]],
        route: Route | None,
        needs: int,
        rules: BreakerRules,
        lease_ms: int,
    ) -> None:
        ask = ReserveAsk(
            id=f"r{self.count}",
            owner="w1",
            now_ms=self.now_ms,
            lease_ms=lease_ms,
            quotas=tuple(quotas),
            rates=tuple(rates),
            route=route,
            needs_tokens=needs,
            breaker=rules,
        )
        self.count += 1

        answer = self.both(lambda store: _plain(store.reserve(ask)))

        if isinstance(answer, Reserved):
            self.open[ask.id] = route
            uses = self.real.uses([one for one, _ in quotas], self.now_ms)
            assert all(use.used + use.held <= use.quota.limit for use in uses)

    @precondition(lambda self: self.open)
    @rule(
        pick=PICK,
        tokens=some.amounts,
        nusd=some.amounts,
        requests=st.sampled_from((1, 1, 0)),
        verdict=some.verdicts,
        rules=some.rules,
        headers=some.headers,
        cool_ms=st.sampled_from((0, 0, 400, 100_000)),
        dead=st.sampled_from(("", "", "", "", "401")),
    )
    def settle(
        self,
        pick: int,
        tokens: int | None,
        nusd: int | None,
        requests: int,
        verdict: Verdict,
        rules: BreakerRules,
        headers: RateHeaders | None,
        cool_ms: int,
        dead: str,
    ) -> None:
        one = list(self.open)[-1 - pick % len(self.open)]
        settlement = Settlement(
            id=one,
            now_ms=self.now_ms,
            route=self.open.pop(one),
            tokens=tokens,
            nusd=nusd,
            requests=requests,
            verdict=verdict,
            breaker=rules,
            cool_until_ms=self.now_ms + cool_ms if cool_ms else 0,
            is_key_dead=bool(dead),
            why=dead,
            headers=headers,
            record=replace(line(one, cached="hit" if tokens == 0 else "", nusd=nusd), at_ms=self.now_ms),
        )

        self.both(lambda store: store.settle(settlement))
        assert not self.real.settle(settlement)

    @rule(
        route=st.sampled_from(some.ROUTES),
        rules=some.rules,
        verdicts=st.lists(some.verdicts, min_size=1, max_size=4),
        headers=some.headers,
        cool_ms=st.sampled_from((*(0,) * 8, 2_000, 100_000)),
        dead=st.sampled_from((*("",) * 8, "401")),
    )
    def call(
        self,
        route: Route,
        rules: BreakerRules,
        verdicts: list[Verdict],
        headers: RateHeaders | None,
        cool_ms: int,
        dead: str,
    ) -> None:
        """Whole attempts: single steps alone would seldom open a circuit or use a key up."""
        for verdict in verdicts:
            self.reserve([], [], route, 10, rules, 60_000)
            if f"r{self.count - 1}" in self.open:
                self.settle(0, 1, 1, 1, verdict, rules, headers, cool_ms, dead)

    @precondition(lambda self: self.open)
    @rule(picks=st.lists(PICK, max_size=3, unique=True), ahead_ms=st.sampled_from((-1, 1, 60_000, 60_000)))
    def renew(self, picks: list[int], ahead_ms: int) -> None:
        chosen = list(dict.fromkeys([*self.open, "never"][-1 - pick % (len(self.open) + 1)] for pick in picks))
        self.both(lambda store: store.renew(chosen, self.now_ms + ahead_ms))

    @rule(key=some.keys, owner=some.owners, waited_ms=st.sampled_from((None, 0, 1, 5_000, 5_000)))
    def look(self, key: str, owner: str, waited_ms: int | None) -> None:
        since_ms = 0 if waited_ms is None else self.now_ms - waited_ms
        ask = replace(self.asking(key), owner=owner, since_ms=since_ms)
        found, expected = self.real.look(ask), self.model.look(ask)
        if found.fence and expected.fence:
            self.leads.append((key, found, expected))

        assert _comparable(found) == _comparable(expected)

    def asking(self, key: str) -> LookAsk:
        org, provider, model = some.PLACES[key]
        return LookAsk(key=key, org=org, provider=provider, model=model, now_ms=self.now_ms, lease_ms=4_000)

    @precondition(lambda self: self.leads)
    @rule(
        pick=PICK,
        size=st.sampled_from((None, 1, 20, 50)),
        error=st.sampled_from(("", "", "overloaded")),
        bounds=st.sampled_from(((3, 90), (2, 60), (0, 90))),
        times_ms=st.sampled_from(((1_000, 5_000), (10_000, 0), (0, 5_000))),
    )
    def land(self, pick: int, size: int | None, error: str, bounds: tuple[int, int], times_ms: tuple[int, int]) -> None:
        """Also by leaders who lost their flight long ago."""
        key, *looks = self.leads[-1 - pick % min(4, len(self.leads))]
        entry = some.entry(key, b"x" * (size or 0), self.now_ms, *times_ms)

        def act(store: GateStore) -> bool:
            look = looks[store is self.model]
            put = CachePut(entry=entry, seq=look.seq, max_entries=bounds[0], max_bytes=bounds[1])
            landing = Landing(key=key, fence=look.fence, error=error)
            return store.settle(
                Settlement(id="", now_ms=self.now_ms, put=None if error or size is None else put, landing=landing)
            )

        self.both(act)

    @precondition(lambda self: self.leads)
    @rule(pick=PICK, ahead_ms=st.sampled_from((1, 4_000)))
    def renew_flight(self, pick: int, ahead_ms: int) -> None:
        key, found, expected = self.leads[-1 - pick % len(self.leads)]
        self.real.renew_flights([(key, found.fence)], self.now_ms + ahead_ms)
        self.model.renew_flights([(key, expected.fence)], self.now_ms + ahead_ms)

    @rule(
        key=some.keys, first=some.owners, second=some.owners, error=st.sampled_from(("", "no")), is_lost=st.booleans()
    )
    def fly(self, key: str, first: str, second: str, error: str, is_lost: bool) -> None:
        """One leads and loses its flight or not, lands it, and others look again."""
        self.look(key, first, None)
        self.now_ms += 4_000 if is_lost else 1
        self.look(key, second, 0)
        if self.leads:
            self.land(int(is_lost), None, error, (3, 90), (1_000, 0))
        self.now_ms += 1
        for owner, waited_ms in (("w3", 0), (second, 5_000)):
            self.look(key, owner, waited_ms)

    @rule(used=st.lists(st.sampled_from(some.KEYS), min_size=2, max_size=3, unique=True), size=st.sampled_from((1, 40)))
    def fill(self, used: list[str], size: int) -> None:
        """Answers are stored, used in another order, and one more needs their room."""
        for key in some.KEYS:
            self.look(key, f"own {key}", None)
            if self.leads and self.leads[-1][0] == key:
                self.land(0, size, "", (3, 90), (10_000, 0))
            if key == some.KEYS[-2]:
                self.touch(used, is_stale=False)

    @rule(quotas=some.asked_quotas, is_late=st.booleans())
    def sleep(self, quotas: list[tuple[Quota, int]], is_late: bool) -> None:
        """A reservation's owner wakes up after its lease, and goes on or settles."""
        self.reserve(quotas, [], None, 0, BreakerRules(), 2_000)
        self.now_ms += 2_000
        self.reserve(quotas, [], None, 0, BreakerRules(), 60_000)
        if is_late and self.open:
            self.settle(1, None, None, 1, Verdict.NEUTRAL, BreakerRules(), None, 0, "")
        elif self.open:
            self.renew([0, 1], 60_000)

    @rule(used=st.lists(some.keys, min_size=1, max_size=5), is_stale=st.booleans())
    def touch(self, used: list[str], is_stale: bool) -> None:
        self.both(lambda store: store.touch(used, self.now_ms, stale=int(is_stale)))

    @rule(pattern=some.patterns)
    def invalidate(self, pattern: dict[str, str]) -> None:
        self.both(lambda store: store.invalidate(**pattern))

    @rule(place=st.integers(0, 5), limit=st.integers(0, 200), is_dropped=st.booleans())
    def set_or_drop_quota(self, place: int, limit: int, is_dropped: bool) -> None:
        one = replace(some.QUOTAS[place], limit=limit)
        self.both(lambda store: store.drop_quota(one.id) if is_dropped else store.set_quota(one))

    @rule(key=st.sampled_from(("k1", "k2", "none")))
    def revive(self, key: str) -> None:
        self.both(lambda store: store.revive_key(key))

    @rule()
    def clean(self) -> None:
        self.both(lambda store: store.clean(self.now_ms, keep_ms=30 * 86_400_000))

    @rule(step_ms=some.steps_ms)
    def clock_goes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def open_it_again(self) -> None:
        self.real.close()
        self.real = type(self).open_store(self.directory)

    @invariant()
    def agree(self) -> None:
        def act(store: GateStore) -> object:
            return (
                store.uses(some.QUOTAS, self.now_ms),
                store.circuits(self.now_ms),
                store.keys(self.now_ms),
                store.cache_stats(),
                [_comparable(store.look(self.asking(key))) for key in some.KEYS],
                store.quotas(),
                store.calls(limit=5),
                store.ledger(LedgerQuery(by=("day", "provider"))),
            )

        self.both(act)

    @invariant()
    def probes_are_few(self) -> None:
        for _, circuit in self.real.circuits(self.now_ms):
            assert len(circuit.probes) <= 8
            assert circuit.open_until_ms or circuit == replace(circuit, phase=CircuitState().phase)

    @invariant()
    def cache_is_within_its_bounds(self) -> None:
        stats = self.real.cache_stats()

        assert stats.entries <= 3
        assert stats.bytes <= 90

    def teardown(self) -> None:
        self.real.close()
        shutil.rmtree(self.directory)


def _plain(answer: Reserved | Refused) -> Reserved | Refused:
    if isinstance(answer, Refused) and answer.by not in SPEAKABLE:
        return replace(answer, counter="")
    return answer


def _comparable(look: Look) -> tuple[object, ...]:
    return look.what, look.entry, look.fence > 0, look.error


def _against_the_model(store: str) -> type[TestCase]:
    machine = type(f"GateMachine_{store}", (GateMachine,), {"open_store": staticmethod(STORES[store])})
    case = cast(type[GateMachine], machine).TestCase
    case.settings = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    return case


TestSqlite = _against_the_model("sqlite")
