"""The parts of generation, put together. Imported when the first question comes."""

from __future__ import annotations

import hashlib
import hmac
import random
import resource
import time
import uuid
from collections.abc import Callable
from functools import partial

from claude_jobs.policy import providers as names
from claude_jobs.policy.breaker import BreakerRules
from claude_jobs.providers import contract
from claude_jobs.providers.base import MAX_CONNECTIONS, MAX_PER_HOST, Provider, ProviderSettings
from claude_jobs.providers.batches import BATCHES, BatchApi
from claude_jobs.providers.registry import PROVIDERS
from claude_jobs.runner.paths import Home
from claude_jobs.services.answer_cache import AnswerCache, CacheRules
from claude_jobs.services.calls import ChainRules, Parts
from claude_jobs.services.cli_answers import CliAnswers
from claude_jobs.services.cli_budget import Till
from claude_jobs.services.economy import Economy
from claude_jobs.services.economy_book import EconomyBook
from claude_jobs.services.economy_runs import Runs
from claude_jobs.services.gate import GateThread
from claude_jobs.services.generation import Generator
from claude_jobs.services.jobs import JobManager
from claude_jobs.services.leases import Leases
from claude_jobs.services.model_lists import ModelLists
from claude_jobs.services.planner import Planner, PlanRules
from claude_jobs.services.pricing import Pricing
from claude_jobs.services.provider_keys import ProviderKeys
from claude_jobs.services.quotas import QuotaBook, QuotaDefaults
from claude_jobs.services.scribe import Scribe
from claude_jobs.services.turnstile import Turnstile
from claude_jobs.settings import Settings
from claude_jobs.stores.gate import GateStore


class Opened:
    """The gate, open, with what the surfaces show and set of it; the Generator is made when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        home: Home,
        jobs: Callable[[], JobManager],
        store: GateStore,
        secret: bytes,
        keys: ProviderKeys,
    ) -> None:
        clock = self.clock = now_ms
        self.store = store
        self.gate = GateThread(store)
        self.keys = keys
        self.quotas = QuotaBook(store=store, gate=self.gate, defaults=_quota_defaults(settings), clock=clock)
        owner = uuid.uuid4().hex[:12]
        leases = Leases(store=store, gate=self.gate, clock=clock)
        self.till = Till(store=store, gate=self.gate, quotas=self.quotas, leases=leases, owner=owner)
        self.cache = AnswerCache(
            store=store,
            gate=self.gate,
            leases=leases,
            rules=_cache_rules(settings),
            owner=owner,
            clock=clock,
            rnd=random.random,
        )
        self.turnstile = Turnstile(settings.max_requests)
        self._settings = settings
        self._home = home
        self._jobs = jobs
        self._secret = secret
        self._generator: Generator | None = None

    async def generator(self) -> Generator:
        """Raises InvalidRequest if the operator's own price table is wrong."""
        if self._generator is None:
            pricing = Pricing(self._home.configured / "prices.toml")
            await pricing.load()
            self._generator = self._generator or self._made(pricing)
        return self._generator

    def _made(self, pricing: Pricing) -> Generator:
        settings, till = self._settings, self.till
        providers = _Providers(settings)
        lists = ModelLists(
            provider=providers,
            made=providers.made,
            keys=self.keys,
            cards=contract.cards_of,
            price=pricing.price_card,
            cli_model=settings.model,
        )
        parts = Parts(
            store=till.store,
            gate=till.gate,
            quotas=till.quotas,
            pricing=pricing,
            provider=providers,
            leases=till.leases,
            turnstile=self.turnstile,
            owner=till.owner,
            clock=now_ms,
            rnd=random.random,
            rules=_chain_rules(settings),
        )
        planner = Planner(rules=_plan_rules(settings), keys=self.keys, card=contract.card_of, local=lists.local)
        return Generator(
            parts=parts,
            planner=planner,
            cache=self.cache,
            cli=CliAnswers(self._jobs),
            lists=lists,
            economy=self._economy(parts, planner),
            secret=hmac.digest(self._secret, b"answers", hashlib.sha256),
            endpoint=partial(_base_url, settings),
        )

    def _economy(self, parts: Parts, planner: Planner) -> Economy:
        scribe = Scribe(self.cache.recorded, now_ms)
        book = EconomyBook(self._home.batches_dir / "economy")
        runs = Runs(parts=parts, scribe=scribe, book=book, apis=partial(_batch_api, self._settings))
        return Economy(parts=parts, planner=planner, scribe=scribe, book=book, runs=runs)

    async def close(self) -> None:
        """End calls, settle them, close the file."""
        if self._generator is not None:
            await self._generator.close()
        else:
            await self.till.leases.close()
        await self.gate(self.store.close)
        self.gate.close()


class _Providers:
    """Providers by name, made when first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.made: dict[str, Provider] = {}

    def __call__(self, name: str) -> Provider:
        provider = self.made.get(name)
        if provider is None:
            made = PROVIDERS[name](_provider_settings(self._settings, name))
            provider = self.made[name] = made
        return provider


def _provider_settings(settings: Settings, provider: str) -> ProviderSettings:
    """Connections for all that may run at once, but never more than a quarter of the files this process may open."""
    most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    return ProviderSettings(
        base_url=_base_url(settings, provider),
        connections=min(most, max(MAX_CONNECTIONS, settings.max_requests)),
        per_host=min(most, max(MAX_PER_HOST, settings.max_requests)),
    )


def _batch_api(settings: Settings, provider: str) -> BatchApi | None:
    make = BATCHES.get(provider)
    return make(ProviderSettings(base_url=_base_url(settings, provider))) if make else None


def now_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000


def _base_url(settings: Settings, provider: str) -> str:
    return {
        "openai": settings.openai_url,
        "claude": settings.claude_url,
        "gemini": settings.gemini_url,
        "grok": settings.grok_url,
        "qwen": settings.qwen_url,
        names.OLLAMA: settings.ollama_endpoint,
    }.get(provider, "")


def _chain_rules(settings: Settings) -> ChainRules:
    return ChainRules(
        request_timeout_s=settings.request_timeout_s,
        max_retries=settings.max_retries,
        max_requests=settings.max_requests,
        breaker=BreakerRules(
            failure_threshold=settings.failure_threshold,
            recovery_ms=round(settings.recovery_s * 1_000),
            longest_ms=round(settings.recovery_s * 10_000),
        ),
    )


def _cache_rules(settings: Settings) -> CacheRules:
    return CacheRules(
        ttl_s=settings.cache_ttl_s,
        max_entries=settings.cache_size,
        max_bytes=settings.cache_bytes,
        skip=tuple(names.canonical(name) or name for name in settings.cache_skip),
    )


def _plan_rules(settings: Settings) -> PlanRules:
    return PlanRules(
        max_tokens=settings.max_tokens,
        use_local=settings.use_local_llm,
        cli_model=settings.model,
        models={name: contract.default_model(name) for name in names.NAMES},
    )


def _quota_defaults(settings: Settings) -> QuotaDefaults:
    def nusd(dollars: float | None) -> int | None:
        return None if dollars is None else round(dollars * 1_000_000_000)

    return QuotaDefaults(
        tokens=settings.token_quota,
        nusd=nusd(settings.cost_quota_usd),
        cli_nusd=nusd(settings.cli_quota_usd),
        window=settings.quota_window,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
