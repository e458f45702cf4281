"""Looking at the front of the queue without taking from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from claude_jobs.domain.job import Job
from claude_jobs.stores.base import AdmitRequest
from claude_jobs.stores.sqlite.admit import Class, classes, token_for
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.rows import Rows

_LANES = "SELECT batch_id FROM lanes WHERE class_id = ? AND is_parked = 0 ORDER BY rank, seq LIMIT ?"
_JOBS = """SELECT rank, seq FROM jobs INDEXED BY jobs_lane WHERE class_id = ? AND batch_id = ?
    AND (? IS NULL OR COALESCE(json_extract(doc, '$.ordinal'), 1) <= ?) ORDER BY rank, seq LIMIT ?"""


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    precedence: int
    rank: int
    seq: int
    batch_id: str


def peek(rows: Rows, request: AdmitRequest, limit: int) -> tuple[Job, ...]:
    """See JobStore."""
    if request.limits.at_depth == 0 or request.limits.running == 0:
        return ()
    idle = {fingerprint: replace(state, running=0) for fingerprint, state in Board(rows).states.items()}
    usable = [one for one in classes(rows, request) if token_for(one, idle, request)]
    candidates = sorted(found for one in usable for found in _first(rows, one, request, limit))
    taken: Counter[str] = Counter()
    chosen: list[_Candidate] = []
    for found in candidates:
        room = rows.batch_room(found.batch_id)
        if room is None or taken[found.batch_id] < room:
            taken[found.batch_id] += 1
            chosen.append(found)
    return tuple(job for found in chosen[:limit] for job in rows.select("WHERE j.seq = ?", found.seq, whole=True))


def _first(rows: Rows, one: Class, request: AdmitRequest, limit: int) -> list[_Candidate]:
    """The best jobs of a class; no lane behind the best `limit` ones can have one of them."""
    total = request.limits.total
    return [
        _Candidate(-one.depth if request.nested_first else 0, rank, seq, batch_id)
        for (batch_id,) in rows.execute(_LANES, one.id, limit)
        for rank, seq in rows.execute(_JOBS, one.id, batch_id, total, total, limit)
    ]
