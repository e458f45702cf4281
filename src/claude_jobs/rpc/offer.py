"""What a front says first, and what it is answered. Standard library only: the bridge loads this. Never logged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Literal, NamedTuple

from claude_jobs import __version__
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import credentials, providers
from claude_jobs.runner import environment

PROTOCOL = 1
MAX_HELLO_BYTES = 1 << 20
MARK = "CLAUDE_JOBS_MARK"
JOB_SECRET = "CLAUDE_JOBS_JOB_SECRET"  # noqa: S105  # a variable's name
Kind = Literal["mcp", "rpc"]
Pairs = tuple[tuple[str, str], ...]


class Welcome(NamedTuple):
    """The worker's answer."""

    version: str
    worker: str
    pid: int


def build(environ: Mapping[str, str], kind: Kind) -> bytes:
    """The hello line of this process. From inside a job nothing is offered: what is there was lent to the job.

    Raises:
        InvalidRequest: It would be longer than a worker accepts.
    """
    extra = [name.strip() for name in environ.get("CLAUDE_JOBS_PASS_ENV", "").split(",") if name.strip()]
    lineage = _lineage(environ)
    found = [] if lineage else credentials.pick(environ)
    message = {
        "v": PROTOCOL,
        "kind": kind,
        "version": __version__,
        "pid": os.getpid(),
        "cwd": _cwd(environ),
        "env": dict(environment.capture(environ, extra)),
        "profile": {} if lineage else dict(environment.capture_profile(environ)),
        "credentials": [{"name": name, "kind": of, "secret": secret} for name, of, secret in found],
        "keys": [] if lineage else [{"name": name, "secret": secret} for name, secret in providers.pick_keys(environ)],
        "lineage": lineage,
    }
    line = json.dumps(message).encode("ascii") + b"\n"
    if len(line) > MAX_HELLO_BYTES:
        text = f"The environment to hand over has {len(line)} bytes, more than {MAX_HELLO_BYTES}. Shorten what CLAUDE_JOBS_PASS_ENV names."
        raise InvalidRequest(text, field="CLAUDE_JOBS_PASS_ENV")
    return line


def is_inside_job(environ: Mapping[str, str]) -> bool:
    """Whether this process runs in a job of ours."""
    return bool(environ.get(MARK))


def _lineage(environ: Mapping[str, str]) -> dict[str, str | int] | None:
    """From the mark "<home id>:<owner>:<job>:<epoch>". A worker believes the proof, or the kernel, before this."""
    parts = environ.get(MARK, "").split(":")
    if len(parts) != 4:
        return None
    epoch = int(parts[3]) if parts[3].isdecimal() else 0
    return {"job": parts[2], "epoch": epoch, "secret": environ.get(JOB_SECRET, "")}


def _cwd(environ: Mapping[str, str]) -> str:
    try:
        return str(os.getcwd())  # noqa: PTH109
    except OSError:  # it was removed under our feet
        return environ.get("HOME", "/")
