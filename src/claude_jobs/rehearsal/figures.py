"""Figures of an answer: the tokens it says it used, and what it says of a key's rate limits. Values and their JSON form; no IO."""

from __future__ import annotations

from dataclasses import dataclass

from claude_jobs.rehearsal.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, the parts disjoint; `output` is with thinking. None is left to the rehearsal, which counts four bytes each."""

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    thinking: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What rate-limit headers say; None is left out. Resets are seconds from now."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a key may use per `per_s` seconds; it refills continuously, and what is over it is refused. None: no limit."""

    requests: int | None = None
    tokens: int | None = None
    per_s: float = 60.0


@dataclass(slots=True)
class Bucket:
    """The state of a `Rate`: what is left of each, as of `at` (seconds)."""

    rate: Rate
    at: float
    requests: float = 0.0
    tokens: float = 0.0

    @classmethod
    def full(cls, rate: Rate, *, now: float) -> Bucket:
        return cls(rate, now, float(rate.requests or 0), float(rate.tokens or 0))

    def take(self, tokens: int, *, now: float) -> float:
        """Takes one request of so many tokens, or takes nothing and returns the seconds until it fits."""
        self._refill(now)
        wait = 0.0
        if self.rate.requests is not None:
            wait = self._wait(1.0 - self.requests, self.rate.requests)
        if self.rate.tokens is not None:
            wait = max(wait, self._wait(min(tokens, self.rate.tokens) - self.tokens, self.rate.tokens))
        if wait == 0.0:
            self.requests -= 1
            self.tokens -= tokens
        return wait

    def rates(self) -> Rates:
        rate = self.rate
        return Rates(
            limit_requests=rate.requests,
            remaining_requests=None if rate.requests is None else max(0, int(self.requests)),
            reset_requests_s=None
            if rate.requests is None
            else self._wait(rate.requests - self.requests, rate.requests),
            limit_tokens=rate.tokens,
            remaining_tokens=None if rate.tokens is None else max(0, int(self.tokens)),
            reset_tokens_s=None if rate.tokens is None else self._wait(rate.tokens - self.tokens, rate.tokens),
        )

    def _refill(self, now: float) -> None:
        share = max(0.0, now - self.at) / self.rate.per_s
        self.at = max(self.at, now)
        limits = (self.rate.requests or 0, self.rate.tokens or 0)
        self.requests = min(limits[0], self.requests + share * limits[0])
        self.tokens = min(limits[1], self.tokens + share * limits[1])

    def _wait(self, missing: float, limit: int) -> float:
        """Seconds until what is missing has come back; a limit of 0 never comes back, which is told as a whole period."""
        if missing <= 0:
            return 0.0
        return self.rate.per_s * (missing / limit if limit else 1.0)


def parse_usage(data: object, *, where: str) -> Usage:
    fields = Fields(data, where=where)
    usage = Usage(
        input=fields.integer("input"),
        output=fields.integer("output"),
        cache_read=fields.integer("cache_read"),
        cache_write=fields.integer("cache_write"),
        thinking=fields.integer("thinking"),
    )
    fields.done("input", "output", "cache_read", "cache_write", "thinking")
    return usage


def parse_rates(data: object, *, where: str) -> Rates:
    fields = Fields(data, where=where)
    rates = Rates(
        limit_requests=fields.integer("limit_requests"),
        remaining_requests=fields.integer("remaining_requests"),
        reset_requests_s=fields.number_or_none("reset_requests_s"),
        limit_tokens=fields.integer("limit_tokens"),
        remaining_tokens=fields.integer("remaining_tokens"),
        reset_tokens_s=fields.number_or_none("reset_tokens_s"),
    )
    fields.done(
        *("limit_requests", "remaining_requests", "reset_requests_s"),
        *("limit_tokens", "remaining_tokens", "reset_tokens_s"),
    )
    return rates


def parse_rate(data: object, *, where: str) -> Rate:
    fields = Fields(data, where=where)
    rate = Rate(
        requests=fields.integer("requests"), tokens=fields.integer("tokens"), per_s=fields.number("per_s", 60.0)
    )
    fields.done("requests", "tokens", "per_s")
    return rate
