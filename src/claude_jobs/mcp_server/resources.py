"""Resources: the log of a job, the recent jobs, and how a call of a provider went, as lines for people."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

from fastmcp import FastMCP
from fastmcp.exceptions import ResourceError

from claude_jobs.domain.event import Event
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.mcp_server.adapt import clean
from claude_jobs.mcp_server.app import McpApp, current_caller
from claude_jobs.mcp_server.tools.texts import explanation, job_line
from claude_jobs.services.views import job_view, one_line
from claude_jobs.stores.base import JobFilter

LOG_LINES = 200
LINE_CHARS = 300
LOG_CHARS = 20_000
EVENTS_PER_READ = 200


def add_to(server: FastMCP, app: McpApp) -> None:
    """Register them."""

    @server.resource("job://recent", name="recent_jobs", mime_type="text/plain")
    async def recent() -> str:
        """The newest jobs; finished ones whose result nobody has read come first."""
        _, situations = await app.jobs.list(JobFilter(unread_first=True), current_caller(app))
        now_ms = app.clock()
        lines = [job_line(asdict(job_view(situation, now_ms))) for situation in situations]
        return clean("\n".join(lines)) or "No jobs yet."

    @server.resource("job://{job_id}/log", name="job_log", mime_type="text/plain")
    async def job_log(job_id: str) -> str:
        """What happened to a job: the newest events."""
        with _told():
            situation = await app.jobs.situation(await app.jobs.get(job_id, current_caller(app)))
        total = 0
        newest = deque[str](maxlen=LOG_LINES)
        async for event in _events(app, job_id):
            total += 1
            newest.append(_line(event))
        return clean(_bounded(job_line(asdict(job_view(situation, app.clock()))), list(newest), total))

    @server.resource("call://{call_id}/explain", name="call_explanation", mime_type="text/plain")
    async def call_explanation(call_id: str) -> str:
        """Where a call of `generate` went and why: what was tried, waited for or skipped, and what it cost."""
        with _told():
            call = await app.oversight.explain(call_id)
        return clean(explanation(call))


@contextmanager
def _told() -> Generator[None]:
    """Our errors as those of a resource."""
    try:
        yield
    except ClaudeJobsError as error:
        raise ResourceError(f"{error.code}: {error.message}", log_level=logging.DEBUG) from error


async def _events(app: McpApp, job_id: str) -> AsyncIterator[Event]:
    after = 0
    while events := await app.jobs.events(after, job_id, EVENTS_PER_READ):
        for event in events:
            yield event
        after = events[-1].seq


def _line(event: Event) -> str:
    at = datetime.fromtimestamp(event.at_ms / 1000, UTC)
    data = " ".join(f"{name}={value}" for name, value in event.data.items() if value not in {None, ""})
    return one_line(f"{at:%H:%M:%S} {event.kind.value} {data}", LINE_CHARS)


def _bounded(head: str, lines: list[str], total: int) -> str:
    size = len(head)
    kept: list[str] = []
    for line in reversed(lines):
        size += len(line) + 1
        if size > LOG_CHARS:
            break
        kept.append(line)
    left_out = total - len(kept)
    note = [f"({left_out} earlier events left out; `claude-jobs logs` shows all)"] if left_out else []
    return "\n".join([head, *note, *reversed(kept)])
