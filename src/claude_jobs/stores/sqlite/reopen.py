"""Running ended jobs again: which rows may be concerned; which of them are, and how, says stores.reopening."""

from __future__ import annotations

from collections.abc import Sequence

from claude_jobs.domain.job import Job
from claude_jobs.stores import codec, reopening
from claude_jobs.stores.reopening import Ask
from claude_jobs.stores.sqlite.ending import needed
from claude_jobs.stores.sqlite.rows import Rows
from claude_jobs.stores.sqlite.submit import Register

# The named jobs, with `tree` (2nd parameter) all below them, and everything that depends on one of these.
_NEAR = """WHERE j.id IN (
        WITH RECURSIVE near (id) AS (
            SELECT value FROM json_each(?)
            UNION SELECT c.id FROM near n JOIN jobs c ON c.parent_id = n.id WHERE ?
            UNION SELECT d.job_id FROM near n JOIN deps d ON d.needs_id = n.id
        ) SELECT id FROM near
    ) ORDER BY j.seq"""


def reopen(rows: Rows, job_ids: Sequence[str], now_ms: int, *, tree: bool, asker: str) -> tuple[Job, ...]:
    """See JobStore."""
    named = [rows.get(job_id).id for job_id in job_ids]
    near = {job.id: job for job in rows.select(_NEAR, codec.dumps(named), int(tree))}
    ask = Ask(job_ids=named, tree=tree, asker=asker, now_ms=now_ms)
    again = reopening.reopen(Register(rows), ask, near, needed(rows, list(near)))
    for job, event in again:
        rows.save(near[job.id], job, now_ms, event)
    return tuple(rows.get(job.id, whole=True) for job, _ in again)
