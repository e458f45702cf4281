"""Questions about jobs: lists, counts, places in the queue, logs. Nothing here writes."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from claude_jobs.domain.event import Event, EventKind
from claude_jobs.domain.job import Attempt, JobState, PublicState
from claude_jobs.domain.token import TokenState
from claude_jobs.policy import eta
from claude_jobs.policy.eta import Place
from claude_jobs.policy.transitions import public
from claude_jobs.stores import codec, lifecycle
from claude_jobs.stores.base import Beat, Counts, JobFilter, Page
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.rows import TAG, Param, Rows

MOST_AHEAD = 10_000
_HELD = """SELECT id, epoch, json_type(doc, '$.cancel_why') IS NOT NULL FROM jobs INDEXED BY jobs_owner
    WHERE owner = ? AND owner <> '' ORDER BY seq"""
_FRONT = """SELECT id, batch_id FROM jobs INDEXED BY jobs_rank 
    WHERE class_id IS NOT NULL AND (rank, seq) <= (?, ?) ORDER BY rank, seq LIMIT ?"""

Clause = tuple[str, tuple[Param, ...]]


def list_jobs(rows: Rows, query: JobFilter) -> Page:
    """See JobStore. The cursor is the sort key of the last job shown."""
    where, params = _joined([*_filters(query)])
    total = rows.number(f"SELECT COUNT(*) FROM jobs j {where}", *params) or 0  # noqa: S608
    clauses = [*_filters(query), *_after(query)]
    where, params = _joined(clauses)
    order = "j.is_unread DESC, j.seq DESC" if query.unread_first else "j.seq DESC"
    sql = f"SELECT j.id, j.is_unread, j.seq FROM jobs j {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    keys = rows.execute(sql, *params, query.limit + 1)
    shown = keys[: query.limit]
    cursor = _cursor(shown[-1][1], shown[-1][2]) if len(keys) > len(shown) > 0 else ""
    return Page(jobs=tuple(lifecycle.listed(rows.get(job_id)) for job_id, *_ in shown), cursor=cursor, total=total)


def _filters(query: JobFilter) -> list[Clause]:
    clauses: list[Clause] = []
    if query.ids:
        clauses.append((f"j.id IN ({_marks(query.ids)})", query.ids))
    if query.states:
        states = tuple(state.value for state in JobState if public(state) in query.states)
        clauses.append((f"j.state IN ({_marks(states)})", states))
    if query.batch_id:
        clauses.append(("j.batch_id = ?", (query.batch_id,)))
    if query.root_id:
        in_tree = """j.seq IN (
            SELECT seq FROM jobs WHERE id = ? AND parent_id IS NULL
            UNION ALL SELECT seq FROM jobs WHERE root_id = ? AND parent_id IS NOT NULL
        )"""
        clauses.append((in_tree, (query.root_id, query.root_id)))
    if query.parent_id:
        clauses.append(("j.parent_id = ?", (query.parent_id,)))
    if query.label:
        clauses.append(("instr(j.tags, ?) > 0", (TAG + query.label + TAG,)))
    return clauses


def _marks(items: Sequence[str]) -> str:
    return ", ".join("?" * len(items))


def _joined(clauses: Sequence[Clause]) -> Clause:
    if not clauses:
        return "", ()
    params = tuple(param for _, found in clauses for param in found)
    return "WHERE " + " AND ".join(sql for sql, _ in clauses), params


def _cursor(group: int, seq: int) -> str:
    return base64.urlsafe_b64encode(f"{group}.{seq}".encode()).decode().rstrip("=")


def _after(query: JobFilter) -> list[Clause]:
    """What comes after the cursor; one that is none of ours starts again."""
    try:
        padded = query.cursor + "=" * (-len(query.cursor) % 4)
        group, seq = (int(part) for part in base64.urlsafe_b64decode(padded).split(b"."))
    except ValueError:
        return []
    if group not in (0, 1) or not 0 <= seq < 1 << 63:
        return []
    return [("(j.is_unread, j.seq) < (?, ?)", (group, seq))] if query.unread_first else [("j.seq < ?", (seq,))]


def counts(rows: Rows) -> Counts:
    """See JobStore."""
    by_state: dict[PublicState, int] = {}
    for key, n in rows.execute("SELECT key, n FROM counters WHERE key LIKE 's:%'"):
        state = public(JobState(key.removeprefix("s:")))
        by_state[state] = by_state.get(state, 0) + n
    return Counts(by_state=by_state, unread=rows.counter("unread"))


def places(rows: Rows, job_ids: Sequence[str]) -> dict[str, Place]:
    """See JobStore. One walk over the front of the queue, as far as the last one asked for, however many are."""
    known = "SELECT id, rank, seq, class_id IS NOT NULL FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
    asked = rows.execute(known, codec.dumps(list(job_ids)))
    ready = {job_id: (rank, seq) for job_id, rank, seq, is_ready in asked if is_ready}
    found = {job_id: Place(ahead=MOST_AHEAD) if job_id in ready else Place() for job_id, *_ in asked}
    if ready:
        front = rows.execute(_FRONT, *max(ready.values()), MOST_AHEAD)
        caps = {batch_id: cap for batch_id in {of for _, of in front} if (cap := _cap(rows, batch_id))}
        found.update(eta.places(front, caps, ready))
    return found


def _cap(rows: Rows, batch_id: str) -> eta.Cap | None:
    room = rows.batch_room(batch_id)
    return None if room is None else eta.Cap(max_parallel=room + rows.counter(f"b:{batch_id}"), room=room)


def read(rows: Rows, after: int, job_id: str | None, limit: int) -> tuple[Event, ...]:
    """See JobStore."""
    where, params = ("AND job_id = ?", (job_id,)) if job_id is not None else ("", ())
    sql = f"SELECT seq, job_id, epoch, at_ms, kind, data FROM events WHERE seq > ? {where} ORDER BY seq LIMIT ?"  # noqa: S608
    return tuple(
        Event(seq=seq, job_id=of, epoch=epoch, at_ms=at_ms, kind=EventKind(kind), data=codec.loads(data))
        for seq, of, epoch, at_ms, kind, data in rows.execute(sql, after, *params, limit)
    )


def beat(rows: Rows, owner: str, held: Sequence[tuple[str, int]]) -> Beat:
    """See JobStore. Nothing is written: a worker's life is a lock of the kernel's, not a lease."""
    mine = rows.execute(_HELD, owner)
    alive = {(job_id, epoch) for job_id, epoch, _ in mine}
    flagged = [rows.get(job_id) for job_id, _, is_flagged in mine if is_flagged]
    return Beat(
        cancel=tuple((job.id, job.cancel_why or "") for job in flagged),
        lost=tuple(pair for pair in held if pair not in alive),
    )


def attempts(rows: Rows, job_id: str) -> tuple[Attempt, ...]:
    """See JobStore."""
    found = rows.execute("SELECT doc FROM attempts WHERE job_id = ? ORDER BY epoch", job_id)
    return tuple(codec.from_json(Attempt, doc) for (doc,) in found)


def owners(rows: Rows) -> tuple[str, ...]:
    """See JobStore."""
    found = rows.execute("SELECT DISTINCT owner FROM jobs INDEXED BY jobs_owner WHERE owner <> '' ORDER BY owner")
    return tuple(owner for (owner,) in found)


def owned(rows: Rows, owner: str) -> tuple[Attempt, ...]:
    """See JobStore."""
    found = [rows.attempt(job.id, job.epoch) for job in rows.owned_by(owner)]
    return tuple(attempt for attempt in found if attempt)


def tokens(rows: Rows) -> tuple[TokenState, ...]:
    """See JobStore."""
    return tuple(sorted(Board(rows).states.values(), key=lambda token: (token.name, token.fingerprint)))
