"""The CLAUDE.md files that apply to a directory, as text: a project may instruct a job, not configure it."""

from __future__ import annotations

import os
from pathlib import Path

MAX_FILE_BYTES = 64 * 1024
MAX_TOTAL_BYTES = 192 * 1024
_NAMES = ("CLAUDE.md", ".claude/CLAUDE.md")


def read_instructions(cwd: Path) -> str:
    """CLAUDE.md of the repository's root down to `cwd`, outermost first; "" if there is none.

    Links that leave the repository are not followed, and no imports are: an instruction file is not a way to read others.
    """
    folders = _folders(cwd.resolve())
    root = folders[0]
    parts: list[str] = []
    left = MAX_TOTAL_BYTES
    for folder in folders:
        for name in _NAMES:
            text = _text(folder / name, root, min(left, MAX_FILE_BYTES))
            if text:
                left -= len(text.encode())
                parts.append(f"Contents of {folder / name} (instructions of the project):\n\n{text}")
    return "\n\n".join(parts)


def _folders(cwd: Path) -> list[Path]:
    chain = [cwd, *cwd.parents]
    depth = next((index for index, folder in enumerate(chain) if os.path.lexists(folder / ".git")), 0)
    return chain[depth::-1]


def _text(path: Path, root: Path, limit: int) -> str:
    try:
        if limit <= 0 or not path.is_file() or not path.resolve().is_relative_to(root):
            return ""
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return ""
    text = data[:limit].decode("utf-8", "ignore").strip()
    return f"{text}\n[cut off at {limit} bytes]" if len(data) > limit else text
