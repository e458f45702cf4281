"""Quotas of claude jobs: what an organization's jobs may cost per window, through the same gate as provider calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from claude_jobs.domain.generation import Cost, Provenance, Route, Tokens
from claude_jobs.domain.job import Failure, Job, Outcome
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.policy.quota import Quota, Unit
from claude_jobs.policy.retry import LONGEST_LIMIT_MS
from claude_jobs.services.gate import GateThread
from claude_jobs.services.leases import Leases
from claude_jobs.services.quotas import QuotaBook
from claude_jobs.stores.gate import CallRecord, GateStore, Refused, ReserveAsk, Settlement

log = structlog.get_logger()

GUESS_NUSD = 100_000_000
"""What is reserved for a job without a budget of its own: 10 cents. What it costs is booked in full."""
DEFAULT_ORG = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Till:
    """The gate's parts that jobs need."""

    store: GateStore
    gate: GateThread
    quotas: QuotaBook
    leases: Leases
    owner: str


class CliBudget:
    """Reserves before an attempt, settles after it. The gate's trouble is no job's trouble: money aside, jobs go on."""

    def __init__(self, till: Callable[[], Awaitable[Till]], clock: Callable[[], int]) -> None:
        self._till = till
        self._clock = clock

    async def refusal(self, job: Job, epoch: int) -> Outcome | None:
        """Why this attempt may not begin now; None if it may, and then `settle` is to be called.

        A quota that cannot be read is one that is held: the job waits.
        """
        try:
            till = await self._till()
            quotas = await till.quotas.of_cli(job.org or DEFAULT_ORG)
            if not quotas:
                return None
            asked = tuple((quota, _amount(quota, job)) for quota in quotas)
            ask = ReserveAsk(id=_id(job.id, epoch), owner=till.owner, now_ms=self._clock(), quotas=asked)
            answer = await till.gate(till.store.reserve, ask)
        except ClaudeJobsError as error:
            message = f"Whether a quota is left could not be found out: {error.message}"
            return Outcome(failure=Failure.QUOTA, message=message, retry_after_ms=10_000)
        if not isinstance(answer, Refused):
            till.leases.hold(ask.id)
            return None
        wait_ms = max(1_000, answer.retry_at_ms - self._clock()) if answer.retry_at_ms else LONGEST_LIMIT_MS
        message = (
            f"The quota of its organization is used up ({answer.counter}). It goes on when that resets; "
            "`claude-jobs quota set` raises it."
        )
        return Outcome(failure=Failure.QUOTA, message=message, retry_after_ms=min(LONGEST_LIMIT_MS, wait_ms))

    async def settle(self, job: Job, epoch: int, outcome: Outcome) -> None:
        """Book what the attempt cost, once; also one whose worker died, when its result is found."""
        try:
            till = await self._till()
            settlement = self._settlement(job, epoch, outcome)
            if not await till.quotas.of_cli(job.org or DEFAULT_ORG):
                till.leases.drop(settlement.id)
                settlement = replace(settlement, id="")
            elif settlement.record is not None:
                # A quota that was set while the attempt ran holds nothing of it: settling leaves no line. One line stays one.
                await till.gate(till.store.record, (settlement.record,))
            await till.leases.settle(settlement)
        except ClaudeJobsError as error:
            log.warning("budget.not_settled", job_id=job.id, epoch=epoch, code=error.code, error=error.message)

    def _settlement(self, job: Job, epoch: int, outcome: Outcome) -> Settlement:
        usage = outcome.usage
        tokens = Tokens(provenance=Provenance.UNKNOWN)
        if usage is not None:
            tokens = Tokens(
                input=usage.input_tokens,
                output=usage.output_tokens,
                cache_read=usage.cache_read_tokens,
                cache_write=usage.cache_write_tokens,
            )
        cost = Cost(nusd=usage.cost_nusd if usage else None, price=CLAUDE_CLI)
        record = CallRecord(
            id=f"{job.id}.{epoch}",
            at_ms=self._clock(),
            org=job.org or DEFAULT_ORG,
            route=Route(provider=CLAUDE_CLI, model=job.spec.model, key=job.token),
            outcome=outcome.failure.value or "ok",
            tokens=tokens,
            cost=cost,
            took_ms=outcome.duration_ms,
        )
        return Settlement(
            id=_id(job.id, epoch),
            now_ms=self._clock(),
            tokens=tokens.total if usage else None,
            nusd=cost.nusd,
            record=record,
        )


def _id(job_id: str, epoch: int) -> str:
    return f"job:{job_id}:{epoch}"


def _amount(quota: Quota, job: Job) -> int:
    """Never more than the quota ever holds: one job alone in its window may run."""
    if quota.unit is Unit.REQUESTS:
        return 1
    guess = GUESS_NUSD if job.spec.max_cost_usd is None else round(job.spec.max_cost_usd * 1_000_000_000)
    return min(quota.limit, guess if quota.unit is Unit.NUSD else 1)
