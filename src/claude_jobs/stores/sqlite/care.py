"""Looking after the tables: what is old is deleted in small batches, what is derived is compared with its truth."""

from __future__ import annotations

from collections import Counter

from claude_jobs.domain.job import OWNED, TERMINAL, JobState
from claude_jobs.policy import tokens as rules
from claude_jobs.stores import codec
from claude_jobs.stores.base import AuditReport
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.ending import follow, weigh
from claude_jobs.stores.sqlite.rows import Rows

# Kept: what is in a tree with an unfinished job, what an unfinished job depends on, and whose session one goes on with.
_OLD = """SELECT id, batch_id, root_id FROM jobs j WHERE finished_ms < ?
    AND NOT EXISTS (SELECT 1 FROM jobs r WHERE r.id = j.root_id AND r.finished_ms IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM jobs c WHERE c.root_id = j.root_id AND c.parent_id IS NOT NULL AND c.finished_ms IS NULL
    )
    AND NOT EXISTS (
        SELECT 1 FROM deps d JOIN jobs u ON u.id = d.job_id WHERE d.needs_id = j.id AND u.finished_ms IS NULL
    )
    AND NOT EXISTS (SELECT 1 FROM jobs s WHERE s.session_id = j.session_id AND s.finished_ms IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM jobs f WHERE f.resumes = j.session_id AND f.resumes <> '' AND f.finished_ms IS NULL
    )
    ORDER BY finished_ms, seq LIMIT ?"""
# Ready jobs by their classes: there may be a million of them.
_OFFERED = """SELECT e.value FROM classes c, json_each(c.offers) e UNION
    SELECT e.value FROM jobs j, json_each(j.doc, '$.offers') e WHERE j.state IN {others}"""
_IN_TREE = """SELECT 1 FROM jobs WHERE id = ? UNION ALL
    SELECT 1 FROM jobs WHERE root_id = ? AND parent_id IS NOT NULL LIMIT 1"""
_TRUE_LANES = """SELECT class_id, batch_id, rank, seq FROM (
        SELECT class_id, batch_id, rank, seq,
               ROW_NUMBER() OVER (PARTITION BY class_id, batch_id ORDER BY rank, seq) AS place
        FROM jobs WHERE class_id IS NOT NULL
    ) WHERE place = 1"""
_PROBLEMS = (
    ("(class_id IS NOT NULL) <> (state = 'ready')", "is ready or in the ready index, but not both"),
    ("(owner <> '') <> (state IN {owned})", "has an owner and no work, or work and no owner"),
    ("(permits <> '[]') <> (state IN {busy})", "holds permits without running, or runs without permits"),
    ("(finished_ms IS NOT NULL) <> (state IN {ended})", "ended without a time, or has a time without an end"),
    ("state = 'delayed' AND not_before_ms IS NULL", "sleeps without a time to wake"),
    ("state IN {ended} AND id NOT IN (SELECT job_id FROM outcomes)", "ended without an outcome"),
    (
        "(state IN {owned}) <> EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = jobs.id AND a.is_open = 1)",
        "has an open attempt and no owner, or the other way round",
    ),
    (
        """EXISTS (SELECT 1 FROM json_each(jobs.doc, '$.depends_on') e WHERE NOT EXISTS (
            SELECT 1 FROM deps d WHERE d.job_id = jobs.id AND d.needs_id = json_extract(e.value, '$.job_id')
        ))""",
        "has a dependency that nothing will tell it of",
    ),
)
# What version 1 leaves behind when it changes a session or prunes.
_LEFT_OVER = (
    "UPDATE jobs SET session_id = json_extract(doc, '$.session_id') WHERE session_id <> json_extract(doc, '$.session_id')",
    "DELETE FROM deps WHERE job_id NOT IN (SELECT id FROM jobs)",
    "DELETE FROM trees WHERE root_id NOT IN (SELECT root_id FROM jobs)",
    "DELETE FROM fail_fast WHERE batch_id NOT IN (SELECT batch_id FROM jobs)",
)
_TREES = """SELECT j.root_id, COALESCE(t.total, 0), MAX(COALESCE(json_extract(j.doc, '$.ordinal'), 1))
    FROM jobs j LEFT JOIN trees t ON t.root_id = j.root_id WHERE j.parent_id IS NOT NULL
    GROUP BY j.root_id HAVING COALESCE(t.total, 0) < MAX(COALESCE(json_extract(j.doc, '$.ordinal'), 1))"""


def prune(rows: Rows, before_ms: int, limit: int) -> int:
    """See JobStore."""
    old = rows.execute(_OLD, before_ms, limit)
    for job_id, *_ in old:
        rows.dropped += [name for (name,) in rows.execute("SELECT name FROM texts WHERE job_id = ?", job_id)]
        _delete(rows, job_id)
    for batch_id in {batch for _, batch, _ in old if batch}:
        if rows.number("SELECT 1 FROM jobs WHERE batch_id = ? LIMIT 1", batch_id) is None:
            rows.execute("DELETE FROM batches WHERE id = ?", batch_id)
            rows.execute("DELETE FROM fail_fast WHERE batch_id = ?", batch_id)
    for root_id in {root for *_, root in old}:
        if rows.number(_IN_TREE, root_id, root_id) is None:
            rows.execute("DELETE FROM trees WHERE root_id = ?", root_id)
    rows.execute("DELETE FROM classes WHERE id NOT IN (SELECT class_id FROM lanes)")
    _forget_tokens(rows, before_ms)
    return len(old)


