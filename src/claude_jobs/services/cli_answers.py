"""The provider claude-cli: the same question, answered by a job of the CLI without tools. The caller's Claude account pays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from claude_jobs.domain.generation import (
    Completion,
    Cost,
    FinishReason,
    GenerationRequest,
    Message,
    Provenance,
    Role,
    Text,
    Tokens,
    ToolResult,
    ToolUse,
)
from claude_jobs.domain.job import JobState
from claude_jobs.errors import ProviderTimeout, ProviderUnavailable
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.services.generation_api import Ask
from claude_jobs.services.jobs import JobManager, Situation
from claude_jobs.services.planner import Target
from claude_jobs.services.request import JobRequest

MAX_WAIT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CliAnswer:
    """What the job answered."""

    job_id: str
    completion: Completion
    cost: Cost


class CliAnswers:
    """Asks by job."""

    def __init__(self, jobs: Callable[[], JobManager]) -> None:
        self._jobs = jobs

    async def answer(self, ask: Ask, target: Target, deadline: float) -> CliAnswer:
        """The job's answer.

        Raises:
            ProviderTimeout: It takes longer; the job goes on, and the message names it.
            ProviderUnavailable: The job failed.
            AdmissionError: The job was not accepted.
        """
        jobs = self._jobs()
        request = _job_request(ask, target)
        submitted = await jobs.submit([request], ask.caller)
        job_id = submitted.receipts[0].job.id
        left_s = min(MAX_WAIT_S, max(0.0, deadline - asyncio.get_running_loop().time()))
        last: Situation | None = None
        async for situation in jobs.wait(job_id, left_s, ask.caller):
            last = situation
        assert last is not None, "wait yields at least once"
        if not last.job.is_terminal:
            message = f"Job {job_id!r} goes on. Read its answer with `result {job_id}`."
            late = ProviderTimeout(message, provider=CLAUDE_CLI, model=target.model)
            late.job_id = job_id
            raise late
        await jobs.mark_read(last)
        return _answer(last, target)


def _answer(situation: Situation, target: Target) -> CliAnswer:
    job = situation.job
    outcome = job.outcome
    if job.state is not JobState.SUCCEEDED or outcome is None:
        why = outcome.message if outcome else ""
        message = f"Job {job.id!r} {job.state.value}: {why or 'no answer'}"
        failed = ProviderUnavailable(message, provider=CLAUDE_CLI, model=target.model)
        failed.job_id = job.id
        raise failed
    used = job.usage
    tokens = Tokens(
        input=used.input_tokens,
        output=used.output_tokens,
        cache_read=used.cache_read_tokens,
        cache_write=used.cache_write_tokens,
        provenance=Provenance.REPORTED,
    )
    text = outcome.structured or outcome.text
    completion = Completion(
        parts=(Text(text=text),),
        finish=FinishReason.STOP,
        tokens=tokens,
        model=target.model,
        warnings=_unheard(target.request),
        response_id=job.id,
    )
    return CliAnswer(job_id=job.id, completion=completion, cost=Cost(nusd=used.cost_nusd, price="claude-cli"))


def _job_request(ask: Ask, target: Target) -> JobRequest:
    request = target.request
    data: dict[str, object] = {
        "prompt": _prompt(request.messages),
        "model": target.model,
        "system": request.system,
        "tools": (),
        "project": "none",
        "org": ask.org,
        "priority": max(-1_000, min(1_000, ask.priority)),
    }
    if request.output_schema is not None:
        data["output_schema"] = dict(request.output_schema)
    if request.effort in ("low", "medium", "high"):
        data["effort"] = request.effort
    return JobRequest.parse(data)


def _unheard(request: GenerationRequest) -> tuple[str, ...]:
    """What of the request a job has no way to ask for."""
    asked = {
        "temperature": request.temperature is not None,
        "top_p": request.top_p is not None,
        "stop": bool(request.stop),
        "seed": request.seed is not None,
        "max_output_tokens": request.max_output_tokens is not None,
        "effort none": request.effort == "none",
    }
    return tuple(
        f"{name} is dropped: claude-cli does not let it be set." for name, is_asked in asked.items() if is_asked
    )


def _prompt(messages: tuple[Message, ...]) -> str:
    """One message is the prompt; several are told as a conversation that is to go on."""
    if len(messages) == 1:
        return _said(messages[0])
    turns = [f"{'User' if message.role is Role.USER else 'You'}: {_said(message)}" for message in messages]
    return "This conversation goes on; answer its last message.\n\n" + "\n\n".join(turns)


def _said(message: Message) -> str:
    said: list[str] = []
    for part in message.parts:
        if isinstance(part, Text):
            said.append(part.text)
        elif isinstance(part, ToolUse):
            said.append(f"[called {part.name} with {json.dumps(dict(part.arguments))}]")
        elif isinstance(part, ToolResult):
            said.append(f"[{part.name} answered: {part.text}]")
    return "\n".join(said)
