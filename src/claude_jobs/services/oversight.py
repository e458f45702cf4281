"""What an operator sees and sets of generation: quotas, cache, circuits, keys, the ledger, the explanation of a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from claude_jobs.domain.generation import Route
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.quota import Quota, QuotaUse, Scope, Unit, parse_window, speak
from claude_jobs.services import answers, ledger
from claude_jobs.services.answer_cache import AnswerCache
from claude_jobs.services.gate import GateThread
from claude_jobs.services.generation_view import cost_view, route_view, step_view, usage_view
from claude_jobs.services.quotas import QuotaBook
from claude_jobs.stores.gate import CallRecord, GateStore, LedgerQuery

View = dict[str, object]
NUSD = 1_000_000_000
MOST_CALLS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class GateParts:
    """The parts behind it."""

    store: GateStore
    gate: GateThread
    quotas: QuotaBook
    cache: AnswerCache


class Oversight:
    """Views as JSON can say them. `parts` opens the gate; it raises StoreError."""

    def __init__(self, parts: Callable[[], Awaitable[GateParts]], clock: Callable[[], int]) -> None:
        self._parts = parts
        self._clock = clock

    async def quotas(self, org: str) -> list[View]:
        """Where each quota stands that applies to an organization, its jobs and all keys and models."""
        parts = await self._parts()
        known = {quota.id for quota in await parts.quotas.known()}
        applying = await parts.quotas.all(org)
        uses = await parts.gate(parts.store.uses, applying, self._clock())
        return [_quota_view(use, is_set=use.quota.id in known) for use in uses]

    async def set_quota(self, *, scope: str, subject: str, unit: str, limit: float, window: str) -> View:
        """Set one, for all processes from now on. What was used stays used.

        Args:
            unit: "tokens", "requests", or "usd", for which `limit` is dollars.

        Raises:
            InvalidRequest: A scope, unit, window or limit that is none.
        """
        parts = await self._parts()
        quota = _quota(scope, subject, unit, limit, window)
        await parts.quotas.set(quota)
        (use,) = await parts.gate(parts.store.uses, (quota,), self._clock())
        return _quota_view(use, is_set=True)

    async def drop_quota(self, quota_id: str) -> None:
        """Forget one that was set. Raises InvalidRequest if there is none of that id."""
        parts = await self._parts()
        if not await parts.quotas.drop(quota_id):
            known = ", ".join(repr(quota.id) for quota in await parts.quotas.known()) or "none"
            raise InvalidRequest(f"No quota {quota_id!r} was set. Set are: {known}.", field="id")

    async def cache(self) -> View:
        """How full it is, and how often it helped."""
        parts = await self._parts()
        await parts.cache.flush()
        stats = await parts.gate(parts.store.cache_stats)
        asked = stats.hits + stats.stale_hits + stats.misses
        return {
            "entries": stats.entries,
            "bytes": stats.bytes,
            "hits": stats.hits,
            "stale_hits": stats.stale_hits,
            "misses": stats.misses,
            "hit_rate": round((stats.hits + stats.stale_hits) / asked, 4) if asked else None,
            "stores": stats.stores,
            "evictions": stats.evictions,
            "invalidations": stats.invalidations,
            "max_entries": parts.cache.rules.max_entries,
            "max_bytes": parts.cache.rules.max_bytes,
            "ttl_s": parts.cache.rules.ttl_s,
        }

    async def invalidate(self, *, org: str, provider: str, model: str, key: str) -> int:
        """Nothing kept until now is served any more where all that is given matches. How many that were."""
        parts = await self._parts()
        return await parts.gate(parts.store.invalidate, org=org, provider=provider, model=model, key=key)

    async def explain(self, call_id: str) -> View:
        """A call with every step on its way. Raises InvalidRequest if nobody knows it."""
        parts = await self._parts()
        await parts.cache.flush()
        record = await parts.gate(parts.store.call, call_id)
        if record is None:
            message = f"No call {call_id!r} is on record (any more). `claude-jobs explain` lists the latest."
            raise InvalidRequest(message, field="id")
        return {**_call_view(record), "explain": [step_view(step) for step in answers.steps_of(record.steps)]}

    async def calls(self, *, limit: int, org: str) -> list[View]:
        """The latest calls, newest first."""
        parts = await self._parts()
        await parts.cache.flush()
        records = await parts.gate(parts.store.calls, limit=max(1, min(MOST_CALLS, limit)), org=org)
        return [_call_view(record) for record in records]

    async def usage(self, query: LedgerQuery, fmt: str) -> str:
        """Sums of the ledger as text. Raises InvalidRequest for a format or group nobody knows."""
        parts = await self._parts()
        await parts.cache.flush()
        wrong = sorted(set(query.by) - set(ledger.GROUPS))
        if wrong:
            raise InvalidRequest(f"No group {wrong[0]!r}. Known are: {', '.join(ledger.GROUPS)}.", field="by")
        rows = await parts.gate(parts.store.ledger, query)
        return ledger.export(rows, fmt, since_ms=query.since_ms, until_ms=query.until_ms)

    async def restore_key(self, fingerprint: str) -> None:
        """Take a key into use again that its provider had refused."""
        parts = await self._parts()
        await parts.gate(parts.store.revive_key, fingerprint)

    async def routes(self) -> View:
        """Circuits and keys that are in trouble, or were lately."""
        parts = await self._parts()
        now_ms = self._clock()
        circuits = await parts.gate(parts.store.circuits, now_ms)
        keys = await parts.gate(parts.store.keys, now_ms)
        return {
            "circuits": [
                {
                    **_route(route),
                    "state": state.phase.value,
                    "faults_in_a_row": state.faults_in_a_row,
                    "open_for_s": max(0, state.open_until_ms - now_ms) / 1_000,
                }
                for route, state in circuits
            ],
            "keys": [
                {
                    **_route(route),
                    "dead": state.dead,
                    "cooling_for_s": max(0, state.cooling_until_ms - now_ms) / 1_000,
                    "requests_left": state.requests_left,
                    "tokens_left": state.tokens_left,
                }
                for route, state in keys
            ],
        }


def _route(route: Route) -> View:
    return route_view(route)


def _quota(scope: str, subject: str, unit: str, limit: float, window: str) -> Quota:
    if scope not in set(Scope):
        raise InvalidRequest(f"No scope {scope!r}. Known are: {', '.join(Scope)}.", field="scope")
    units: Mapping[str, Unit] = {"tokens": Unit.TOKENS, "requests": Unit.REQUESTS, "usd": Unit.NUSD}
    if unit not in units:
        raise InvalidRequest(f"No unit {unit!r}. Known are: {', '.join(units)}.", field="unit")
    if not 0 <= limit <= 1e9 * (1 if unit == "usd" else 1_000_000):
        raise InvalidRequest(
            f"The limit {limit:g} is out of range. 0 allows nothing; leave the quota out for no limit.", field="limit"
        )
    if unit != "usd" and limit != int(limit):
        raise InvalidRequest(f"The limit {limit:g} is no whole number of {unit}.", field="limit")
    return Quota(
        scope=Scope(scope),
        subject=subject,
        unit=units[unit],
        limit=round(limit * NUSD) if unit == "usd" else int(limit),
        window=parse_window(window),
    )


def _quota_view(use: QuotaUse, *, is_set: bool) -> View:
    quota = use.quota
    by = NUSD if quota.unit is Unit.NUSD else 1
    return {
        "id": quota.id,
        "name": speak(quota),
        "scope": quota.scope.value,
        "subject": quota.subject,
        "unit": "usd" if quota.unit is Unit.NUSD else quota.unit.value,
        "window": quota.window,
        "limit": quota.limit / by if by > 1 else quota.limit,
        "used": use.used / by if by > 1 else use.used,
        "held": use.held / by if by > 1 else use.held,
        "resets_ms": use.resets_ms,
        "is_set": is_set,
    }


def _call_view(record: CallRecord) -> View:
    return {
        "id": record.id,
        "at_ms": record.at_ms,
        "org": record.org,
        "outcome": record.outcome,
        "cached": record.cached,
        "route": route_view(record.route),
        "usage": usage_view(record.tokens),
        **cost_view(record.cost),
        "took_ms": record.took_ms,
        "first_token_ms": record.first_token_ms,
    }
