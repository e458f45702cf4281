"""What the events of one attempt add up to. No judgement (verdict.py), no IO; bounded whatever arrives."""

from __future__ import annotations

from claude_jobs.domain.usage import Usage
from claude_jobs.runner.stream import (
    MAX_TEXT_CHARS,
    Assistant,
    Background,
    Denied,
    Event,
    Init,
    Measured,
    RateLimit,
    Result,
    ToolResults,
)

_MAX_DENIED = 100
_MAX_OPEN_TOOLS = 1_000


class Tally:
    """A running sum over the events of one process.

    Attributes:
        result: The last one; a process may give several.
        cost_nusd: What the session has cost, as the last result that told it says; kept when a result is forgiven.
        text: What the model wrote last, for a process that gives no result.
        error: The CLI's own word for the last API error ("rate_limit").
        limit: The last refusal that named its window.
        running_tools: Tools that were asked for and have not answered.
        turns: Answers of the model; those of its sub-agents are not counted.
    """

    def __init__(self) -> None:
        self.init: Init | None = None
        self.result: Result | None = None
        self.cost_nusd: int | None = None
        self.text = ""
        self.error = ""
        self.limit: RateLimit | None = None
        self.denied: list[str] = []
        self.running_tools: set[str] = set()
        self.background = 0
        self.turns = 0
        self.has_answered = False
        self._message_id: str = ""
        self._settled = Usage()
        self._current = Usage()
        self._has_measured = False

    @property
    def usage(self) -> Usage:
        """Tokens of all answers so far, the unfinished one included."""
        return self._settled + self._current

    def see(self, event: Event) -> None:
        """Add one event."""
        match event:
            case Init():
                self.init = event
            case Assistant():
                self._answer(event)
            case ToolResults(ids=ids):
                self.running_tools.difference_update(ids)
            case Measured():
                self._measure(event)
            case RateLimit(status="rejected") if event.window or event.resets_at_ms:
                # Without a window it is the pace that was refused (a plain 429), not the subscription.
                self.limit = event
            case Denied(tool=tool):
                if len(self.denied) < _MAX_DENIED:
                    self.denied.append(tool)
            case Background(running=running):
                self.background = running
            case Result():
                self.result = event
                self.cost_nusd = self.cost_nusd if event.cost_nusd is None else event.cost_nusd
                self.running_tools.clear()
            case _:
                pass

    def forgive(self) -> None:
        """Forget a result that is not the last word: a limit that another credential has got round, an answer sent back."""
        self.result = self.limit = None
        self.error = ""

    def _answer(self, event: Assistant) -> None:
        if event.is_synthetic:
            self.error = event.error or self.error
            return
        self.has_answered = True
        if not self._has_measured and event.message_id != self._message_id:
            self._settled += event.usage
        if event.is_nested:
            return
        if event.message_id != self._message_id:
            self._message_id = event.message_id
            self.turns += 1
            self.text = ""
        self.text = (self.text + event.text)[:MAX_TEXT_CHARS]
        if len(self.running_tools) < _MAX_OPEN_TOOLS:
            self.running_tools.update(use.id for use in event.tool_uses)

    def _measure(self, event: Measured) -> None:
        self._has_measured = True
        if event.is_start:
            self._settled += self._current
            self._current = event.usage
            return
        start, last = self._current, event.usage
        self._current = Usage(
            input_tokens=max(start.input_tokens, last.input_tokens),
            output_tokens=max(start.output_tokens, last.output_tokens),
            cache_read_tokens=max(start.cache_read_tokens, last.cache_read_tokens),
            cache_write_tokens=max(start.cache_write_tokens, last.cache_write_tokens),
        )
