"""Many jobs followed to their end: drawn over on a terminal, a line a change elsewhere. Both go to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from claude_jobs.cli import output
from claude_jobs.cli.batches import by_ids
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.waiting import counted, is_over

if TYPE_CHECKING:
    from rich.live import Live

POLL_S = 0.25
WAIT_S = 30.0
"""Inside a job the worker waits so long for one job to end before it answers: only who waits there gives its place back."""
BETWEEN_S = 1.0
"""Shortest time between two lines of progress where they are not drawn over."""
_COLUMNS = {"job_id": "JOB", "state": "STATE", "elapsed": "TIME", "name": "WHAT", "note": "NOTE"}

Job = dict[str, Any]
Report = dict[str, Any]


class Display(Protocol):
    """Shows how jobs stand."""

    def show(self, jobs: Sequence[Job]) -> None:
        """The jobs as they are now."""
        ...

    def say(self, line: str) -> None:
        """A line that stays."""
        ...


def follow_batch(worker: Connection, query: dict[str, object]) -> Report:
    """The figures of a batch (`batch_id`, or `job_ids`) once all of it has ended; until then they are shown in one line."""
    with _progress() as shown:
        while True:
            asked_s = time.monotonic()
            report: Report = worker.call("report", {**query, "wait_s": WAIT_S})
            is_over = report["ended"] == report["jobs"]
            shown.show(report, [] if is_over else shown.busy(worker, query))
            if is_over:
                return report
            # A large batch takes longer to look at, and is looked at less often for it.
            time.sleep(max(POLL_S, 4 * (time.monotonic() - asked_s)))


@contextmanager
def _progress() -> Generator[_Progress]:
    """The display that fits stderr."""
    if not sys.stderr.isatty():
        yield _Progress()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield _LiveProgress(live)


class _Progress:
    """A line whenever a job began or ended, at most one a second, and one at the end."""

    def __init__(self) -> None:
        self._said: object = None
        self._said_s = -BETWEEN_S

    def busy(self, worker: Connection, query: dict[str, object]) -> list[Job]:
        """The jobs worth showing beside the line: none."""
        return []

    def show(self, report: Report, busy: Sequence[Job]) -> None:
        """How it stands now."""
        now_s = time.monotonic()
        is_over = report["ended"] == report["jobs"]
        if report["counts"] != self._said and (is_over or now_s - self._said_s >= BETWEEN_S):
            self._said, self._said_s = report["counts"], now_s
            output.note(output.safe(report["line"]))


class _LiveProgress(_Progress):
    """One line that is drawn over, above the jobs that run."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def busy(self, worker: Connection, query: dict[str, object]) -> list[Job]:
        room = max(3, self._live.console.size.height - 4)
        wanted = {"batch_id": query.get("batch_id", ""), "ids": query.get("job_ids", [])}
        states = {"states": ["running", "blocked"], "unread_first": False, "limit": room}
        jobs: list[Job] = worker.call("jobs", {**wanted, **states})["jobs"]
        return jobs

    def show(self, report: Report, busy: Sequence[Job]) -> None:
        from rich.console import Group
        from rich.text import Text

        line = Text(output.safe(report["line"]), style="bold", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(line, output.rich_table([_row(job) for job in busy], _COLUMNS, one_line=True)))


def snapshots(worker: Connection, ids: Sequence[str]) -> Iterator[list[Job]]:
    """The jobs now and again, until all have ended."""
    while True:
        jobs = by_ids(worker, ids)
        yield jobs
        if all(is_over(job) for job in jobs):
            return
        time.sleep(POLL_S)


@contextmanager
def display(total: int, *, columns: dict[str, str] | None = None) -> Generator[Display]:
    """The display that fits stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        yield _Table(live, total, columns or _COLUMNS)


class _Lines:
    """A line for each change of state."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str]] = {}

    def show(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            now = (job["state"], job["reason"])
            if self._states.get(job["job_id"]) != now:
                self._states[job["job_id"]] = now
                output.note(output.safe(_line(job)))

    def say(self, line: str) -> None:
        output.note(output.safe(line))


def _line(job: Job) -> str:
    token = f" on {job['token']}" if job.get("token") and job["state"] == "running" else ""
    what = f"  ({job['label']})" if job["label"] else ""
    return f"{job['job_id']} {job['state']}{token}: {job['note'].removeprefix('queued, ')}{what}"


class _Table:
    """A table that is drawn over, under a bar; only as many rows as fit, those that move first."""

    def __init__(self, live: Live, total: int, columns: dict[str, str]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._live = live
        self._columns = columns
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=total)

    def show(self, jobs: Sequence[Job]) -> None:
        from rich.console import Group

        self._bar.update(self._task, completed=sum(map(is_over, jobs)), description=counted(jobs))
        room = max(3, self._live.console.size.height - 6)
        chosen = list(jobs) if len(jobs) <= room else sorted(jobs, key=is_over)[:room]
        rows = output.rich_table([_row(job) for job in chosen], self._columns, one_line=True)
        self._live.update(Group(self._bar, rows))

    def say(self, line: str) -> None:
        self._live.console.print(output.safe(line), markup=False, highlight=False)


def _row(job: Job) -> Job:
    return {**job, "elapsed": output.duration(job["elapsed_s"]), "name": job["label"] or job["model"]}
