"""Rates: how fast something may be used, by GCRA. Pure; integers.

The state of a rate is one number: the theoretical arrival time (TAT), epoch microseconds at which what was used is earned
back. Source: ITU-T I.371, the virtual scheduling algorithm. How much may be used in all is another matter: `policy.quota`.
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_US = 60_000_000
LONGEST_DEBT_MINUTES = 10
"""One use costs no more than what so many minutes earn: a huge one does not close the rate for hours, and a TAT further
ahead shows that the clock was set back."""
ROUNDING_US = 999
"""What a burst of single uses may lose by rounding up; the clock cannot tell it apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So much per minute, with a burst.

    Attributes:
        id: What its state is kept under ("org:acme|requests").
        per_minute: 0 means nothing at all.
        burst: What may come at once; 0 for a tenth of per_minute, at least 1.
    """

    id: str
    per_minute: int
    burst: int = 0


def burst_of(rate: Rate) -> int:
    """What may come at once."""
    return max(1, rate.burst or rate.per_minute // 10)


def decide(tat_us: int, rate: Rate, cost: int, now_ms: int) -> tuple[int, int]:
    """One use of `cost`.

    A cost above the burst passes once everything is earned back, and is then paid for by a longer pause.

    Args:
        tat_us: From the last decision that let something pass; 0 if there was none.

    Returns:
        The new TAT and 0 if it may pass now. Else the old TAT and the milliseconds until it would: a denial uses up nothing.
        A rate of 0 per minute lets nothing pass; asking again in a minute will not help.
    """
    if rate.per_minute <= 0:
        return tat_us, MINUTE_US // 1_000
    now_us = now_ms * 1_000
    burst = burst_of(rate)
    dearest = max(burst, rate.per_minute * LONGEST_DEBT_MINUTES)
    cost = min(cost, dearest)
    tat = tat_us if tat_us - now_us <= _earning_us(dearest, rate) + ROUNDING_US else now_us
    next_tat = max(tat, now_us) + _earning_us(cost, rate)
    rounding_us = min(ROUNDING_US, _earning_us(1, rate) - 1)
    over_us = next_tat - now_us - _earning_us(max(burst, cost), rate) - rounding_us
    if over_us > 0:
        return tat_us, -(-over_us // 1_000)
    return next_tat, 0


def _earning_us(amount: int, rate: Rate) -> int:
    """How long it takes to earn `amount` back, rounded up: rounding never lets more pass than the rate."""
    return -(-amount * MINUTE_US // rate.per_minute)
