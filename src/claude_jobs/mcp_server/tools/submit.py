"""Tools that hand in work for files: spawn, batch. Each reply names the jobs, whether they are new, and who pays."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastmcp.dependencies import Depends
from fastmcp.tools import tool
from mcp.types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from claude_jobs.mcp_server.adapt import Reply, advised
from claude_jobs.mcp_server.app import McpApp, current_app, current_caller
from claude_jobs.mcp_server.tools.schema import Cost, Effort, Key, Maybe, Model, Options, Prompt, SharedOptions, Tools
from claude_jobs.mcp_server.tools.texts import job_line, tree_note
from claude_jobs.services.jobs import Situation, Submitted
from claude_jobs.services.request import JobRequest
from claude_jobs.services.views import job_view

APP = Depends(current_app)

STARTS_WORK = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)


@tool(annotations=STARTS_WORK, output_schema=None)
@advised
async def spawn(
    prompt: Prompt,
    model: Model = "",
    cwd: Annotated[str, Field(description="Directory to work in; empty for the session's")] = "",
    tools: Tools = None,
    effort: Effort = "",
    max_cost_usd: Cost = None,
    label: Annotated[str, Field(description="Your name for it", max_length=200)] = "",
    key: Key = "",
    options: Maybe[Options] = None,
    app: McpApp = APP,
) -> Reply:
    """Start one Claude Code agent in the background: it can read and edit files in cwd and outlives this session.
    Returns its job id at once. Then `result` with wait_s. For many tasks use `batch`."""
    request = JobRequest.parse(
        {
            **(options.given() if options else {}),
            "prompt": prompt,
            "model": model,
            "cwd": cwd,
            "tools": tools,
            "effort": effort,
            "max_cost_usd": max_cost_usd,
            "label": label,
            "key": key,
        }
    )
    submitted = await app.jobs.submit([request], current_caller(app))
    job = (await _jobs(app, submitted))[0]
    next_step = f'result(job_id="{job["job_id"]}", wait_s=110)'
    tree = tree_note(submitted.receipts[0].job, app.jobs.limits)
    text = f"{job_line(job)}\n{_effect(submitted, key)} {tree}Paid by {submitted.payer}. Next: {next_step}"
    view = {**job, "key": key, "payer": submitted.payer, "tree": tree.strip(), "next": next_step}
    return Reply(text, view, structured=True)


class Item(BaseModel):
    """One job of a batch."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    id: Maybe[str] = None
    depends_on: Annotated[Maybe[list[str]], Field(description="ids to run after")] = None
    model: Maybe[str] = None
    cwd: Maybe[str] = None
    label: Maybe[str] = None


@tool(annotations=STARTS_WORK, output_schema=None)
@advised
async def batch(
    items: Annotated[list[Item], Field(min_length=1, max_length=200)],
    max_parallel: Annotated[int, Field(description="At most this many at once", ge=1, le=200)] = 8,
    model: Model = "",
    cwd: str = "",
    tools: Tools = None,
    effort: Effort = "",
    key: Key = "",
    fail_fast: Annotated[bool, Field(description="One failure cancels the rest")] = False,
    options: SharedOptions = None,
    app: McpApp = APP,
) -> Reply:
    """Start 1 to 200 agents at once, like `spawn` for each item: all are accepted or none. An item waits for the ids in
    its depends_on, and {{id.result}} in its prompt is that item's answer. Watch with `status(batch=...)`."""
    shared = {**(options or {}), "tools": tools, "effort": effort, "model": model, "cwd": cwd}
    requests = [
        JobRequest.parse({**shared, **item.model_dump(exclude_none=True), "key": f"{key}#{index}" if key else ""})
        for index, item in enumerate(items)
    ]
    submitted = await app.jobs.submit(
        requests, current_caller(app), is_batch=True, max_parallel=max_parallel, fail_fast=fail_fast
    )
    jobs = [{name: job[name] for name in ("job_id", "state", "label", "is_new")} for job in await _jobs(app, submitted)]
    next_step = f'status(batch="{submitted.batch_id}")'
    ids = ", ".join(str(job["job_id"]) for job in jobs)
    tree = tree_note(submitted.receipts[-1].job, app.jobs.limits)
    effect = f"{_effect(submitted, key)} {tree}Paid by {submitted.payer}."
    text = f"{len(jobs)} jobs in batch {submitted.batch_id}: {ids}\n{effect} Next: {next_step}"
    view = {"batch_id": submitted.batch_id, "jobs": jobs, "key": key, "payer": submitted.payer, "next": next_step}
    return Reply(text, {**view, "tree": tree.strip()}, structured=True)


async def _jobs(app: McpApp, submitted: Submitted) -> list[dict[str, object]]:
    """Views of the jobs just handed in. Their place in the queue is left to `status`."""
    now_ms = app.clock()
    situations = [await app.jobs.situation(receipt.job) for receipt in submitted.receipts[:1]]
    situations += [Situation(job=receipt.job) for receipt in submitted.receipts[1:]]
    return [
        {**asdict(job_view(situation, now_ms)), "is_new": receipt.is_new}
        for situation, receipt in zip(situations, submitted.receipts, strict=True)
    ]


def _effect(submitted: Submitted, key: str) -> str:
    old = sum(not receipt.is_new for receipt in submitted.receipts)
    if not old:
        return "New."
    named = "this existing job" if len(submitted.receipts) == 1 else f"{old} existing jobs"
    return f"Key {key!r} named {named}; nothing new was started for it."
