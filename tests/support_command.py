"""The command as a child process on a rehearsal stage: nothing of the tester's environment reaches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_processes import PATIENCE_S

COMMAND = Path(sys.executable).with_name("claude-jobs")


@dataclass(frozen=True, slots=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def bare_environ(root: Path) -> dict[str, str]:
    """An environment with a home of its own and nothing else."""
    for name in ("home", "config", "tmp"):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CONFIG_DIR": str(root / "config"),
        "CLAUDE_JOBS_HOME": str(root / "state"),
    }


def run(
    *args: str,
    environ: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout_s: float = 2 * PATIENCE_S,
) -> Ran:
    """One command, run to its end."""
    done = subprocess.run(
        [COMMAND, *args], env=dict(environ), cwd=cwd, input=stdin, capture_output=True, timeout=timeout_s
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(args: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """A command that is left running."""
    return subprocess.Popen(
        [COMMAND, *args],
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def directive(prompt: str, **action: object) -> str:
    """A prompt that tells the rehearsal how to answer it."""
    return f"{prompt}\nrehearse: {json.dumps(action)}"
