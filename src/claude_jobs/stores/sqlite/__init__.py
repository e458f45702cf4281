"""JobStore on SQLite files."""

from claude_jobs.stores.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
