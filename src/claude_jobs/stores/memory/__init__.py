"""JobStore in one process's memory: the model that the tests hold the others against."""

from claude_jobs.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
