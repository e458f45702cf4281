"""What calls cost: the operator's prices, then genai-prices, then our own table for what it lacks. Unknown is a price, zero is not.

The library is imported when first needed (0.3 s: `load` does it in a thread) and asked once per model; a call is then priced
in integers. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from claude_jobs.domain.generation import Cost, Tokens
from claude_jobs.policy import providers as names
from claude_jobs.policy.pricing import FREE, Price, nusd, rates_of, scaled, worst_nusd
from claude_jobs.services.price_table import ANY, PriceTable, own_table, read_table

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

UNKNOWN = "unknown"
LOCAL = "local"
MAX_KEPT = 4_096
"""Prices kept; model names come from callers."""
MAX_MODEL_CHARS = 256

_SOURCES = {"openai": "openai", "claude": "anthropic", "claude-cli": "anthropic", "gemini": "google", "grok": "x-ai"}
"""The library's name of a provider. What a CLI job used is priced as the API would bill it."""
_HALF_IN_BATCH = frozenset({"openai", "claude"})
"""Their Batch APIs bill half of every rate (their price pages, 2026-11-21). Others' batches have no price unless the library says."""
_BATCH = {"processing": "batch"}
_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_FOREVER_MS = 1 << 62
_CLOUD = (":cloud", "-cloud")
"""How the names of Ollama's hosted models end: these are not local."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A price and when it holds, [from, until) in epoch milliseconds."""

    from_ms: int
    until_ms: int
    price: Price | None


class Pricing:
    """Prices by provider and model. Cheap to make; call it from one thread."""

    def __init__(self, overrides: Path | None = None) -> None:
        """`overrides`: the operator's table (`prices.toml` in CLAUDE_JOBS_HOME), which need not exist.

        Raises:
            InvalidRequest: The file is there and wrong.
        """
        self._operator: PriceTable = read_table(overrides) if overrides else {}
        self._own = own_table()
        self._held: dict[tuple[str, str, bool], _Held] = {}

    async def load(self) -> None:
        """Import the library in a thread. Whoever prices without having called this waits for the import."""
        await asyncio.to_thread(_library)

    def cost(self, provider: str, model: str, tokens: Tokens, *, at_ms: int, is_batch: bool = False) -> Cost:
        """What a call cost; `nusd` None if the price or the tokens are unknown. Estimated tokens are priced like others.

        Args:
            provider: Canonical name.
            model: As it was asked for, or as the answer names it.
            at_ms: When it was made: prices change.
            is_batch: Through a Batch API.
        """
        price = self.price(provider, model, at_ms=at_ms, is_batch=is_batch)
        if price is None:
            return Cost(nusd=None, price=UNKNOWN)
        return Cost(nusd=nusd(price, tokens), price=price.source)

    def reserve_nusd(
        self, provider: str, model: str, input_tokens: int, max_output: int, *, at_ms: int | None = None
    ) -> int | None:
        """The most a call can cost; None if its price is unknown. `at_ms` None is now."""
        price = self.price(provider, model, at_ms=at_ms)
        return None if price is None else worst_nusd(price, input_tokens, max_output)

    def price_card(self, provider: str, model: str, *, at_ms: int | None = None) -> tuple[int, int] | None:
        """Nano-dollars per million tokens of input and output, of short prompts; None if unknown."""
        price = self.price(provider, model, at_ms=at_ms)
        return None if price is None else (price.tiers[0].input, price.tiers[0].output)

    def price(self, provider: str, model: str, *, at_ms: int | None = None, is_batch: bool = False) -> Price | None:
        """The price at that time, None if nobody knows it."""
        if at_ms is None:
            at_ms = time.time_ns() // 1_000_000
        key = (provider, model, is_batch)
        held = self._held.get(key)
        if held is None or not held.from_ms <= at_ms < held.until_ms:
            if len(model) > MAX_MODEL_CHARS:
                return None
            if len(self._held) >= MAX_KEPT:
                self._held.clear()
            held = self._held[key] = self._find(provider, model, at_ms, is_batch)
        return held.price

    def _find(self, provider: str, model: str, at_ms: int, is_batch: bool) -> _Held:
        ours = self._ours(provider, model)
        if ours is not None:
            return _Held(0, _FOREVER_MS, _in_batch(provider, ours) if is_batch else ours)
        if provider == names.OLLAMA:
            local = None if model.endswith(_CLOUD) else Price(source=LOCAL, tiers=(FREE,))
            return _Held(0, _FOREVER_MS, local)
        info = _model_info(provider, model)
        if info is None:
            own = self._own.get((provider, model.lower()))
            return _Held(0, _FOREVER_MS, _in_batch(provider, own) if is_batch and own else own)
        return _of_library(info, provider, at_ms, is_batch)

    def _ours(self, provider: str, model: str) -> Price | None:
        return self._operator.get((provider, model.lower())) or self._operator.get((provider, ANY))


