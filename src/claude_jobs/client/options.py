"""What may be asked for, as keyword arguments. The worker checks it: an InvalidRequest names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Message = Mapping[str, Any]
"""{"role": "user" | "assistant" | "system" | "tool", "content": text or parts, "tool_call_id": of a tool's text}"""


class GenerateOptions(TypedDict, total=False):
    """How a question is to be answered.

    Keys:
        messages: Instead of a prompt.
        provider: openai, claude, gemini, llama, grok, qwen or claude-cli; without one the model tells, else claude-cli.
        tools: {"name", "description", "parameters"}; tool_choice: auto, none, required, or a name.
        output_schema: JSON Schema of the answer.
        fallbacks: "provider", "provider/model" or {"provider", "model"}, tried in order.
        timeout_s: For everything, retries and fallbacks included.
        cache: "refresh" asks anew and stores the answer, "off" neither reads nor stores.
    """

    messages: Sequence[Message]
    provider: str
    model: str
    system: str
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str
    output_schema: Mapping[str, Any]
    max_output_tokens: int
    temperature: float
    top_p: float
    stop: Sequence[str] | str
    seed: int
    effort: Literal["", "none", "low", "medium", "high"]
    metadata: Mapping[str, str]
    org: str
    fallbacks: Sequence[str | Mapping[str, str]]
    timeout_s: float
    cache: Literal["use", "refresh", "off"]
    cache_stream: bool
    priority: int
    hedge: bool


class BatchOptions(GenerateOptions, total=False):
    """What holds for all items that do not say otherwise, and for the batch.

    Keys:
        max_parallel: 0: as many as the worker makes at once.
        batch_key: Your name for it: sent again, answers that were given are not made again.
        economy: Half price within a day, by the batch APIs of claude and openai; others are asked at once.
        cancel_on_leave: With `economy`: end the provider's batch when you leave; else it goes on, and is paid.
    """

    max_parallel: int
    batch_key: str
    economy: bool
    cancel_on_leave: bool


class JobOptions(TypedDict, total=False):
    """How a job is to be run; see `claude-jobs spawn --help`."""

    model: str
    cwd: str
    system: str
    tools: Sequence[str]
    permission_mode: Literal["acceptEdits", "dontAsk", "plan", "bypassPermissions"]
    project: Literal["none", "instructions", "full"]
    effort: Literal["", "low", "medium", "high", "xhigh", "max"]
    max_cost_usd: float
    priority: int
    label: str
    labels: Sequence[str]
    timeout_s: float
    max_attempts: int
    strict: bool
    fresh: bool
    nest: bool
    key: str
    org: str
    depends_on: Sequence[str]
    needs: Literal["all", "any"]
    on: Literal["success", "end"]
    deadline: str | float
    not_before: str | float
    output_schema: Mapping[str, Any]
    worktree: bool
    accept: str
    accept_timeout_s: float
    resume: str
    fork: bool
