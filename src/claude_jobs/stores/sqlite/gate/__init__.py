"""GateStore on one SQLite file."""

from claude_jobs.stores.sqlite.gate.store import SqliteGate, open_gate

__all__ = ["SqliteGate", "open_gate"]
