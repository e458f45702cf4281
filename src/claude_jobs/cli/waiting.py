"""Following jobs to their end: one job line by line, many in a live table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection

_TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
STRETCH_S = 30.0
"""A wait is made of stretches, so that a worker that hangs is noticed."""
PAGE_CHARS = 1_000_000

Job = dict[str, Any]


def is_over(job: Job) -> bool:
    """Whether nothing will change any more."""
    return job["state"] in _TERMINAL


def wait_for(worker: Connection, job_id: str) -> Job:
    """The job's result once it has ended; what it does meanwhile is told on stderr."""
    ticker = _Ticker(job_id)
    try:
        job: Job = {}
        while not job or not is_over(job):
            job = worker.call(
                "result", {"job_id": job_id, "wait_s": STRETCH_S, "max_chars": PAGE_CHARS}, on_event=ticker.show
            )
        return whole(worker, job)
    except KeyboardInterrupt:
        ticker.clear()
        output.note(f"Job {job_id} goes on. Get back to it with: claude-jobs result {job_id} --wait")
        raise
    finally:
        ticker.clear()


def fetched(worker: Connection, job_id: str) -> Job:
    """The job's result as it stands, with all of its text."""
    return whole(worker, worker.call("result", {"job_id": job_id, "max_chars": PAGE_CHARS}))


def whole(worker: Connection, job: Job) -> Job:
    """The result with all pages of its text."""
    text, at = job["text"], job["next_offset"]
    while at is not None:
        page = worker.call("result", {"job_id": job["job_id"], "offset": at, "max_chars": PAGE_CHARS})
        text, at = text + page["text"], page["next_offset"]
    return {**job, "text": text, "next_offset": None}


def show_result(job: Job, *, as_json: bool) -> int:
    """Print a result; the exit code is that of its state."""
    code = exits.of_states([job["state"]])
    if as_json:
        output.emit(job)
        return code
    if answer := answer_of(job):
        output.text(answer)
    if code == exits.UNFINISHED:
        output.note(
            f"Job {job['job_id']} is {job['state']}: {output.safe(job['note'])}. Add --wait to follow it to its end."
        )
    elif code:
        output.note(output.safe(" · ".join([f"Job {job['job_id']} {job['state']}: {job['note']}", *_facts(job)])))
    else:
        output.note(_summary(job))
    return code


def answer_of(job: Job) -> str:
    """The answer: as JSON where a schema asked for it, else its text."""
    return json.dumps(job["structured"], ensure_ascii=False) if job["structured"] is not None else job["text"]


def _summary(job: Job) -> str:
    parts = [f"Job {job['job_id']} succeeded in {output.duration(job['elapsed_s'])}"]
    if job["cost_usd"]:
        parts.append(output.dollars(job["cost_usd"]))
    parts += _facts(job)
    if job["session_id"]:
        parts.append(f"claude --resume {job['session_id']}")
    return output.safe(" · ".join(parts))


def _facts(job: Job) -> list[str]:
    """What else there is to know of an end."""
    parts = [f"denied: {', '.join(job['denied'])}"] if job["denied"] else []
    if job["accepted"]:
        parts.append("its check passed")
    if job["corrections"]:
        parts.append("sent back once" if job["corrections"] == 1 else f"sent back {job['corrections']} times")
    if job["worktree"]:
        parts.append(f"changes kept in {job['worktree']}")
    return parts


class _Ticker:
    """One line on stderr that is written over on a terminal; elsewhere a line a change of state."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._is_live = sys.stderr.isatty()
        self._said: tuple[str, ...] = ()
        self._is_drawn = False

    def show(self, job: Job) -> None:
        if is_over(job):
            return
        said = (job["state"], job["reason"])
        line = output.safe(f"{self._job_id} {job['state']}: {job['note']}")
        if self._is_live:
            sys.stderr.write(f"\r\x1b[K{line[: _width()]}")
            sys.stderr.flush()
            self._is_drawn = True
        elif said != self._said:
            output.note(line)
        self._said = said

    def clear(self) -> None:
        if self._is_drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._is_drawn = False


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1


def counted(jobs: Sequence[Job]) -> str:
    """`7 succeeded, 2 running` in a fixed order."""
    order = ("succeeded", "running", "queued", "blocked", "failed", "cancelled", "expired")
    counts = {state: sum(job["state"] == state for job in jobs) for state in order}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
