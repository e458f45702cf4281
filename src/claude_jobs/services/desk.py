"""What every attempt of a worker shares: its parts, and the rules it runs by. Values only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from claude_jobs.policy.retry import RetryRules
from claude_jobs.runner.order import Runner
from claude_jobs.services.bell import Bell
from claude_jobs.services.cli_budget import CliBudget
from claude_jobs.services.database import StoreThread
from claude_jobs.services.results import ResultFiles
from claude_jobs.services.tokens import MultiTokenManager
from claude_jobs.stores.base import JobStore, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRules:
    """What an attempt is run by; times in seconds."""

    limits: Limits
    retry: RetryRules
    timeout_ceiling_s: float
    stall_s: float
    mark_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What every attempt of a worker shares.

    Attributes:
        lineage_secret: What proves a nested caller to be in (job, epoch).
        bell: Rung for watchers, at every change.
        work: Rung for the pump, when there may be something to admit.
        budget: Quotas of organizations, held before an attempt and settled after it.
        wake: Ends the blocking of a job that works on though it waits (RecursionManager.wake).
    """

    store: JobStore
    database: StoreThread
    tokens: MultiTokenManager
    runner: Runner
    results: ResultFiles
    bell: Bell
    work: Bell
    rules: AttemptRules
    lineage_secret: Callable[[str, int], str]
    clock: Callable[[], int]
    jitter: Callable[[], float]
    budget: CliBudget
    wake: Callable[[str], Awaitable[None]]
