"""How jobs end, and what that does to others in the same transaction: dependents, the rest of a batch, descendants.

Ended jobs that concern others queue up in the table `ended`, so nothing recurses however long a chain is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from claude_jobs.domain.event import NewEvent
from claude_jobs.domain.job import OWNED, QUEUED, DependencyMode, DependencyOn, Job, JobState, Outcome
from claude_jobs.policy.dependencies import Verdict, verdict
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import public
from claude_jobs.stores import codec, graph, lifecycle
from claude_jobs.stores.base import CancelAck
from claude_jobs.stores.sqlite.rows import Rows

_TREE = """WITH RECURSIVE tree (id) AS (
        SELECT value FROM json_each(?) UNION SELECT j.id FROM jobs j JOIN tree t ON j.parent_id = t.id
    ) SELECT j.id FROM jobs j JOIN tree t ON j.id = t.id ORDER BY j.seq"""
_DEPENDENTS = """SELECT j.id FROM deps d JOIN jobs j ON j.id = d.job_id
    WHERE d.needs_id = ? AND j.state = 'waiting' ORDER BY j.seq"""
_TERMS = "SELECT json_extract(doc, '$.needs'), json_extract(doc, '$.on') FROM jobs WHERE id = ?"
_STATES = """SELECT DISTINCT COALESCE(n.state, 'failed') FROM deps d LEFT JOIN jobs n ON n.id = d.needs_id
    WHERE d.job_id = ?"""
_REST = "SELECT id FROM jobs WHERE batch_id = ? AND batch_id <> '' AND finished_ms IS NULL"


def settle(
    rows: Rows, job: Job, outcome: Outcome, disposition: Disposition, now_ms: int, before: Sequence[NewEvent] = ()
) -> Job:
    """End what the job is doing: its attempt is closed, its permits freed, its next state saved. Then call `follow`."""
    attempt = rows.attempt(job.id, job.epoch) if job.state in OWNED else None
    if attempt:
        rows.put_attempt(lifecycle.closed(attempt, outcome, disposition, now_ms))
    ended, events = lifecycle.settled(job, outcome, disposition, now_ms)
    rows.save(job, ended, now_ms, *before, *events)
    return ended


def follow(rows: Rows, now_ms: int) -> None:
    """Do to others what follows from the jobs that have ended, until nothing more follows. Dependents come first."""
    failures: deque[Job] = deque()
    while True:
        ended = rows.take_ended()
        for ended_id in ended:
            for (job_id,) in rows.execute(_DEPENDENTS, ended_id):
                weigh(rows, job_id, now_ms)
            job = rows.find(ended_id)
            if job and job.state in graph.BREAKS_BATCH and rows.is_fail_fast(job.batch_id):
                failures.append(job)
        if not ended and failures:
            _stop_batch(rows, failures.popleft(), now_ms)
        elif not ended:
            return


def weigh(rows: Rows, job_id: str, now_ms: int) -> bool:
    """Let a waiting job go on, or end, if its dependencies decide that. Then call `follow`."""
    # A verdict asks which states there are, not how often: the states of a wide job are counted where they are.
    ((needs, on),) = rows.execute(_TERMS, job_id)
    states = tuple(JobState(state) for (state,) in rows.execute(_STATES, job_id))
    found = verdict(states, DependencyMode(needs or "all"), DependencyOn(on or "success"))
    if found is Verdict.PENDING:
        return False
    job = rows.get(job_id)
    if found is Verdict.MET:
        rows.save(job, graph.met(job, now_ms), now_ms)
    else:
        settle(rows, job, *graph.unmet_disposition(job, needed(rows, [job_id])), now_ms)
    return True


def needed(rows: Rows, job_ids: Sequence[str]) -> dict[str, JobState]:
    """The states of everything that jobs depend on."""
    sql = """SELECT n.id, n.state FROM json_each(?) i JOIN deps d ON d.job_id = i.value JOIN jobs n ON n.id = d.needs_id"""
    return {job_id: JobState(state) for job_id, state in rows.execute(sql, codec.dumps(list(job_ids)))}


def _stop_batch(rows: Rows, failed: Job, now_ms: int) -> None:
    rest = [job_id for (job_id,) in rows.execute(_REST, failed.batch_id)]
    cancel_tree(rows, rest, graph.stop_why(failed), now_ms)


def cancel(rows: Rows, job_ids: Sequence[str], why: str, now_ms: int) -> tuple[CancelAck, ...]:
    """See JobStore."""
    named = {rows.get(job_id).id for job_id in job_ids}
    tree = cancel_tree(rows, sorted(named), why, now_ms)
    follow(rows, now_ms)
    return tuple(
        CancelAck(job_id=job.id, was=public(job.state), is_done=job.is_terminal or job.state in QUEUED)
        for job in tree
        if job.id in named or not job.is_terminal
    )


def cancel_tree(rows: Rows, job_ids: Sequence[str], why: str, now_ms: int) -> list[Job]:
    """Cancel jobs and all their descendants; gives them as they were before. Then call `follow`."""
    tree = [rows.get(job_id) for (job_id,) in rows.execute(_TREE, codec.dumps(list(job_ids)))]
    for job in tree:
        if job.state in QUEUED:
            flagged = replace(job, cancel_why=why)
            settle(rows, flagged, *lifecycle.cancel_disposition(why), now_ms)
        elif not job.is_terminal and job.cancel_why is None:
            rows.save(job, replace(job, cancel_why=why), now_ms, lifecycle.cancel_event(why))
    return tree
