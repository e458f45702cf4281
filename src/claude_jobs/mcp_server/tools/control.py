"""Tools that are neither work nor its result: cancel, retry and list_models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastmcp.dependencies import Depends
from fastmcp.tools import tool
from mcp.types import ToolAnnotations
from pydantic import Field

from claude_jobs.mcp_server.adapt import Reply, advised
from claude_jobs.mcp_server.app import McpApp, current_app, current_caller
from claude_jobs.mcp_server.tools.model_lists import FEW_MODELS, MOST_MODELS, jobs_text, model_lists, models_text
from claude_jobs.mcp_server.tools.texts import job_line
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.services.jobs import Situation
from claude_jobs.services.views import cancel_view, job_view

APP = Depends(current_app)


@tool(
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    ),
    output_schema=None,
)
@advised
async def cancel(
    job_ids: Annotated[list[str], Field(min_length=1, max_length=200)],
    why: Annotated[str, Field(max_length=200)] = "",
    app: McpApp = APP,
) -> Reply:
    """Stop jobs and all they started, for good. Returns once nothing of them runs, with proof. One unknown id cancels
    none. Files they wrote stay."""
    now_ms = app.clock()
    views = [
        cancel_view(one, now_ms)
        for one in await app.jobs.cancel(
            list(dict.fromkeys(job_ids)), why or "cancelled by its caller", current_caller(app)
        )
    ]
    brief = [
        {name: view[name] for name in ("job_id", "state", "label", "note", "survivors", "cost_usd")} for view in views
    ]
    return Reply("\n".join(job_line(view) for view in views), {"jobs": brief}, structured=True)


@tool(
    annotations=ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
    ),
    output_schema=None,
)
@advised
async def retry(
    job_ids: Annotated[list[str], Field(min_length=1, max_length=200)],
    tree: Annotated[bool, Field(description="Only what failed of or below them")] = False,
    app: McpApp = APP,
) -> Reply:
    """Run jobs again that failed, were cancelled or expired: same id, new session. Then `result`."""
    retried = await app.jobs.retry(list(dict.fromkeys(job_ids)), tree=tree, caller=current_caller(app))
    now_ms = app.clock()
    views = [asdict(job_view(Situation(job=job), now_ms)) for job in retried.jobs]
    brief = [{name: view[name] for name in ("job_id", "state", "label")} for view in views]
    lines = [*(job_line(view) for view in views), *([retried.note] if retried.note else [])]
    return Reply("\n".join(lines), {"jobs": brief, "note": retried.note}, structured=True)


@tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False), output_schema=None)
@advised
async def list_models(provider: str = "", app: McpApp = APP) -> Reply:
    """What `model` takes; with `provider`, all of its."""
    caller = current_caller(app)
    if provider and app.provider_of(provider, "") != CLAUDE_CLI:
        found = model_lists(await app.generation.models(caller, provider), per_provider=MOST_MODELS)
        return Reply(models_text(found), {"providers": found}, structured=True)
    jobs = [asdict(model) for model in await app.models()]
    others = [] if provider else model_lists(await app.generation.models(caller), per_provider=FEW_MODELS)
    return Reply(
        "\n".join([jobs_text(jobs), models_text(others)]), {"models": jobs, "providers": others}, structured=True
    )
