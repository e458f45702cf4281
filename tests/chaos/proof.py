"""What must have held, proved from the event log and the rows that a storm left."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chaos.remains import repaired
from chaos.storm import LIMITS, SLOTS, Storm
from claude_jobs.domain.event import Event
from claude_jobs.domain.job import Job
from claude_jobs.policy.auditor import audit
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.stores.base import JobFilter, Limits
from claude_jobs.stores.sqlite.store import SqliteStore, open_sqlite

CAPS = Limits(
    per_token=int(LIMITS["CLAUDE_JOBS_TOKEN_CONCURRENCY"]),
    at_depth=int(LIMITS["CLAUDE_MAX_CONCURRENT_AT_DEPTH"]),
    depth=int(LIMITS["CLAUDE_MAX_RECURSION_DEPTH"]),
    total=int(LIMITS["CLAUDE_MAX_TOTAL_JOBS"]),
)
RECURSION = RecursionLimits(
    depth=int(LIMITS["CLAUDE_MAX_RECURSION_DEPTH"]),
    at_depth=int(LIMITS["CLAUDE_MAX_CONCURRENT_AT_DEPTH"]),
    total=int(LIMITS["CLAUDE_MAX_TOTAL_JOBS"]),
    rate=int(LIMITS["CLAUDE_JOBS_MAX_SPAWN_RATE"]),
)


@dataclass(frozen=True)
class Proof:
    """The findings (none in every sane world) and what they were looked for in."""

    violations: tuple[str, ...]
    jobs: int
    events: int
    states: Counter[str]


def prove(storm: Storm, db: Path) -> Proof:
    """Look through everything. The workers may have ended."""
    store = open_sqlite(db)
    try:
        events, jobs = _events(store), _jobs(store)
        report = store.audit(time.time_ns() // 1_000_000)
    finally:
        store.close()
    ids = {job.id for job in jobs}
    violations = audit(
        events,
        jobs,
        limits=CAPS,
        slots=SLOTS,
        now_ms=time.time_ns() // 1_000_000,
        batches=storm.batches,
        recursion=RECURSION,
    )
    found = [f"{v.rule.value} {v.job_id} at {v.seq}: {v.message}" for v in violations]
    found += [f"accepted, but gone: {job_id}" for job_id in storm.accepted if job_id not in ids]
    found += [f"key {key} named {named}" for key, named in storm.keys.items() if len(named) != 1]
    found += [f"not ended: {job.id} {job.state.value}" for job in jobs if not job.is_terminal]
    found += [f"counter {key}: {pair}" for key, pair in report.drift.items()]
    found += [f"repaired: {line}" for line in repaired(storm.here)]
    found += [*report.problems, *storm.errors]
    return Proof(tuple(found), len(jobs), len(events), Counter(job.state.value for job in jobs))


def _events(store: SqliteStore) -> list[Event]:
    found: list[Event] = []
    while page := store.read(found[-1].seq if found else 0, limit=5_000):
        found += page
    return found


def _jobs(store: SqliteStore) -> list[Job]:
    found: list[Job] = []
    cursor = ""
    while True:
        page = store.list(JobFilter(limit=500, cursor=cursor))
        found += page.jobs
        cursor = page.cursor
        if not cursor:
            return found
