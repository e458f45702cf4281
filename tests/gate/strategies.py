"""What the state machine makes reservations, settlements and answers from: few values, so that they meet."""

from __future__ import annotations

import hypothesis.strategies as st
from gate.builders import quota

from claude_jobs.domain.generation import RateHeaders, Route
from claude_jobs.policy.breaker import BreakerRules, Verdict
from claude_jobs.policy.quota import Scope, Unit
from claude_jobs.policy.rates import Rate
from claude_jobs.stores.gate import CacheEntry

ROUTES = tuple(
    Route(provider=provider, model=model, key=key)
    for provider, model, key in (
        ("openai", "gpt", "k1"),
        ("openai", "mini", "k1"),
        ("openai", "gpt", "k2"),
        ("ollama", "llama", ""),
    )
)
QUOTAS = (
    quota(100),
    quota(100, window="60"),
    quota(5_000, unit=Unit.NUSD, window="day"),
    quota(4, unit=Unit.REQUESTS, window="3600"),
    quota(60, scope=Scope.MODEL, subject="openai/gpt", window="month"),
    quota(0, subject="nobody"),
)
RATES = (
    Rate(id="org:acme|requests", per_minute=60, burst=3),
    Rate(id="org:acme|tokens", per_minute=6_000, burst=0),
    Rate(id="org:none|requests", per_minute=0),
)
KEYS = ("a", "b", "c", "d")
PLACES = {
    "a": ("acme", "openai", "gpt"),
    "b": ("acme", "openai", "mini"),
    "c": ("o2", "openai", "gpt"),
    "d": ("o2", "q", "m"),
}

asked_quotas = st.lists(
    st.tuples(st.sampled_from((*QUOTAS[:1] * 4, *QUOTAS)), st.integers(0, 60)),
    max_size=3,
    unique_by=lambda pair: pair[0].id,
)
asked_rates = st.lists(
    st.tuples(st.sampled_from((*RATES[:2] * 3, *RATES)), st.integers(1, 20)),
    max_size=2,
    unique_by=lambda pair: pair[0].id,
)
routes = st.none() | st.sampled_from(ROUTES)
rules = st.sampled_from(
    (
        BreakerRules(failure_threshold=2, recovery_ms=1_000, longest_ms=9_000, min_calls=4, window_ms=10_000),
        BreakerRules(failure_threshold=0, recovery_ms=500, min_calls=3, probes=2, closes_after=2, probe_ms=4_000),
    )
)
verdicts = st.sampled_from((Verdict.OK, Verdict.FAULT, Verdict.FAULT, Verdict.SLOW, Verdict.NEUTRAL))
headers = (
    st.none()
    | st.none()
    | st.builds(
        RateHeaders,
        requests_limit=st.none() | st.just(9),
        requests_left=st.none() | st.integers(0, 3),
        requests_reset_s=st.none() | st.sampled_from((0.0, 0.5, 90.0)),
        tokens_limit=st.none() | st.just(50),
        tokens_left=st.none() | st.integers(0, 50),
        tokens_reset_s=st.none() | st.sampled_from((0.25, 90.0)),
    )
)
amounts = st.none() | st.integers(0, 90)
keys = st.sampled_from(("a", "a", "a", *KEYS))
owners = st.sampled_from(("w1", "w2", "w3"))
steps_ms = st.sampled_from((1, 1, 500, 1_500, 2_000, 4_000, 4_000, 61_000, 3_600_000, -1, -300_000))
patterns = st.fixed_dictionaries(
    {},
    optional={
        "org": st.sampled_from(("acme", "o2")),
        "provider": st.sampled_from(("openai", "q")),
        "model": st.sampled_from(("gpt", "mini")),
        "key": keys,
    },
)


def entry(key: str, value: bytes, now_ms: int, fresh_ms: int, stale_ms: int) -> CacheEntry:
    """An answer for `key`, fresh and then stale for so long."""
    org, provider, model = PLACES[key]
    return CacheEntry(
        key=key,
        org=org,
        provider=provider,
        model=model,
        value=value,
        created_ms=now_ms,
        fresh_until_ms=now_ms + fresh_ms,
        stale_until_ms=now_ms + fresh_ms + stale_ms,
    )