@cache
def _library() -> str:
    """Import it; its name and version."""
    import genai_prices.data_snapshot

    genai_prices.data_snapshot.get_snapshot()
    return f"genai-prices {version('genai-prices')}"


def _model_info(provider: str, model: str) -> ModelInfo | None:
    source = _SOURCES.get(provider)
    if source is None or not model:
        return None
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, source, None)[1]
    except LookupError:
        return None


def _of_library(info: ModelInfo, provider: str, at_ms: int, is_batch: bool) -> _Held:
    """As the library resolves it for that moment. Its conditions are days of the calendar or times of the day, both UTC."""
    from genai_prices.types import TimeOfDateConstraint

    label = _library()
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    standard = info.get_prices(at)
    price = _converted(standard, label)
    if is_batch:
        batch = info.get_prices(at, _BATCH)
        price = _in_batch(provider, price) if batch == standard else _converted(batch, f"{label}, batch")
    conditional = info.prices if isinstance(info.prices, list) else []
    conditions = [entry.constraint for entry in (*conditional, *(info.price_variants or ()))]
    if all(condition is None for condition in conditions):
        return _Held(0, _FOREVER_MS, price)
    by_time = any(isinstance(condition, TimeOfDateConstraint) for condition in conditions)
    span_ms = _MINUTE_MS if by_time else _DAY_MS
    from_ms = at_ms - at_ms % span_ms
    return _Held(from_ms, from_ms + span_ms, price)


def _in_batch(provider: str, price: Price | None) -> Price | None:
    if price is None or provider not in _HALF_IN_BATCH:
        return None
    return scaled(price, Decimal("0.5"), f"{price.source}, batch half")


def _converted(found: ModelPrice, label: str) -> Price | None:
    """None if input or output have no price per token (pictures, speech)."""
    if found.input_mtok is None or found.output_mtok is None:
        return None
    kinds = (
        found.input_mtok,
        found.output_mtok,
        found.cache_read_mtok,
        found.cache_write_mtok,
        found.cache_write_1h_mtok,
    )
    edges = sorted({tier.start for kind in kinds for tier in getattr(kind, "tiers", ())})
    return Price(
        source=label,
        tiers=tuple(
            rates_of(
                input_usd=_above(found.input_mtok, edge),
                output_usd=_above(found.output_mtok, edge),
                cache_read_usd=_above_or_none(found.cache_read_mtok, edge),
                cache_write_usd=_above_or_none(found.cache_write_mtok, edge),
                cache_write_1h_usd=_above_or_none(found.cache_write_1h_mtok, edge),
                above=edge,
            )
            for edge in (-1, *edges)
        ),
    )


def _above(kind: Decimal | TieredPrices, edge: int) -> Decimal:
    """The rate of calls with just more input than `edge`."""
    if isinstance(kind, Decimal):
        return kind
    return next((tier.price for tier in reversed(kind.tiers) if tier.start <= edge), kind.base)


def _above_or_none(kind: Decimal | TieredPrices | None, edge: int) -> Decimal | None:
    return None if kind is None else _above(kind, edge)
