"""What owners do to a job that they hold: begin, block, move, finish, append. Fenced by the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from claude_jobs.domain.event import DROPPABLE, NewEvent
from claude_jobs.domain.job import JobState, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import TokenNote
from claude_jobs.policy import tokens as rules
from claude_jobs.policy.retry import Disposition
from claude_jobs.stores import lifecycle
from claude_jobs.stores.base import MAX_EVENTS_PER_JOB, Limits
from claude_jobs.stores.sqlite import runs
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.ending import follow, settle
from claude_jobs.stores.sqlite.rows import Rows, is_unread


def begin(rows: Rows, job_id: str, epoch: int, process: ProcessRef | None, now_ms: int, session_id: str | None) -> bool:
    """See JobStore."""
    job = rows.held(job_id, epoch)
    if job is None:
        return False
    if job.state is JobState.ADMITTED and job.cancel_why is not None:
        settle(rows, job, *lifecycle.cancel_disposition(job.cancel_why), now_ms)
        follow(rows, now_ms)
        return False
    attempt = rows.attempt(job_id, epoch)
    if attempt:
        rows.put_attempt(lifecycle.started(attempt, process, now_ms))
    placed = lifecycle.in_session(job, session_id) if session_id else job
    if job.state is JobState.ADMITTED:
        rows.save(job, lifecycle.begun(placed, now_ms), now_ms, lifecycle.started_event(process))
    elif placed is not job:
        rows.save(job, placed, now_ms)
    return True


def block(rows: Rows, job_id: str, epoch: int, now_ms: int) -> bool:
    """See JobStore."""
    job = rows.held(job_id, epoch)
    if job is None or job.state is not JobState.RUNNING:
        return False
    rows.save(job, lifecycle.blocked(job), now_ms, lifecycle.blocked_event())
    return True


def unblock(rows: Rows, job_id: str, epoch: int, now_ms: int) -> bool:
    """See JobStore."""
    job = rows.held(job_id, epoch)
    if job is None or job.state is not JobState.BLOCKED:
        return False
    rows.save(job, lifecycle.unblocked(job), now_ms, lifecycle.unblocked_event())
    return True


def move(
    rows: Rows, job_id: str, epoch: int, note: TokenNote, held: frozenset[str], limits: Limits, now_ms: int
) -> str | None:
    """See JobStore."""
    attempt = rows.attempt(job_id, epoch)
    if attempt is None:
        return None
    board = Board(rows)
    board.note(attempt.token, note, now_ms)
    job = rows.held(job_id, epoch)
    if job is None or not lifecycle.may_move(job):
        return None
    kind = board.states[job.token].kind
    offered = rules.states_of(job.offers, board.states, held)
    others = [state for state in offered if state.kind is kind and state.fingerprint != job.token]
    token = rules.choose(
        others, model=job.spec.model, concurrency=limits.per_token, now_ms=now_ms, avoid=job.refused_by
    )
    if token is None:
        return None
    board.use(token.fingerprint)
    rows.put_attempt(replace(attempt, token=token.fingerprint))
    swapped = lifecycle.moved(job, token.fingerprint)
    limited = lifecycle.limited_event(job.token, note)
    rows.save(job, swapped, now_ms, *limited, lifecycle.moved_event(job.token, swapped))
    return token.fingerprint


def finish(
    rows: Rows, job_id: str, epoch: int, outcome: Outcome, disposition: Disposition, note: TokenNote | None, now_ms: int
) -> bool:
    """See JobStore."""
    job = rows.held(job_id, epoch, whole=True)
    if job is None:
        return False
    settle(rows, job, outcome, disposition, now_ms, lifecycle.limited_event(job.token, note) if note else ())
    run = lifecycle.run_of(job, outcome, now_ms)
    if run:
        runs.record(rows, run)
    follow(rows, now_ms)
    board = Board(rows)
    if note:
        board.note(job.token, note, now_ms)
    board.add_cost(job.token, outcome.usage.cost_nusd if outcome.usage else 0)
    return True


def append(
    rows: Rows, job_id: str, epoch: int, events: Sequence[NewEvent], progress: Progress | None, now_ms: int
) -> bool:
    """See JobStore."""
    sql = "SELECT events FROM jobs WHERE id = ? AND epoch = ? AND state IN ('running', 'blocked')"
    stored = rows.number(sql, job_id, epoch)
    if stored is None:
        return False
    room = MAX_EVENTS_PER_JOB - stored
    kept = [event for place, event in enumerate(events) if place < room or event.kind not in DROPPABLE]
    if kept:
        rows.log(job_id, epoch, now_ms, kept)
    if progress:
        rows.put_progress(job_id, progress)
    return True


def mark_read(rows: Rows, job_ids: Sequence[str], now_ms: int) -> None:
    """See JobStore."""
    for job_id in job_ids:
        job = rows.find(job_id)
        if job and is_unread(job):
            rows.save(job, replace(job, read_ms=now_ms), now_ms)
