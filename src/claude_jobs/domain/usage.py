"""What an attempt used: tokens and nano-dollars, summed and subtracted as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the API counts them; `cost_nusd` as the CLI reports it (1 dollar = 10**9)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_nusd: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_nusd=self.cost_nusd + other.cost_nusd,
        )


NANO = 1_000_000_000


def nusd(dollars: float) -> int:
    """Dollars as the CLI prints them to nano-dollars."""
    return round(dollars * NANO)


def usd(cost_nusd: int) -> float:
    """Nano-dollars to dollars, for display."""
    return cost_nusd / NANO
