"""Running ended jobs again: which rows may be concerned; which of them are, and how, says stores.graph."""

from __future__ import annotations

from collections.abc import Sequence

from claude_jobs.domain.job import Job, JobState
from claude_jobs.stores import codec, graph
from claude_jobs.stores.acceptance import check_session
from claude_jobs.stores.sqlite.ending import needed
from claude_jobs.stores.sqlite.rows import Rows
from claude_jobs.stores.sqlite.submit import session_user

# The named jobs, with `tree` (2nd parameter) all below them, and everything that depends on one of these.
_NEAR = """WHERE j.id IN (
        WITH RECURSIVE near (id) AS (
            SELECT value FROM json_each(?)
            UNION SELECT c.id FROM near n JOIN jobs c ON c.parent_id = n.id WHERE ?
            UNION SELECT d.job_id FROM near n JOIN deps d ON d.needs_id = n.id
        ) SELECT id FROM near
    ) ORDER BY j.seq"""


def reopen(rows: Rows, job_ids: Sequence[str], now_ms: int, *, tree: bool) -> tuple[Job, ...]:
    """See JobStore."""
    named = [rows.get(job_id).id for job_id in job_ids]
    near = {job.id: job for job in rows.select(_NEAR, codec.dumps(named), int(tree))}
    states = needed(rows, list(near))
    chosen = graph.to_reopen(named, near, states, tree=tree)
    after = states | dict.fromkeys(chosen, JobState.WAITING)
    again: list[Job] = []
    for job_id in chosen:
        job, event = graph.reopened(near[job_id], after, now_ms)
        check_session(job.session_id, session_user(rows, job.session_id), field="job_ids")
        rows.save(near[job_id], job, now_ms, event)
        again.append(rows.get(job_id, whole=True))
    return tuple(again)