def _forget_tokens(rows: Rows, before_ms: int) -> None:
    known = Board(rows).states.values()
    old = {state.fingerprint for state in known if rules.is_forgotten(state, before_ms)}
    if not old:
        return
    others = _in(frozenset(JobState) - TERMINAL - {JobState.READY})
    for fingerprint in old - {offered for (offered,) in rows.execute(_OFFERED.format(others=others))}:
        rows.execute("DELETE FROM tokens WHERE fingerprint = ?", fingerprint)


def _delete(rows: Rows, job_id: str) -> None:
    job = rows.get(job_id)
    rows.uncount(job)
    rows.execute("DELETE FROM jobs WHERE id = ?", job_id)
    for table in ("specs", "outcomes", "texts", "attempts", "events", "deps"):
        rows.execute(f"DELETE FROM {table} WHERE job_id = ?", job_id)  # noqa: S608


def audit(rows: Rows, now_ms: int) -> AuditReport:
    """See JobStore."""
    for statement in _LEFT_OVER:
        rows.execute(statement)
    follow(rows, now_ms)
    drift = _repair_counters(rows) | _repair_trees(rows)
    problems = [*_job_problems(rows), *_repair_waiting(rows, now_ms), *_repair_lanes(rows)]
    return AuditReport(drift=drift, problems=tuple(problems))


def _repair_trees(rows: Rows) -> dict[str, tuple[int, int]]:
    wrong = rows.execute(_TREES)
    for root_id, _, total in wrong:
        rows.execute("INSERT OR REPLACE INTO trees VALUES (?, ?)", root_id, total)
    return {f"tree:{root_id}": (counted, total) for root_id, counted, total in wrong}


def _repair_waiting(rows: Rows, now_ms: int) -> list[str]:
    waiting = [job_id for (job_id,) in rows.execute("SELECT id FROM jobs WHERE state = 'waiting' ORDER BY seq")]
    stuck = [job_id for job_id in waiting if weigh(rows, job_id, now_ms)]
    follow(rows, now_ms)
    return [f"Job {job_id} waited for dependencies that were decided." for job_id in stuck]


def _repair_counters(rows: Rows) -> dict[str, tuple[int, int]]:
    truth: Counter[str] = Counter()
    for state, is_unread, n in rows.execute("SELECT state, is_unread, COUNT(*) FROM jobs GROUP BY state, is_unread"):
        truth[f"s:{state}"] += n
        truth["unread"] += n if is_unread else 0
    for (permits,) in rows.execute("SELECT permits FROM jobs WHERE owner <> '' OR permits <> '[]'"):
        truth.update(codec.loads(permits))
    counters: dict[str, int] = {key: n for key, n in rows.execute("SELECT key, n FROM counters")}
    drift = {
        key: (counters.get(key, 0), truth[key])
        for key in sorted({*truth, *counters})
        if counters.get(key, 0) != truth[key]
    }
    for key, (_, n) in drift.items():
        rows.execute("DELETE FROM counters WHERE key = ?", key)
        if n:
            rows.execute("INSERT INTO counters VALUES (?, ?)", key, n)
    return drift


def _job_problems(rows: Rows) -> list[str]:
    states = {"owned": _in(OWNED), "busy": _in(OWNED - {JobState.BLOCKED}), "ended": _in(TERMINAL)}
    found: list[str] = []
    for condition, sentence in _PROBLEMS:
        sql = f"SELECT id FROM jobs WHERE {condition.format(**states)} LIMIT 20"  # noqa: S608
        found += [f"Job {job_id} {sentence}." for (job_id,) in rows.execute(sql)]
    return found


def _in(states: frozenset[JobState]) -> str:
    return "(" + ", ".join(f"'{state.value}'" for state in sorted(states)) + ")"


def _repair_lanes(rows: Rows) -> list[str]:
    truth = set(rows.execute(_TRUE_LANES))
    lanes = set(rows.execute("SELECT class_id, batch_id, rank, seq FROM lanes"))
    wrong = {(class_id, batch_id) for class_id, batch_id, *_ in truth ^ lanes}
    parked = {batch for (batch,) in rows.execute("SELECT DISTINCT batch_id FROM lanes WHERE is_parked = 1")}
    for class_id, batch_id in wrong:
        rows.refresh_lane(class_id, batch_id)
    for (batch_id,) in rows.execute("SELECT id FROM batches"):
        rows.park(batch_id)
    now = {batch for (batch,) in rows.execute("SELECT DISTINCT batch_id FROM lanes WHERE is_parked = 1")}
    sentences = [f"The ready index was wrong about batch {batch_id!r} in class {n}." for n, batch_id in sorted(wrong)]
    return sentences + [f"Batch {batch!r} was parked, or not, by mistake." for batch in sorted(parked ^ now)]


def text_files(rows: Rows) -> set[str]:
    """Files that rows name."""
    return {name for (name,) in rows.execute("SELECT name FROM texts")}
