"""The secret that opens the HTTP endpoints: one file of the user's own, made on first use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def http_token(path: Path) -> str:
    """The bearer token of the HTTP endpoints, made on first use (0600)."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()
