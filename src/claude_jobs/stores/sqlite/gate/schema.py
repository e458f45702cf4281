"""The tables of `gate.db` and their versions.

Rules for a new version: those of the job store's `schema.py`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from claude_jobs.stores.sqlite import migration

_V1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # Quotas that were set here.
    """CREATE TABLE quotas (
        id TEXT PRIMARY KEY,
        scope TEXT NOT NULL, subject TEXT NOT NULL, unit TEXT NOT NULL, amount INTEGER NOT NULL, period TEXT NOT NULL
    ) WITHOUT ROWID""",
    # One window of one quota; `key` is its id and the window's start. `held` is the sum over its open holds.
    # An id is never used twice: a hold may outlive its counter.
    """CREATE TABLE counters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE, used INTEGER NOT NULL, held INTEGER NOT NULL, resets_ms INTEGER NOT NULL
    )""",
    "CREATE INDEX counters_reset ON counters (resets_ms)",
    # Reservations that are not settled. Not open: the lease ended, its amounts are no longer held but can be charged.
    # `amounts` is "counter:unit:amount", separated by blanks.
    """CREATE TABLE holds (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, until_ms INTEGER NOT NULL, is_open INTEGER NOT NULL, amounts TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX holds_due ON holds (until_ms) WHERE is_open = 1",
    "CREATE INDEX holds_lost ON holds (until_ms) WHERE is_open = 0",
    "CREATE TABLE rates (id TEXT PRIMARY KEY, tat_us INTEGER NOT NULL) WITHOUT ROWID",
    # Circuit and key state of one route. `buckets` and `probes` are JSON arrays, as in CircuitState.
    """CREATE TABLE routes (
        provider TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL, seen_ms INTEGER NOT NULL,
        phase TEXT NOT NULL, buckets TEXT NOT NULL, faults_in_a_row INTEGER NOT NULL, open_until_ms INTEGER NOT NULL,
        opened INTEGER NOT NULL, probes TEXT NOT NULL, probes_ok INTEGER NOT NULL,
        cooling_until_ms INTEGER NOT NULL,
        requests_limit INTEGER, requests_left INTEGER, requests_reset_ms INTEGER NOT NULL,
        tokens_limit INTEGER, tokens_left INTEGER, tokens_reset_ms INTEGER NOT NULL,
        PRIMARY KEY (provider, model, key)
    ) WITHOUT ROWID""",
    # A dead key is dead for all models.
    """CREATE TABLE dead_keys (
        provider TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, why TEXT NOT NULL, PRIMARY KEY (provider, key)
    ) WITHOUT ROWID""",
    # The only row of the cache's totals. `seq` counts invalidations, `clock` uses; what was invalidated at or before
    # `floor` is no longer in `generations`, so that no entry of an older look may be stored any more. `cleaned`: the entry
    # up to which the present round of cleaning has come.
    """CREATE TABLE cache (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        seq INTEGER NOT NULL, floor INTEGER NOT NULL, clock INTEGER NOT NULL, fence INTEGER NOT NULL,
        cleaned INTEGER NOT NULL,
        entries INTEGER NOT NULL, bytes INTEGER NOT NULL, hits INTEGER NOT NULL, stale_hits INTEGER NOT NULL,
        misses INTEGER NOT NULL, stores INTEGER NOT NULL, evictions INTEGER NOT NULL, invalidations INTEGER NOT NULL
    )""",
    "INSERT INTO cache VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
    # `seq`: no invalidation up to this one concerns the entry. `used`: the clock at its last use.
    # The value lives apart, so that a use does not rewrite it.
    """CREATE TABLE entries (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE, org TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
        created_ms INTEGER NOT NULL, fresh_until_ms INTEGER NOT NULL, stale_until_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL, seq INTEGER NOT NULL, used INTEGER NOT NULL
    )""",
    "CREATE INDEX entries_used ON entries (used)",
    "CREATE TABLE bodies (entry_id INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    # The last invalidation of each kind; '' is any. Entries with a smaller `seq` that match are gone.
    """CREATE TABLE generations (
        org TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (org, provider, model, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX generations_seq ON generations (seq)",
    # Answers that are being made; `until_ms` is 0 once it is. `error`: how the last one that failed ended, and when.
    """CREATE TABLE flights (
        key TEXT PRIMARY KEY, owner TEXT NOT NULL, fence INTEGER NOT NULL, until_ms INTEGER NOT NULL,
        failed_ms INTEGER NOT NULL, error TEXT NOT NULL
    ) WITHOUT ROWID""",
    # The ledger, in the order of time: `seq` is the call's `at_ms` times 2**20 and its number within that millisecond.
    # Tokens and cost as in CallRecord; `nusd` NULL is unknown.
    """CREATE TABLE calls (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, org TEXT NOT NULL,
        provider TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL, outcome TEXT NOT NULL,
        input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
        cache_write_1h INTEGER NOT NULL, thinking INTEGER NOT NULL, provenance TEXT NOT NULL,
        nusd INTEGER, price TEXT NOT NULL, cached TEXT NOT NULL, took_ms INTEGER NOT NULL, first_token_ms INTEGER,
        steps TEXT NOT NULL
    )""",
    "CREATE INDEX calls_org ON calls (org)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_V1,)
SCHEMA = len(MIGRATIONS)
MIN_READER = 1
"""The oldest schema whose code may still use a file of this one."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to SCHEMA. See `migration.migrate`."""
    migration.migrate(connection, path, MIGRATIONS, MIN_READER)
