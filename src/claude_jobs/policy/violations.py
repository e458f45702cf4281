"""The rules that an audit of the event log proves, and what a breach of one looks like. The proof is policy.auditor's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What must always hold."""

    ORDER = "order"  # seq rises
    LOST = "lost"  # every job of the log has a row
    UNEXPLAINED = "unexplained"  # every row, and every step, follows from the events before it
    FINISHED_TWICE = "finished_twice"  # at most one end a life; `reopened` begins the next
    EPOCH = "epoch"  # each admission raises it, and nobody else
    STALE = "stale"  # nothing of an old epoch after a newer admission
    NOT_HELD = "not_held"  # only a job in somebody's hands does something
    CANCELLED = "cancelled"  # no admission, no child, nothing reopened below it after a cancel was asked for
    DEPENDENCY = "dependency"  # nothing runs before what it needs
    LINEAGE = "lineage"  # root, depth and number of a job follow from its parent
    RECURSION = "recursion"  # depth, total and spawn rate of a tree
    LIMIT = "limit"  # places under the caps
    PERMIT = "permit"  # every place given back
    OVERDUE = "overdue"  # nothing is queued long after its deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule. `seq` is the event at which it shows; 0 if it shows in the rows of the end."""

    rule: Rule
    job_id: str
    seq: int
    message: str
