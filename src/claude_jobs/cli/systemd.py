"""The systemd user unit of the worker: its text, where it goes, and what to do then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from claude_jobs.cli import exits, output
from claude_jobs.cli.installation import own_command
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.runner.paths import Home

UNIT = "claude-jobs.service"


def unit_path(environ: Mapping[str, str]) -> Path:
    """Where the user's unit lies."""
    base = environ.get("XDG_CONFIG_HOME", "")
    config = Path(base) if base.startswith("/") else Path(environ.get("HOME", "~")).expanduser() / ".config"
    return config / "systemd" / "user" / UNIT


def unit_text(command: Path, environ: Mapping[str, str]) -> str:
    """The unit. Credentials are not in it: they belong into `.env` in the state directory."""
    home = Home.resolve(environ)
    settings = {"CLAUDE_JOBS_HOME": str(home.configured), "PATH": environ.get("PATH", os.defpath)}
    lines = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in settings.items())
    return f"""[Unit]
Description=claude-jobs: runs queued Claude jobs

[Service]
ExecStart={_quoted(str(command))} worker
{lines}
Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStopSec=60

[Install]
WantedBy=default.target
"""


def install(environ: Mapping[str, str]) -> int:
    """Write the unit and say what comes next."""
    path = unit_path(environ)
    text = unit_text(own_command(), environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ClaudeJobsError(
            f"Cannot write {str(path)!r}: {error.strerror}. Check the directory's permissions."
        ) from error
    output.text(str(path))
    if shutil.which("systemctl") is None:
        output.note(
            "There is no systemctl here. The unit is for machines with systemd; elsewhere run `claude-jobs worker`."
        )
    output.note("Enable it with: systemctl --user daemon-reload && systemctl --user enable --now claude-jobs")
    output.note("To have it run without a login: loginctl enable-linger $USER")
    output.note(
        f"Its tokens come from {Home.resolve(environ).env_file} (0600). End a running worker first: claude-jobs worker --stop"
    )
    return exits.OK


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
