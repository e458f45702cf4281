"""What the gate refused, in words and as errors. No decisions."""

from __future__ import annotations

from claude_jobs.errors import QuotaExceeded, RateExceeded
from claude_jobs.stores.gate import Refused, RefusedBy


def say(refused: Refused) -> str:
    """Why an attempt may not begin, for people."""
    match refused.by:
        case RefusedBy.QUOTA:
            return f"quota {refused.counter}: {refused.used:,} of {refused.limit:,} used, {refused.asked:,} asked"
        case RefusedBy.RATE:
            return f"rate {refused.counter}: {refused.limit:,} per minute"
        case RefusedBy.CIRCUIT:
            return "its circuit is open after failures"
        case RefusedBy.COOLING:
            return "its key waits for a limit to reset, or was refused for this model"
        case RefusedBy.DEAD_KEY:
            return "its key was refused by the provider"


def rate_error(refused: Refused, wait_s: float) -> RateExceeded:
    """What the caller gets whose rate is used up."""
    message = f"The rate {refused.counter} of {refused.limit} per minute is used up. Ask again in {wait_s:.1f} s."
    return RateExceeded(message, counter=refused.counter, limit=refused.limit, retry_after_s=wait_s)


def quota_error(refused: Refused, wait_s: float) -> QuotaExceeded:
    """What the caller gets whose quota is used up."""
    helps = f"It resets in {wait_s:.0f} s." if refused.retry_at_ms else "This is more than it ever allows at once."
    return QuotaExceeded(
        f"Quota exceeded: {say(refused)}. {helps} Ask for less (max_output_tokens), or raise it with `claude-jobs quota set`.",
        counter=refused.counter,
        limit=refused.limit,
        used=refused.used,
        asked=refused.asked,
        resets_ms=refused.retry_at_ms,
        retry_after_s=wait_s,
    )
