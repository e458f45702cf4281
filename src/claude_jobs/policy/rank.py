"""Pure queue order: priorities that age, so nothing starves."""

from __future__ import annotations

PRIORITY_MS = 60_000
"""One level of priority is worth a minute of waiting (engines.md §4)."""

MAX_PRIORITY = 1_000


def rank(queued_ms: int, priority: int) -> int:
    """Position key, smaller first. Computed once; waiting longer is the ageing."""
    return queued_ms - priority * PRIORITY_MS
