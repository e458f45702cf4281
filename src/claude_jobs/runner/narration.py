"""What is told about a running attempt: short events for its log, and one phrase for what it does now. Pure."""

from __future__ import annotations

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import Progress
from claude_jobs.domain.usage import Usage
from claude_jobs.runner.redact import redact
from claude_jobs.runner.stream import Assistant, Denied, Event, Heartbeat, Init, ToolResults, ToolUse, phrase
from claude_jobs.runner.tally import Tally


def tell(event: Event, secrets: tuple[str, ...]) -> list[NewEvent]:
    """What of `event` goes into the job's log: never whole texts, never a secret."""
    match event:
        case Assistant(is_synthetic=False, is_nested=False):
            told = [
                NewEvent(kind=EventKind.TOOL, data={"tool": use.name, "what": redact(use.what, secrets)})
                for use in event.tool_uses
            ]
            if event.text.strip():
                text = phrase(redact(event.text, secrets))
                told.insert(0, NewEvent(kind=EventKind.TEXT, data={"text": text}))
            return told
        case Denied(tool=tool):
            return [NewEvent(kind=EventKind.DENIED, data={"tool": tool})]
        case _:
            return []


def doing(event: Event, secrets: tuple[str, ...]) -> str | None:
    """What the job does now; None if `event` does not change it."""
    match event:
        case Init() | ToolResults():
            return "thinking"
        case Assistant(is_synthetic=False, tool_uses=(*_, ToolUse(name=name, what=what))):
            return redact(f"{name}: {what}" if what else name, secrets)
        case Assistant(is_synthetic=False):
            return "writing"
        case Heartbeat(tool=tool, elapsed_s=elapsed_s):
            return f"{tool}: running for {elapsed_s:.0f} s"
        case _:
            return None


def progress(tally: Tally, what: str, *, usage: Usage, now_ms: int) -> Progress:
    """The numbers to show beside it."""
    return Progress(
        doing=what,
        turns=tally.turns,
        input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        at_ms=now_ms,
    )
