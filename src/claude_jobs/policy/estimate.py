"""Pure guesses of how long an attempt will run: a first one from the task itself, a better one from like jobs. No clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from claude_jobs.domain.job import JobSpec

MIN_SAMPLES = 20
"""Fewer run times of like jobs say nothing about the slow ones among them."""
PERCENTILE = 0.95
MARGIN = 2.0
"""The slowest twentieth may take this much longer than what was seen."""
LEARNED_FLOOR = 0.25
"""A learned guess is never below this share of the first one: a kind of job is not a size of job."""
MAX_PROMPT_S = 600.0
MAX_FILES = 50
"""Files named beyond this many add nothing: such a prompt lists more than it asks to be worked on."""
EXAMINED_CHARS = 50_000
"""File names are looked for in the beginning of a prompt: this runs inside a transaction (measured: 30 ms at worst)."""

_CHARS_PER_S = 200
_PER_FILE_S = 15.0
_BASE_S = {"none": 120.0, "read": 300.0, "write": 420.0, "shell": 600.0}
_EFFORT_FACTOR = {"": 1.0, "low": 0.7, "medium": 1.0, "high": 2.0, "xhigh": 3.0, "max": 4.0}
_SCHEMA_FACTOR = 1.25
"""An answer that does not satisfy its schema is asked for once more."""
_WORKTREE_S = 30.0
"""Checking out a tree, and looking at it afterwards."""
_READING = frozenset({"Read", "Glob", "Grep", "LS", "WebFetch", "WebSearch", "TodoWrite", "ToolSearch"})
_WRITING = _READING | {"Write", "Edit", "MultiEdit", "NotebookEdit"}
_WORD = re.compile(r"[\w./~-]+")
_FILE = re.compile(r"(?!//|www\.)(?:.*/)?[\w-][\w.-]*\.[A-Za-z][A-Za-z0-9]{0,7}", re.DOTALL)
_ABBREVIATIONS = frozenset({"e.g", "i.e", "a.m", "p.m", "u.s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a guess is made from, recorded beside the real run time so that better rules can be learned. No text of the job.

    Attributes:
        files_named: Different file names in the prompt, at most `MAX_FILES`.
        tool_class: The most that its tools can do: none, read, write (files), shell (or other programs).
        effort: As asked for, "" for the model's default.
        schema: Whether its answer must satisfy a JSON Schema.
        worktree: Whether it runs in a git worktree of its own.
    """

    prompt_chars: int
    files_named: int
    tool_class: str
    effort: str
    model: str
    schema: bool
    worktree: bool


def features(spec: JobSpec) -> Features:
    """What is known of a job's size before it runs."""
    return Features(
        prompt_chars=len(spec.prompt),
        files_named=_files_named(spec.prompt),
        tool_class=_tool_class(spec),
        effort=spec.effort,
        model=spec.model,
        schema=bool(spec.output_schema),
        worktree=spec.worktree,
    )


def kind(spec: JobSpec) -> str:
    """The name under which run times of like jobs are kept: "sonnet/write/default"."""
    return f"{spec.model}/{_tool_class(spec)}/{spec.effort or 'default'}"


def estimate_s(spec: JobSpec) -> float:
    """A first guess of the running time, meant to be passed by few: what it costs to be wrong is in `policy.timeouts`."""
    seen = features(spec)
    work_s = _BASE_S[seen.tool_class] + min(seen.prompt_chars / _CHARS_PER_S, MAX_PROMPT_S)
    if seen.tool_class != "none":
        work_s += seen.files_named * _PER_FILE_S
    factor = _EFFORT_FACTOR.get(seen.effort, 1.0) * (_SCHEMA_FACTOR if seen.schema else 1.0)
    return work_s * factor + (_WORKTREE_S if seen.worktree else 0.0)


def learned_s(spec: JobSpec, run_times_ms: Sequence[int]) -> float | None:
    """A guess from how long jobs of the same `kind` ran until they succeeded; None if these are too few.

    Args:
        run_times_ms: In any order; the latest few hundred are enough.
    """
    if len(run_times_ms) < MIN_SAMPLES:
        return None
    ordered = sorted(run_times_ms)
    slow_ms = ordered[min(len(ordered) - 1, int(len(ordered) * PERCENTILE))]
    return max(slow_ms / 1000 * MARGIN, estimate_s(spec) * LEARNED_FLOOR)


def _tool_class(spec: JobSpec) -> str:
    if spec.tools is None:
        return "write"
    names = {rule.split("(", 1)[0].strip() for rule in spec.tools}
    if not names:
        return "read" if spec.nest else "none"
    if names <= _READING:
        return "read"
    return "write" if names <= _WRITING else "shell"


def _files_named(prompt: str) -> int:
    words = {word.rstrip(".-") for word in _WORD.findall(prompt[:EXAMINED_CHARS])}
    return min(sum(_is_file(word) for word in words), MAX_FILES)


def _is_file(word: str) -> bool:
    return _FILE.fullmatch(word) is not None and word.lower() not in _ABBREVIATIONS
