"""Where a request may go: what a model lacks for it, and which of several keys takes it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from claude_jobs.domain.generation import GenerationRequest, Image, ModelCard, Route

ESTIMATE_MARGIN = 0.8
"""An estimate is trusted to be within a fifth: only a prompt that is too long even then is turned away here."""
FIRST_LIMIT = 20.0
"""Where nobody says how many may run at once."""
SMALLEST_LIMIT = 1.0
SEEN = 64
"""Answers of a route whose times are kept: enough for a p95, few enough to follow a provider that changes."""
ENOUGH_SEEN = 20
"""Fewer have no p95."""
LATE_SHARE = 0.25
"""Of REQUEST_TIMEOUT: when an answer is late at a route of which too little is known."""
HEDGE_SHARE = 0.02
HEDGE_STOCK = 2.0
"""Second attempts are at most so many of all calls, over this stock (Dean and Barroso, The Tail at Scale, 2013: 2 % buy most of it)."""


def lacks(card: ModelCard, request: GenerationRequest, input_tokens: int) -> str:
    """What of the request the model cannot do, "" if nothing is known to stand in the way.

    Args:
        input_tokens: Estimated.
    """
    if request.tools and not card.tools:
        return "it has no tools"
    if request.output_schema is not None and not card.json_schema:
        return "it keeps to no JSON schema"
    if not card.vision and any(isinstance(part, Image) for message in request.messages for part in message.parts):
        return "it sees no images"
    if card.context_tokens and input_tokens * ESTIMATE_MARGIN > card.context_tokens:
        return f"its context of {card.context_tokens:,} tokens is smaller than the prompt (about {input_tokens:,})"
    return ""


def job_lacks(request: GenerationRequest) -> tuple[str, str]:
    """What of the request a job of the CLI cannot do: the field, and why; "" for both if it can do it."""
    if request.tools:
        return "tools", "claude-cli takes no tools of yours. Name a provider, or use `spawn`."
    if any(isinstance(part, Image) for message in request.messages for part in message.parts):
        return "messages", "claude-cli takes no images here. Name a provider that does (claude)."
    return "", ""


@dataclass(slots=True)
class Load:
    """What one process has going with one route, and how much it dares: additive increase, multiplicative decrease.

    Attributes:
        limit: Requests at once.
        slow_until: Monotonic seconds; the limit is not cut twice for one overload.
        firsts, wholes: Seconds from asking to the first piece of a stream, and to a whole answer; the latest.
    """

    running: int = 0
    limit: float = FIRST_LIMIT
    slow_until: float = 0.0
    firsts: deque[float] = field(default_factory=lambda: deque[float](maxlen=SEEN))
    wholes: deque[float] = field(default_factory=lambda: deque[float](maxlen=SEEN))

    @property
    def has_room(self) -> bool:
        """Whether one more may start."""
        return self.running < max(1, int(self.limit))

    def went_well(self, most: float) -> None:
        """One more at once per round of clean answers, as far as `most`."""
        self.limit = min(most, self.limit + 1.0 / max(1.0, self.limit))

    def was_refused(self, now_s: float, pause_s: float = 1.0) -> None:
        """Halve it, once per pause: a burst of refusals is one event."""
        if now_s >= self.slow_until:
            self.limit = max(SMALLEST_LIMIT, self.limit / 2)
            self.slow_until = now_s + pause_s


def late_after_s(seen: Sequence[float], request_timeout_s: float) -> float:
    """Seconds after which an answer that has not begun is late: the p95 of those seen, or a share of REQUEST_TIMEOUT."""
    if len(seen) < ENOUGH_SEEN:
        return LATE_SHARE * request_timeout_s
    return sorted(seen)[(95 * len(seen) - 1) // 100]


def two_choices(routes: Sequence[Route], loads: Sequence[Load], rnd: float) -> int:
    """Index of the less loaded of two routes drawn by `rnd` in [0, 1): as good as the best of all, and never a herd.

    Source: Mitzenmacher, The Power of Two Choices (1996). Load is what runs per what is dared.
    """
    count = len(routes)
    if count < 2:
        return 0
    drawn = min(int(rnd * count * (count - 1)), count * (count - 1) - 1)
    first, second = divmod(drawn, count - 1)
    second += second >= first
    return min(first, second, key=lambda at: (loads[at].running + 1) / loads[at].limit)
