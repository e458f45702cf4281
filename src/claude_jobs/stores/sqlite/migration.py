"""How a file gets from one version of its schema to the next. No table is named here but `meta`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from claude_jobs.errors import StoreTooNew


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]], min_reader: int) -> None:
    """Bring the file to the last of `migrations`, in one transaction. Call it under the lock. The first makes `meta`.

    Raises:
        StoreTooNew: A newer claude-jobs wrote it, and says that this one cannot use it.
    """
    newest = len(migrations)
    found = _version(connection)
    if found > newest:
        row = connection.execute("SELECT value FROM meta WHERE key = 'min_reader'").fetchone()
        if row is None or row[0] > newest:
            raise StoreTooNew(path=str(path), found=found, supported=newest)
    if found >= newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('min_reader', ?)", (min_reader,))
        connection.execute(f"PRAGMA user_version={newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
