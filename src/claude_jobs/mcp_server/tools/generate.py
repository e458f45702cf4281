"""The tool generate: one question, answered by a job of the CLI or by a provider."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import Context
from fastmcp.dependencies import CurrentContext, Depends
from fastmcp.tools import tool
from pydantic import Field

from claude_jobs.errors import InvalidRequest
from claude_jobs.mcp_server.adapt import Refusal, Reply, advised, clean
from claude_jobs.mcp_server.app import McpApp, current_app, current_caller
from claude_jobs.mcp_server.tools.schema import Key, Maybe, Model, Prompt
from claude_jobs.mcp_server.tools.submit import STARTS_WORK
from claude_jobs.mcp_server.tools.texts import PAGE_CHARS, answer, footer
from claude_jobs.mcp_server.wait import BETWEEN_S, MAX_WAIT_S, QUIET_S, ended
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.services.request import JobRequest
from claude_jobs.services.views import ResultView, one_line, result_view

if TYPE_CHECKING:
    from claude_jobs.domain.generation import Answer

APP = Depends(current_app)
CONTEXT = CurrentContext()


@tool(annotations=STARTS_WORK, output_schema=None, meta={"anthropic/alwaysLoad": True})
@advised
async def generate(
    prompt: Prompt,
    model: Model = "",
    provider: Annotated[str, Field(description="openai, claude, gemini, llama, grok or qwen")] = "",
    system: str = "",
    options: Annotated[
        Maybe[dict[str, Any]],
        Field(description="fallbacks, temperature, max_tokens, output_schema, effort, org, cache (use, refresh, off)"),
    ] = None,
    timeout_s: Annotated[float, Field(description="At most 110", ge=0)] = MAX_WAIT_S,
    key: Key = "",
    app: McpApp = APP,
    context: Context = CONTEXT,
) -> Reply:
    """Ask a model one question, without files, and wait. Without provider a Claude job answers; if it takes longer than
    the wait you get its id for `result`. For work on files use `spawn`."""
    given = {**(options or {}), "prompt": prompt, "model": model, "system": system}
    chosen = app.provider_of(provider, model)
    if chosen == CLAUDE_CLI and "fallbacks" not in given:
        return await _by_job(given, min(timeout_s, MAX_WAIT_S), key, app, context)
    if key:
        message = "`key` names jobs; an answer of a provider is kept by itself. Leave it out, or leave out `provider`."
        raise InvalidRequest(message, field="key")
    wait_s = min(timeout_s or MAX_WAIT_S, MAX_WAIT_S)
    return await _by_provider({**given, "provider": provider, "timeout_s": wait_s}, app, context)


async def _by_job(given: dict[str, Any], wait_s: float, key: str, app: McpApp, context: Context) -> Reply:
    request = JobRequest.parse({**given, "key": key, "tools": (), "project": "none"})
    submitted = await app.jobs.submit([request], current_caller(app))
    job_id = submitted.receipts[0].job.id
    situation = await ended(app, context, job_id, wait_s)
    situation = await app.jobs.mark_read(situation)
    view = result_view(situation, app.clock(), max_chars=PAGE_CHARS)
    if view.state in {"failed", "cancelled", "expired"}:
        raise Refusal("job_failed", _failure(view), job_id=job_id)
    paid = footer(view, is_new=submitted.receipts[0].is_new, key=key, payer=submitted.payer)
    extra = {"is_new": submitted.receipts[0].is_new, "key": key, "payer": submitted.payer}
    return Reply(f"{answer(view)}\n\n{paid}", {**asdict(view), **extra}, structured=False)


def _failure(view: ResultView) -> str:
    partial = f" It had written: {view.text[:1000]}" if view.text else ""
    return f"Job {view.job_id!r} {view.state} ({view.error or view.state}): {view.note}{partial}"


async def _by_provider(given: dict[str, Any], app: McpApp, context: Context) -> Reply:
    """Streamed, for the sake of progress; what is kept of it is kept as if it were not."""
    from claude_jobs.domain.generation import Answer
    from claude_jobs.services.generation_request import GenerateRequest
    from claude_jobs.services.generation_view import answer_view

    ask = GenerateRequest.parse({**given, "cache_stream": True}).ask(current_caller(app))
    said: list[str] = []
    found: Answer | None = None
    reporter = asyncio.get_running_loop().create_task(_report(context, said), name="generate progress")
    try:
        async with aclosing(app.generation.stream(ask)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    found = event
                else:
                    said.append(getattr(event, "text", ""))
    finally:
        reporter.cancel()
    assert found is not None, "a stream ends with its answer or an error"
    return Reply(f"{_told(found)}\n\n{_paid(found)}", answer_view(found), structured=False)


async def _report(context: Context, said: list[str]) -> None:
    """What has come, when something has; else that it is still waited for."""
    loop = asyncio.get_running_loop()
    began, told, told_at = loop.time(), 0, loop.time()
    while True:
        await asyncio.sleep(BETWEEN_S)
        now = loop.time()
        if len(said) == told and now - told_at < QUIET_S:
            continue
        told, told_at = len(said), now
        text = "".join(said)
        message = f"{len(text)} characters: …{text[-100:]}" if text else "waiting for the answer"
        await context.report_progress(round(now - began, 3), None, one_line(clean(message), 200))


def _told(found: Answer) -> str:
    completion = found.completion
    text = completion.text
    if len(text) > PAGE_CHARS:
        rest = f"[{PAGE_CHARS} of {len(text)} characters shown. Ask for less, or run `claude-jobs generate` for all.]"
        text = f"{text[:PAGE_CHARS]}\n\n{rest}"
    calls = [f"[calls {call.name} {json.dumps(dict(call.arguments))}]" for call in completion.tool_calls]
    return "\n".join([text, *calls] if text else calls) or "(no text)"


def _paid(found: Answer) -> str:
    """What answered, how it came, and what it cost."""
    tokens, route = found.completion.tokens, found.route
    cost = "price unknown" if found.paid.nusd is None else f"${found.paid.nusd / 1_000_000_000:.6f}"
    finish = "" if found.completion.finish == "stop" else f", ended by {found.completion.finish.value}"
    cached = f", {found.cached} ({found.age_s:.0f} s old)" if found.cached else ""
    tried = sum(step.what == "attempt" for step in found.steps)
    attempts = f", {tried} attempts" if tried > 1 else ""
    warnings = "".join(f" {warning}." for warning in found.completion.warnings)
    return (
        f"[{found.id}: {route.provider}/{route.model}{finish}{cached}{attempts}, "
        f"{tokens.input + tokens.cache_read + tokens.cache_write}+{tokens.output} tokens, {cost}, "
        f"{found.took_ms / 1_000:.1f} s]{warnings}"
    )
