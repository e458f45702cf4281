"""Prompts, which clients offer as slash commands, and the completion of job ids."""

from __future__ import annotations

from fastmcp import FastMCP
from mcp.types import CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

from claude_jobs.mcp_server.app import McpApp, current_caller
from claude_jobs.stores.base import JobFilter

COMPLETED = 20


def add_to(server: FastMCP, app: McpApp) -> None:
    """Register them."""
    server.prompt(fan_out)

    @server.completion
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> list[str] | None:
        if argument.name != "job_id":
            return None
        page, _ = await app.jobs.list(JobFilter(limit=200), current_caller(app))
        return [job.id for job in page.jobs if job.id.startswith(argument.value)][:COMPLETED]


def fan_out(task: str) -> str:
    """Split a task into independent jobs, run them side by side, and put the results together."""
    return f"""\
Do this with background jobs of the claude-jobs server:

{task}

1. Split it into independent parts, usually 2 to 12. Parts that write get separate files or directories.
   If it cannot be split, say so and do it yourself.
2. Write each part as a prompt that stands alone: goal, paths, constraints, what to answer with.
   A job sees nothing of this conversation. One that needs another's answer names it in `depends_on`, and
   {{{{id.result}}}} in its prompt is that answer.
3. Start them with one `batch` call with a `key`, so that a lost reply can be asked for again. Tell me the batch id and who pays.
4. Wait with `result(job_id, wait_s=110)`, one job after another. Look into `status(batch=...)` only for what is still missing.
5. Check each answer against its part. Repeat a failed part once: `retry` if it was bad luck, else a better prompt;
   then report it as failed.
6. Put the results together, and name what is uncertain or missing.
"""
