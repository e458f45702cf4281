"""Where this installation's command is, and what Claude Code has on record about it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from claude_jobs.errors import ClaudeJobsError

SERVER = "claude-jobs"


@dataclass(frozen=True, slots=True)
class Entry:
    """A stdio server as Claude Code starts it."""

    command: str
    args: tuple[str, ...]


def own_command() -> Path:
    """The absolute path of this installation's `claude-jobs`.

    Raises:
        ClaudeJobsError: It is not installed as a command.
    """
    beside = Path(sys.executable).with_name(SERVER)
    if beside.is_file():
        return beside.absolute()
    found = shutil.which(SERVER)
    if found is None:
        raise ClaudeJobsError(
            f"There is no {SERVER!r} beside {sys.executable} or on PATH. Install the package with pip first."
        )
    return Path(found).absolute()


def config_file(environ: Mapping[str, str]) -> Path:
    """The file in which Claude Code keeps the user's servers."""
    directory = environ.get("CLAUDE_CONFIG_DIR", "") or environ.get("HOME", "") or "~"
    return Path(directory).expanduser() / ".claude.json"


def registered(environ: Mapping[str, str]) -> Entry | None:
    """Our entry among the user's servers, None if there is none or the file cannot be read."""
    try:
        config: object = json.loads(config_file(environ).read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None
    servers = cast("dict[str, object]", config).get("mcpServers") if isinstance(config, dict) else None
    entry = cast("dict[str, object]", servers).get(SERVER) if isinstance(servers, dict) else None
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, object]", entry)
    args = fields.get("args")
    words = tuple(str(arg) for arg in cast("list[object]", args)) if isinstance(args, list) else ()
    return Entry(str(fields.get("command", "")), words)
