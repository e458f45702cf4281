"""Where the claude executable is. Nothing is started here but `claude --version`, for the doctor."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from claude_jobs.errors import ClaudeNotFound
from claude_jobs.runner.paths import expanded

_VERSION_TIMEOUT_S = 10.0


def find_claude(configured: str | None, path: str) -> Path:
    """The executable to run: the configured one, else `claude` on `path`, else the one inside claude-agent-sdk.

    Args:
        configured: Value of CLAUDE_JOBS_CLI.
        path: Value of PATH.

    Raises:
        ClaudeNotFound: There is none, or the configured one cannot be run.
    """
    if configured:
        chosen = expanded(configured)
        if not _is_executable(chosen):
            raise ClaudeNotFound(f"CLAUDE_JOBS_CLI={configured!r} is not an executable file")
        return chosen.absolute()
    on_path = shutil.which("claude", path=path)
    if on_path:
        return Path(on_path).absolute()
    bundled = _bundled()
    if bundled is None:
        raise ClaudeNotFound("PATH and the package claude-agent-sdk")
    return bundled


def _bundled() -> Path | None:
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "_bundled" / "claude"
    return binary if _is_executable(binary) else None


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def claude_version(claude: Path) -> str:
    """What `claude --version` says ("2.1.329"), "" if it does not answer. Blocks for at most ten seconds."""
    env = {"PATH": os.defpath, "DISABLE_AUTOUPDATER": "1"}
    try:
        done = subprocess.run(
            [claude, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split(" ", 1)[0].strip() if done.returncode == 0 else ""
