"""How long attempts ran, kept for better guesses; the oldest go when there are too many."""

from __future__ import annotations

from claude_jobs.stores import codec
from claude_jobs.stores.lifecycle import Run
from claude_jobs.stores.sqlite.rows import Rows

MOST_RUNS = 10_000


def record(rows: Rows, run: Run) -> None:
    """Keep one more."""
    sql = """INSERT INTO runs (at_ms, kind, features, estimate_ms, ran_ms, failure) VALUES (?, ?, ?, ?, ?, ?)
        RETURNING seq"""
    features = codec.to_json(run.features)
    latest = rows.number(sql, run.at_ms, run.kind, features, run.estimate_ms, run.ran_ms, run.failure) or 0
    rows.execute("DELETE FROM runs WHERE seq <= ?", latest - MOST_RUNS)


def times(rows: Rows, kind: str, limit: int) -> tuple[int, ...]:
    """See JobStore.run_times."""
    sql = "SELECT ran_ms FROM runs WHERE kind = ? AND failure = '' ORDER BY seq DESC LIMIT ?"
    return tuple(ran_ms for (ran_ms,) in rows.execute(sql, kind, limit))
