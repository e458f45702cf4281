"""The MCP server, put together: tools by theme, resources, prompts. One serves any number of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastmcp import FastMCP
from fastmcp.server.lifespan import lifespan

from claude_jobs import __version__
from claude_jobs.mcp_server import prompts, resources
from claude_jobs.mcp_server.adapt import Advice
from claude_jobs.mcp_server.app import McpApp
from claude_jobs.mcp_server.tools import control, generate, submit, watch
from claude_jobs.mcp_server.tools.schema import portable

INSTRUCTIONS = """\
Runs Claude jobs in the background: they are queued durably, go on after this session ends, and survive crashes and limits.
One question, no files: `generate`. Work on files: `spawn`. Many tasks, also with dependencies: `batch`. Then \
`result(job_id, wait_s=110)`, again until it is finished; do not poll `status` in a loop.
A job sees only its prompt and its directory: put all it must know into the prompt, and let jobs that write have separate files.
Ending a wait never ends a job; `cancel` does, with all it spawned. If a reply was lost, call again with the same `key`, or \
look into `status`: unread results come first.
"""

TOOLS = (
    generate.generate,
    submit.spawn,
    submit.batch,
    watch.status,
    watch.result,
    control.cancel,
    control.retry,
    control.list_models,
)


def build_server(app: McpApp) -> FastMCP:
    """The server around `app`."""

    @lifespan
    async def life(_: FastMCP) -> AsyncIterator[dict[str, McpApp]]:
        yield {"app": app}

    server = FastMCP(
        "claude-jobs",
        instructions=INSTRUCTIONS,
        version=__version__,
        lifespan=life,
        middleware=[Advice()],
        mask_error_details=True,
        dereference_schemas=False,  # done once, by `portable`; FastMCP would import a schema library for it
    )
    for tool in TOOLS:
        server.add_tool(portable(tool))
    resources.add_to(server, app)
    prompts.add_to(server, app)
    return server
