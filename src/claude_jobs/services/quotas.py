"""Which quotas and rates apply to a call: the operator's settings for every organization, and what was set for some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from claude_jobs.domain.generation import Route
from claude_jobs.errors import NoRoute
from claude_jobs.policy.quota import Quota, Scope, Unit
from claude_jobs.policy.rates import Rate
from claude_jobs.services.gate import GateThread
from claude_jobs.stores.gate import GateStore

FRESH_MS = 1_000
"""How long the list of set quotas is believed before it is read again: another process may have set one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaDefaults:
    """What holds for each organization unless something else was set for it. None is no limit, 0 nothing at all."""

    tokens: int | None = None
    nusd: int | None = None
    cli_nusd: int | None = None
    window: str = "3600"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one attempt may use at most. `nusd` is None if nobody knows the price."""

    tokens: int
    nusd: int | None


class QuotaBook:
    """Quotas by organization, key and model."""

    def __init__(
        self, *, store: GateStore, gate: GateThread, defaults: QuotaDefaults, clock: Callable[[], int]
    ) -> None:
        self._store = store
        self._gate = gate
        self._defaults = defaults
        self._clock = clock
        self._set: tuple[Quota, ...] = ()
        self._read_ms = 0

    async def of(self, org: str, route: Route, demand: Demand) -> tuple[tuple[Quota, int], ...]:
        """The quotas of this attempt, each with what to reserve.

        Raises:
            NoRoute: One of them counts dollars, and the model's price is unknown.
        """
        known = await self.known()
        model = f"{route.provider}/{route.model}"
        subjects = {Scope.ORG: org, Scope.KEY: route.key, Scope.MODEL: model}
        chosen = _applying(self._of_org(org), known, subjects)
        return tuple((quota, _amount(quota, demand, model)) for quota in chosen)

    async def of_cli(self, org: str) -> tuple[Quota, ...]:
        """The quotas of this organization's claude jobs."""
        default = self._quota(Scope.CLI, org, Unit.NUSD, self._defaults.cli_nusd)
        return tuple(_applying(default, await self.known(), {Scope.CLI: org}))

    def rates(self, org: str, tokens: int) -> tuple[tuple[Rate, int], ...]:
        """The rates of this attempt, each with its cost."""
        found: list[tuple[Rate, int]] = []
        if self._defaults.requests_per_minute is not None:
            found.append((Rate(id=f"org:{org}|requests", per_minute=self._defaults.requests_per_minute), 1))
        if self._defaults.tokens_per_minute is not None:
            found.append((Rate(id=f"org:{org}|tokens", per_minute=self._defaults.tokens_per_minute), tokens))
        return tuple(found)

    async def known(self) -> tuple[Quota, ...]:
        """Those that were set, at most FRESH_MS old."""
        now_ms = self._clock()
        if not 0 <= now_ms - self._read_ms < FRESH_MS:
            self._set = await self._gate(self._store.quotas)
            self._read_ms = now_ms
        return self._set

    async def all(self, org: str) -> tuple[Quota, ...]:
        """Everything that applies to an organization, its jobs included, and all that was set for keys and models."""
        known = await self.known()
        mine = _applying(self._of_org(org), known, {Scope.ORG: org})
        others = [quota for quota in known if quota.scope in (Scope.KEY, Scope.MODEL)]
        return (*mine, *await self.of_cli(org), *others)

    async def set(self, quota: Quota) -> None:
        """Set one, for all processes."""
        await self._gate(self._store.set_quota, quota)
        self._read_ms = 0

    async def drop(self, quota_id: str) -> bool:
        """Forget one that was set. False: there was none."""
        self._read_ms = 0
        return await self._gate(self._store.drop_quota, quota_id)

    def _of_org(self, org: str) -> list[Quota]:
        defaults = self._defaults
        return [
            *self._quota(Scope.ORG, org, Unit.TOKENS, defaults.tokens),
            *self._quota(Scope.ORG, org, Unit.NUSD, defaults.nusd),
        ]

    def _quota(self, scope: Scope, subject: str, unit: Unit, limit: int | None) -> list[Quota]:
        if limit is None:
            return []
        return [Quota(scope=scope, subject=subject, unit=unit, limit=limit, window=self._defaults.window)]


def _applying(defaults: list[Quota], known: tuple[Quota, ...], subjects: dict[Scope, str]) -> list[Quota]:
    """What was set for a subject replaces what was set for each, and that replaces the setting, unit by unit."""
    each = [
        replace(quota, subject=subjects[quota.scope])
        for quota in known
        if quota.scope in subjects and not quota.subject
    ]
    own = [quota for quota in known if quota.subject and subjects.get(quota.scope) == quota.subject]
    chosen: dict[tuple[Scope, Unit], list[Quota]] = {}
    for source in (defaults, each, own):
        units = {(quota.scope, quota.unit) for quota in source}
        chosen.update({kind: [quota for quota in source if (quota.scope, quota.unit) == kind] for kind in units})
    return [quota for quotas in chosen.values() for quota in quotas]


def _amount(quota: Quota, demand: Demand, model: str) -> int:
    if quota.unit is Unit.REQUESTS:
        return 1
    if quota.unit is Unit.TOKENS:
        return demand.tokens
    if demand.nusd is None:
        message = (
            f"A quota in dollars applies ({quota.id!r}), and the price of {model!r} is unknown. "
            "Give it one in prices.toml of CLAUDE_JOBS_HOME, or use another model."
        )
        raise NoRoute(message)
    return demand.nusd
