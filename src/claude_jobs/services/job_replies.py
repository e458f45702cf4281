"""What JobManager answers to those who submit, run again or cancel. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from claude_jobs.domain.job import Job
from claude_jobs.stores.base import CancelAck, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of a submission: the jobs in the order asked for, and who pays, in words."""

    receipts: tuple[Receipt, ...]
    payer: str
    batch_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What runs again, in submit order, and what those that had spawned jobs before may spawn now, in words."""

    jobs: tuple[Job, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """One job's cancel with its proof.

    Attributes:
        is_done: Whether it has ended by now.
        signalled: Processes that were told to end.
        survivors: Processes that are still alive; empty in every sane world.
    """

    ack: CancelAck
    job: Job
    is_done: bool
    signalled: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
