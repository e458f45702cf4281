"""Pure arithmetic of prices, in integers: nano-dollars (10**-9 dollar), and nano-dollars per million tokens. No table is here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

from claude_jobs.domain.generation import Provenance, Tokens

NUSD = 10**9
MTOK = 10**6
ESTIMATE_SLACK = 1.25
"""An estimated prompt may be this much longer (policy.routing.ESTIMATE_MARGIN), and so come under a dearer tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-dollars per million tokens, for calls whose whole input, cache included, has more than `above` tokens."""

    above: int = -1
    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs.

    Attributes:
        source: Which table says so, with its version or date.
        tiers: At least one, `above` ascending. The one that a call comes under holds for all its tokens (as providers bill).
    """

    source: str
    tiers: tuple[Rates, ...]


FREE = Rates(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0)


def nusd(price: Price, tokens: Tokens) -> int | None:
    """What these tokens cost, in nano-dollars, rounded up once at the end. None if nobody knows how many they were.

    Thinking is within the output. Figures below zero, which no provider should report, count as zero.
    """
    if tokens.provenance is Provenance.UNKNOWN:
        return None if price.tiers != (FREE,) else 0
    fresh, output = max(0, tokens.input), max(0, tokens.output)
    read, written = max(0, tokens.cache_read), max(0, tokens.cache_write)
    hour = min(max(0, tokens.cache_write_1h), written)
    rates = rates_at(price, fresh + read + written)
    return _up(
        fresh * rates.input
        + output * rates.output
        + read * rates.cache_read
        + (written - hour) * rates.cache_write
        + hour * rates.cache_write_1h
    )


def worst_nusd(price: Price, input_tokens: int, max_output: int) -> int:
    """The most a call can cost: to be reserved before it begins.

    The whole input may be written to the cache (kept for minutes: nothing of ours asks for an hour), and its estimate may
    be too low by a tier.
    """
    tiers = (rates_at(price, input_tokens), rates_at(price, int(input_tokens * ESTIMATE_SLACK)))
    return max(_up(input_tokens * max(r.input, r.cache_write) + max_output * r.output) for r in tiers)


def rates_at(price: Price, input_tokens: int) -> Rates:
    """The tier that a call with so much input, cache included, comes under."""
    for rates in reversed(price.tiers):
        if input_tokens > rates.above:
            return rates
    return price.tiers[0]


def scaled(price: Price, factor: Decimal, source: str) -> Price:
    """The same at a part of its rates (a batch), from another source."""

    def part(rate: int) -> int:
        return int((rate * factor).to_integral_value(ROUND_CEILING))

    return Price(
        source=source,
        tiers=tuple(
            replace(
                rates,
                input=part(rates.input),
                output=part(rates.output),
                cache_read=part(rates.cache_read),
                cache_write=part(rates.cache_write),
                cache_write_1h=part(rates.cache_write_1h),
            )
            for rates in price.tiers
        ),
    )


def rates_of(
    *,
    input_usd: Decimal,
    output_usd: Decimal,
    cache_read_usd: Decimal | None = None,
    cache_write_usd: Decimal | None = None,
    cache_write_1h_usd: Decimal | None = None,
    above: int = -1,
) -> Rates:
    """Rates from dollars per million tokens. What has no rate of its own costs what is next more general: cache reads and
    writes as input, writes for an hour as other writes."""
    cache_write_usd = input_usd if cache_write_usd is None else cache_write_usd
    return Rates(
        above=above,
        input=nusd_of(input_usd),
        output=nusd_of(output_usd),
        cache_read=nusd_of(input_usd if cache_read_usd is None else cache_read_usd),
        cache_write=nusd_of(cache_write_usd),
        cache_write_1h=nusd_of(cache_write_usd if cache_write_1h_usd is None else cache_write_1h_usd),
    )


def nusd_of(usd: Decimal) -> int:
    """Dollars as nano-dollars, rounded up."""
    return int((usd * NUSD).to_integral_value(ROUND_CEILING))


def usd_text(amount: int) -> str:
    """Nano-dollars as dollars, exact, always with nine decimals: "0.001250000"."""
    sign = "-" if amount < 0 else ""
    whole, part = divmod(abs(amount), NUSD)
    return f"{sign}{whole}.{part:09d}"


def _up(amount: int) -> int:
    """Per million to one, rounded up: a quota is never charged less than a call cost."""
    return -(-amount // MTOK)
