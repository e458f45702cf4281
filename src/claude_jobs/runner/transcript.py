"""What the transcripts of a job's session say: whether to go on with one, and from what cost the CLI counts on.

The CLI writes them; we look, and clear away what nothing could use.
"""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from claude_jobs.domain.usage import nusd
from claude_jobs.runner.order import Order

_OF_A_CLEAR = (b'"isMeta":true', b'"content":"<command-name>/clear</command-name>')
_COST_STATE = b'"type":"cost-state"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job stands with its session.

    Attributes:
        resume: Session to go on with, "" to begin a new one.
        is_fork: Go on in a copy of `resume`, which becomes the job's session.
        has_said: The job's prompt is part of it already.
        cost_nusd: What the CLI counts on from.
    """

    resume: str = ""
    is_fork: bool = False
    has_said: bool = False
    cost_nusd: int = 0


def config_dir(env: Mapping[str, str]) -> Path:
    """Where the CLI keeps its state, for the environment a job runs in."""
    configured = env.get("CLAUDE_CONFIG_DIR")
    return Path(configured) if configured else Path(env.get("HOME") or "/") / ".claude"


def prompt_id(order: Order) -> str:
    """UUID of the message that holds the job's prompt, for a job that goes on with another one's session.

    The CLI writes it into the transcript, and does not hear a second message of the same id in one session (measured).
    """
    return str(uuid5(UUID(order.session_id), f"prompt of {order.job_id}"))


def standing_of(config: Path, order: Order) -> Standing:
    """How the next attempt of this job must begin."""
    session_id, source = order.session_id, order.spec.resume_session
    if not source:
        said = is_resumable(config, session_id)
        return (
            Standing(resume=session_id, has_said=True, cost_nusd=cost_nusd(config, session_id)) if said else Standing()
        )
    if has_said(config, session_id, prompt_id(order)):
        return Standing(resume=session_id, has_said=True, cost_nusd=cost_nusd(config, session_id))
    if order.spec.fork:
        _discard(_found(config, session_id))
    return Standing(resume=source, is_fork=order.spec.fork, cost_nusd=cost_nusd(config, source))


def has_said(config: Path, session_id: str, message_id: str) -> bool:
    """Whether the session holds a user message of this id."""
    needle = f'"uuid":"{UUID(message_id)}"'.encode()
    return any(_is_user(line) for path in _found(config, session_id) for line in _lines_with(path, needle))


def _is_user(line: bytes) -> bool:
    """Whether it is a user message, whole: half a line is what a killed CLI leaves, and nobody hears it."""
    try:
        return json.loads(line)["type"] == "user"
    except (ValueError, TypeError, KeyError):
        return False


def cost_nusd(config: Path, session_id: str) -> int:
    """Cost of the session as the CLI wrote it down when a process of it last ended in order; it counts on from there.

    Not what the session has cost: the part of a killed process is missing from it, as it is from what the CLI counts.
    """
    lines = [line for path in _found(config, session_id) for line in _lines_with(path, _COST_STATE)]
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError):
        return nusd(json.loads(lines[-1])["totalCostUSD"])
    return 0


def is_resumable(config: Path, session_id: str) -> bool:
    """Whether the session has heard a user message: then it is resumed, else it starts fresh.

    A CLI killed in its first moments leaves a transcript without a message. With such a file neither `--resume` works
    ("No conversation found") nor `--session-id` ("already in use"): it is removed. It holds nothing but our own prompt.
    A conversation begun by `/clear` has that command in its transcript from the start: the job's words are what counts.
    """
    found = _found(config, session_id)
    if any(_has_message(path) for path in found):
        return True
    _discard(found)
    return False


def _found(config: Path, session_id: str) -> list[Path]:
    """Its transcripts, the one written last at the end: a session may have been in several directories."""
    found = (config / "projects").glob(f"*/{UUID(session_id)}.jsonl")
    return sorted(found, key=_written_ns)


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _discard(transcripts: list[Path]) -> None:
    for path in transcripts:
        with contextlib.suppress(OSError):
            path.unlink()


def _has_message(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return any(b'"type":"user"' in line and not any(word in line for word in _OF_A_CLEAR) for line in file)
    except OSError:
        return True  # not ours to judge: the CLI will say what it thinks of it


def _lines_with(path: Path, needle: bytes) -> list[bytes]:
    """All lines that hold `needle`. In a string inside the JSON its quotes would be escaped: it is the real thing."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            lines: list[bytes] = []
            at = text.find(needle)
            while at >= 0:
                end = text.find(b"\n", at)
                end = len(text) if end < 0 else end
                lines.append(text[text.rfind(b"\n", 0, at) + 1 : end])
                at = text.find(needle, end)
            return lines
    except (OSError, ValueError):  # gone, or empty
        return []
