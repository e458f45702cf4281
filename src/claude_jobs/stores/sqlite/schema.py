"""The tables, their versions and how a file gets from one version to the next.

Rules for a new version: add a tuple of statements to MIGRATIONS; code of the version before must still be able to read
and write the file, else raise MIN_READER.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from claude_jobs.stores.sqlite import migration

_V1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # `doc` is the job without spec, progress and outcome; the columns beside it are copies that queries need.
    # `class_id` is set exactly while the job is ready.
    """CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        owner TEXT NOT NULL,
        class_id INTEGER,
        batch_id TEXT NOT NULL,
        rank INTEGER NOT NULL,
        submitter TEXT NOT NULL,
        key TEXT NOT NULL,
        parent_id TEXT,
        tags TEXT NOT NULL,
        backoff_since_ms INTEGER,
        not_before_ms INTEGER,
        deadline_ms INTEGER,
        finished_ms INTEGER,
        is_unread INTEGER NOT NULL,
        permits TEXT NOT NULL,
        events INTEGER NOT NULL DEFAULT 0,
        progress TEXT NOT NULL DEFAULT '{}',
        doc TEXT NOT NULL
    )""",
    "CREATE UNIQUE INDEX jobs_key ON jobs (submitter, key) WHERE key <> ''",
    "CREATE INDEX jobs_lane ON jobs (class_id, batch_id, rank, seq) WHERE class_id IS NOT NULL",
    "CREATE INDEX jobs_rank ON jobs (rank, seq) WHERE class_id IS NOT NULL",
    "CREATE INDEX jobs_state ON jobs (state, is_unread)",
    "CREATE INDEX jobs_owner ON jobs (owner) WHERE owner <> ''",
    "CREATE INDEX jobs_parent ON jobs (parent_id) WHERE parent_id IS NOT NULL",
    "CREATE INDEX jobs_batch ON jobs (batch_id, seq) WHERE batch_id <> ''",
    "CREATE INDEX jobs_due ON jobs (not_before_ms) WHERE state = 'delayed'",
    "CREATE INDEX jobs_backoff ON jobs (backoff_since_ms) WHERE backoff_since_ms IS NOT NULL",
    "CREATE INDEX jobs_deadline ON jobs (deadline_ms) WHERE deadline_ms IS NOT NULL AND finished_ms IS NULL",
    "CREATE INDEX jobs_finished ON jobs (finished_ms) WHERE finished_ms IS NOT NULL",
    "CREATE INDEX jobs_unread ON jobs (seq) WHERE is_unread = 1",
    "CREATE TABLE specs (job_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE outcomes (job_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE texts (name TEXT PRIMARY KEY, job_id TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX texts_job ON texts (job_id)",
    """CREATE TABLE attempts (
        job_id TEXT NOT NULL, epoch INTEGER NOT NULL, is_open INTEGER NOT NULL, doc TEXT NOT NULL,
        PRIMARY KEY (job_id, epoch)
    ) WITHOUT ROWID""",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL, epoch INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
    )""",
    "CREATE INDEX events_job ON events (job_id, seq)",
    "CREATE TABLE tokens (fingerprint TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID",
    # Limit keys as they stand in permits, "s:<state>" and "unread".
    "CREATE TABLE counters (key TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID",
    # The first level of the ready index: jobs that may use the same tokens.
    """CREATE TABLE classes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, pool TEXT NOT NULL, depth INTEGER NOT NULL,
        model TEXT NOT NULL, offers TEXT NOT NULL
    )""",
    "CREATE TABLE batches (id TEXT PRIMARY KEY, max_parallel INTEGER) WITHOUT ROWID",
    # The second level: the best ready job of each batch in a class; parked while the batch is at its cap.
    """CREATE TABLE lanes (
        class_id INTEGER NOT NULL, batch_id TEXT NOT NULL, rank INTEGER NOT NULL, seq INTEGER NOT NULL,
        is_parked INTEGER NOT NULL, PRIMARY KEY (class_id, batch_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX lanes_order ON lanes (class_id, rank, seq) WHERE is_parked = 0",
    "CREATE INDEX lanes_batch ON lanes (batch_id)",
)

_BORN_WITH = """root_id = json_extract(doc, '$.root_id'), created_ms = json_extract(doc, '$.created_ms'),
    session_id = json_extract(doc, '$.session_id')"""
_V2 = (
    # What a job is born with: written once, so that no change of a job touches their indexes; a new session is the exception.
    "ALTER TABLE jobs ADD COLUMN root_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN session_id TEXT NOT NULL DEFAULT ''",
    # The earlier job's session that this one goes on with or copies.
    "ALTER TABLE jobs ADD COLUMN resumes TEXT NOT NULL DEFAULT ''",
    f"UPDATE jobs SET {_BORN_WITH}",  # noqa: S608
    # Version 1 may still submit.
    f"""CREATE TRIGGER jobs_born AFTER INSERT ON jobs WHEN NEW.root_id = ''
        BEGIN UPDATE jobs SET {_BORN_WITH} WHERE seq = NEW.seq; END""",  # noqa: S608
    "CREATE INDEX jobs_tree ON jobs (root_id, created_ms) WHERE parent_id IS NOT NULL",
    "CREATE INDEX jobs_session ON jobs (session_id)",
    "CREATE INDEX jobs_resumes ON jobs (resumes) WHERE resumes <> ''",
    # All dependencies of all jobs, met or not.
    """CREATE TABLE deps (
        job_id TEXT NOT NULL, needs_id TEXT NOT NULL, PRIMARY KEY (job_id, needs_id)
    ) WITHOUT ROWID""",
    "CREATE INDEX deps_needs ON deps (needs_id)",
    # Jobs ever made in a tree of more than one job; those that were pruned count.
    "CREATE TABLE trees (root_id TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID",
    """UPDATE jobs SET doc = json_set(doc, '$.ordinal', (
        SELECT COUNT(*) FROM jobs o WHERE o.root_id = jobs.root_id AND o.seq <= jobs.seq
    )) WHERE parent_id IS NOT NULL""",
    """INSERT INTO trees SELECT root_id, MAX(json_extract(doc, '$.ordinal')) FROM jobs WHERE parent_id IS NOT NULL
        GROUP BY root_id""",
    # Batches that stop at their first failure. No column of `batches`: version 1 inserts there without naming columns.
    "CREATE TABLE fail_fast (batch_id TEXT PRIMARY KEY) WITHOUT ROWID",
    # Ended jobs whose end concerns others that have not been told yet. A trigger, since version 1 may end a job, too.
    "CREATE TABLE ended (seq INTEGER PRIMARY KEY, job_id TEXT NOT NULL)",
    """CREATE TRIGGER jobs_ended AFTER UPDATE OF finished_ms ON jobs
        WHEN NEW.finished_ms IS NOT NULL AND OLD.finished_ms IS NULL AND (
            EXISTS (SELECT 1 FROM deps WHERE needs_id = NEW.id)
            OR EXISTS (SELECT 1 FROM fail_fast WHERE batch_id = NEW.batch_id)
        )
        BEGIN INSERT INTO ended (job_id) VALUES (NEW.id); END""",
    # How long attempts ran against what was guessed.
    """CREATE TABLE runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL, kind TEXT NOT NULL, features TEXT NOT NULL, estimate_ms INTEGER NOT NULL,
        ran_ms INTEGER NOT NULL, failure TEXT NOT NULL
    )""",
    "CREATE INDEX runs_kind ON runs (kind, seq) WHERE failure = ''",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_V1, _V2)
SCHEMA = len(MIGRATIONS)
MIN_READER = 1
"""The oldest schema whose code may still use a file of this one."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to SCHEMA. See `migration.migrate`."""
    migration.migrate(connection, path, MIGRATIONS, MIN_READER)
