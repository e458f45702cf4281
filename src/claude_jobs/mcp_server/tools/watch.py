"""Tools that look: status and result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastmcp import Context
from fastmcp.dependencies import CurrentContext, Depends
from fastmcp.tools import tool
from mcp.types import ToolAnnotations
from pydantic import Field

from claude_jobs.domain.job import PublicState
from claude_jobs.errors import JobNotFound
from claude_jobs.mcp_server.adapt import Reply, advised
from claude_jobs.mcp_server.app import McpApp, current_app, current_caller
from claude_jobs.mcp_server.tools.schema import JobId, Maybe, State
from claude_jobs.mcp_server.tools.texts import PAGE_CHARS, answer, cost, facts, job_line
from claude_jobs.mcp_server.wait import ended
from claude_jobs.services.caller import Caller
from claude_jobs.services.views import CONCISE_CHARS, job_view, result_view
from claude_jobs.stores.base import JobFilter, Page

APP = Depends(current_app)
CONTEXT = CurrentContext()

LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


@tool(annotations=LOOKS, output_schema=None)
@advised
async def status(
    job_ids: Annotated[Maybe[list[str]], Field(description="Left out: all jobs", max_length=200)] = None,
    state: State = "any",
    batch: Annotated[str, Field(description="A batch_id")] = "",
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    cursor: Annotated[str, Field(description="From the page before")] = "",
    app: McpApp = APP,
) -> Reply:
    """Where jobs stand: state, what each is doing, why it waits and how many are ahead, cost; counts of all. Without a
    filter finished jobs whose result nobody has read come first. No output text: that is `result`."""
    ids = tuple(dict.fromkeys(job_ids or ()))
    query = JobFilter(
        ids=ids,
        states=() if state == "any" else (PublicState(state),),
        batch_id=batch,
        unread_first=not ids and not batch and state == "any",
        limit=max(limit, len(ids)),
        cursor=cursor,
    )
    caller = current_caller(app)
    page, situations = await app.jobs.list(query, caller)
    unknown = await _unknown(app, caller, [i for i in ids if i not in {situation.job.id for situation in situations}])
    if unknown and len(unknown) == len(ids):
        raise JobNotFound(unknown[0])
    now_ms = app.clock()
    jobs = [asdict(job_view(situation, now_ms)) for situation in situations]
    head, figures = await _overview(app, caller, page, batch if situations else "")
    lines = [job_line(job) for job in jobs] + [f"{job_id}: no such job" for job_id in unknown]
    more = [f'More: status(cursor="{page.cursor}")'] if page.cursor else []
    view = {**figures, "total": page.total, "jobs": jobs, "unknown": unknown, "cursor": page.cursor}
    return Reply("\n".join([head, *lines, *more]), view, structured=True)


async def _unknown(app: McpApp, caller: Caller, missing: list[str]) -> list[str]:
    """Those that do not exist: one that does may have been left out by the other filters."""
    if not missing:
        return []
    page, _ = await app.jobs.list(JobFilter(ids=tuple(missing), limit=len(missing)), caller)
    there = {job.id for job in page.jobs}
    return [job_id for job_id in missing if job_id not in there]


async def _overview(app: McpApp, caller: Caller, page: Page, batch: str) -> tuple[str, dict[str, object]]:
    """The line above the jobs, and its figures: of the batch, of the caller's tree, or of all jobs."""
    if batch:
        report = await app.jobs.report(JobFilter(batch_id=batch), caller)
        return f"Batch {batch}: {report.line}", {"batch": asdict(report)}
    if caller.inside_job:
        return f"{page.total} jobs in this tree.", {}
    counts = await app.jobs.counts()
    by_state = {name.value: count for name, count in counts.by_state.items() if count}
    said = ", ".join(f"{count} {name}" for name, count in by_state.items()) or "No jobs yet"
    return f"{said}; {counts.unread} unread.", {"counts": by_state, "unread": counts.unread}


@tool(annotations=LOOKS, output_schema=None)
@advised
async def result(
    job_id: JobId,
    wait_s: Annotated[float, Field(description="Wait for the end, at most 110", ge=0)] = 0,
    detail: Annotated[
        Literal["concise", "full"],
        Field(description="concise: text, first 4,000 characters; full: longer pages and all fields as JSON"),
    ] = "concise",
    offset: Annotated[int, Field(description="Character to read from", ge=0)] = 0,
    app: McpApp = APP,
    context: Context = CONTEXT,
) -> Reply:
    """A job's answer, waiting for it if asked to. Ending the wait never ends the job: call again. If the job is not done
    you get its state. `claude --resume` with the session id opens it by hand."""
    situation = await ended(app, context, job_id, wait_s)
    is_full = detail == "full"
    situation = await app.jobs.mark_read(situation)
    view = result_view(situation, app.clock(), offset=offset, max_chars=PAGE_CHARS if is_full else CONCISE_CHARS)
    spent = f"{view.elapsed_s} s{cost(view)}{facts(view)}"
    foot = f"[job {job_id}, {view.state}, {view.model}, {spent}; session {view.session_id}]"
    return Reply(f"{answer(view)}\n\n{foot}", asdict(view), structured=is_full)
