"""Events: what happened to a job, in order. The log people read and the audit tests prove from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """Closed set; `PROGRESS`, `TOOL` and `TEXT` may be dropped when a log reaches its bound, the others never."""

    SUBMITTED = "submitted"
    ADMITTED = "admitted"
    STARTED = "started"
    PROGRESS = "progress"
    TEXT = "text"
    TOOL = "tool"
    DENIED = "denied"
    LIMITED = "limited"
    MOVED = "moved"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    RETRY = "retry"
    CANCEL_REQUESTED = "cancel_requested"
    FINISHED = "finished"
    REOPENED = "reopened"
    CORRECTED = "corrected"


DROPPABLE = frozenset({EventKind.PROGRESS, EventKind.TEXT, EventKind.TOOL})

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event before the store numbered it. `data` holds scalars only, short strings."""

    kind: EventKind
    data: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`seq` rises over the whole store, so it is a cursor."""

    seq: int
    job_id: str
    epoch: int
    at_ms: int
    kind: EventKind
    data: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
