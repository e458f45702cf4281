"""Claude jobs and generation for other programs.

    from claude_jobs.client import AsyncClient

    async with AsyncClient() as claude:
        answer = await claude.generate("Say hello.", provider="openai", model="gpt-5-mini")
        print(answer.text, answer.cost_usd)
        async for piece in claude.stream_generate("Tell a story.", provider="gemini"):
            print(piece.text, end="")

Without asyncio, and as close to the socket as it gets:

    from claude_jobs.client import connect

    with connect() as claude:
        accepted = claude.call("submit", {"items": [{"prompt": "Say hello.", "key": "hello-1"}]})
        job_id = accepted["jobs"][0]["job_id"]
        for progress in claude.stream("result", {"job_id": job_id, "wait_s": 600}):
            print(progress)

A stream's return value is the method's result, here the finished job. Errors are those of `claude_jobs.errors`.
A connection that is closed ends waits and generations, never jobs.
"""

from claude_jobs.client.aio import AsyncClient
from claude_jobs.client.options import BatchOptions, GenerateOptions, JobOptions
from claude_jobs.client.values import (
    BatchAnswer,
    GenerateAnswer,
    Job,
    JobResult,
    Model,
    Models,
    Piece,
    TokenCount,
    ToolCall,
    Usage,
)
from claude_jobs.rpc.client import Client, connect
from claude_jobs.rpc.offer import Welcome
from claude_jobs.runner.paths import Home

__all__ = [
    "AsyncClient",
    "BatchAnswer",
    "BatchOptions",
    "Client",
    "GenerateAnswer",
    "GenerateOptions",
    "Home",
    "Job",
    "JobOptions",
    "JobResult",
    "Model",
    "Models",
    "Piece",
    "TokenCount",
    "ToolCall",
    "Usage",
    "Welcome",
    "connect",
]
