"""What a conversation leaves behind in the process that held it, judged by what it was seen to do.

A `/clear` takes the conversation away, with what was read in it, the session and its cost: what a second job asks of the
model, and what its tools answer, is then what a process of its own would say, but for the notes about the clear. That was
measured (2.1.329) for the tools below, and for no other. A shell may leave something running, an agent can be called again,
a timer fires, a page stays cached: whoever used such a tool takes the process with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from claude_jobs.runner.stream import Assistant, Event, Other

SAFE_TOOLS = frozenset({"Read", "Edit", "Write", "NotebookEdit", "Glob", "Grep", "StructuredOutput"})
_WRITES = frozenset({"Edit", "Write", "NotebookEdit"})
_CHANGES = frozenset({"system/model_fallback", "system/compact_boundary"})
"""The process itself changed: another model answers, or the history was rewritten."""


class Traces:
    """Collects the traces of one conversation."""

    def __init__(self, cwd: str) -> None:
        self._cwd = os.path.realpath(cwd)
        self.are_none = True
        """Whether the process is as it was, once the conversation is cleared."""

    def see(self, event: Event) -> None:
        """Look at one event of the conversation."""
        match event:
            case Assistant(tool_uses=uses):
                self.are_none &= all(use.name in SAFE_TOOLS and self._is_inside(use.name, use.path) for use in uses)
            case Other(type=kind):
                self.are_none &= kind not in _CHANGES
            case _:
                pass

    def _is_inside(self, tool: str, path: str) -> bool:
        return tool not in _WRITES or Path(os.path.realpath(path)).is_relative_to(self._cwd)
