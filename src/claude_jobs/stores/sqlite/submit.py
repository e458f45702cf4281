"""Accepting jobs: what stores.acceptance asks about the jobs that are there, and the new ones' rows."""

from __future__ import annotations

from claude_jobs.domain.job import QUEUED, Job, JobState
from claude_jobs.policy.recursion import RATE_WINDOW_MS, Tree
from claude_jobs.stores.acceptance import accept, submitted_event
from claude_jobs.stores.base import Receipt, SubmitRequest
from claude_jobs.stores.sqlite.rows import Rows

_BELOW = """WHERE j.seq IN (
        WITH RECURSIVE below (seq, id) AS (
            SELECT seq, id FROM jobs WHERE parent_id = ?
            UNION ALL SELECT c.seq, c.id FROM below b JOIN jobs c ON c.parent_id = b.id
        ) SELECT seq FROM below
    ) ORDER BY j.seq"""
_RECENT = """SELECT created_ms FROM jobs INDEXED BY jobs_tree
    WHERE root_id = ? AND parent_id IS NOT NULL AND created_ms > ? ORDER BY created_ms"""


def submit(rows: Rows, request: SubmitRequest) -> tuple[Receipt, ...]:
    """See JobStore."""
    accepted = accept(Register(rows), request)
    for job in accepted.new:
        rows.insert(job, request.now_ms, submitted_event(job))
    if accepted.new and request.batch_id:
        rows.set_batch(request.batch_id, request.max_parallel, fail_fast=request.fail_fast)
    return accepted.receipts


class Register:
    """stores.acceptance.Register, and that of stores.reopening, over the rows of one transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def queued(self) -> int:
        return sum(self._rows.counter(f"s:{state.value}") for state in QUEUED)

    def find_key(self, submitter: str, key: str) -> Job | None:
        return find_key(self._rows, submitter, key)

    def find(self, job_id: str) -> Job | None:
        return self._rows.find(job_id, whole=True)

    def state(self, job_id: str) -> JobState | None:
        found = self._rows.execute("SELECT state FROM jobs WHERE id = ?", job_id)
        return JobState(found[0][0]) if found else None

    def below(self, job: Job) -> list[Job]:
        return self._rows.select(_BELOW, job.id)

    def tree(self, root_id: str, now_ms: int) -> Tree:
        total = self._rows.number("SELECT total FROM trees WHERE root_id = ?", root_id) or 1
        recent = self._rows.execute(_RECENT, root_id, now_ms - RATE_WINDOW_MS)
        return Tree(total=total, recent_ms=tuple(at_ms for (at_ms,) in recent))

    def session_user(self, session_id: str) -> str | None:
        return session_user(self._rows, session_id)


def session_user(rows: Rows, session_id: str) -> str | None:
    """The unfinished job that runs, or will run, in a session."""
    sql = "SELECT id FROM jobs INDEXED BY jobs_session WHERE session_id = ? AND finished_ms IS NULL LIMIT 1"
    found = rows.execute(sql, session_id)
    return found[0][0] if found else None


def find_key(rows: Rows, submitter: str, key: str) -> Job | None:
    """The whole job that owns a key."""
    found = rows.select("WHERE j.submitter = ? AND j.key = ? AND j.key <> ''", submitter, key, whole=True)
    return found[0] if found else None
