"""What a dialect is, and what several of them share: replies, pieces of text, figures of usage, headers about limits. Pure."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Protocol

from claude_jobs.rehearsal.call import Asked, Call
from claude_jobs.rehearsal.faults import Fault, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.figures import Rates
from claude_jobs.rehearsal.play import Turn

PIECE_CHARS = 4096
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_PLACE = "\ue000"  # a private character that no reply of a script holds

_OVERLOADS = {RetryAs.REQUESTS_RESET: "requests", RetryAs.TOKENS_RESET: "tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole HTTP answer with a body that is known at once."""

    status: int
    body: bytes
    headers: dict[str, str]


class Wire(Protocol):
    """One dialect: how it asks for an answer, and how it says each turn."""

    stream_type: str
    """Content type of a stream."""

    def parse(self, asked: Asked) -> Call:
        """Understands a request. Raises InvalidRequest if it is none, or its directive is wrong."""
        ...

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        """The answer to a request that does not stream."""
        ...

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        """The answer as a stream."""
        ...

    def broken(self, turn: Turn, call: Call) -> bytes:
        """The event that says an error in the middle of a stream."""
        ...

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        """The error answer for a fault, None if it is not an HTTP error in this dialect."""
        ...

    def complain(self, status: int, message: str) -> Reply:
        """An error about the request itself, in this dialect's form."""
        ...

    def headers(self, turn: Turn) -> dict[str, str]:
        """What an answer says of its key's limits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tokens of an answer, the parts disjoint; `output` is with thinking."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    thinking: int

    @property
    def prompt(self) -> int:
        """All that went in, as most APIs count it."""
        return self.input + self.cache_read + self.cache_write


def counts(turn: Turn, call: Call) -> Counts | None:
    """What the answer says of its usage; None says nothing."""
    match turn.fault:
        case Fault.NO_USAGE:
            return None
        case Fault.ZERO_USAGE:
            return Counts(input=0, output=0, cache_read=0, cache_write=0, thinking=0)
        case Fault.NEGATIVE_USAGE:
            return Counts(input=-7, output=-3, cache_read=0, cache_write=0, thinking=0)
        case Fault.ABSURD_USAGE:
            return Counts(input=10**15, output=10**15, cache_read=0, cache_write=0, thinking=0)
        case _:
            return _counted(turn, call)


def _counted(turn: Turn, call: Call) -> Counts:
    thinking = len(turn.thinking) // 4
    said = len(turn.text) + sum(len(json.dumps(one.input)) for one in turn.calls)
    used = turn.usage
    values = (
        (call.input_tokens, used and used.input),
        (max(1, said // 4) + thinking, used and used.output),
        (0 if call.is_first else call.earlier_tokens, used and used.cache_read),
        (call.earlier_tokens if call.is_first else 0, used and used.cache_write),
        (thinking, used and used.thinking),
    )
    given = [counted if told is None else told for counted, told in values]
    return Counts(input=given[0], output=given[1], cache_read=given[2], cache_write=given[3], thinking=given[4])


def json_reply(body: JsonObject, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(
        status=status,
        body=encode(body).encode(),
        headers={"content-type": "application/json", "request-id": new_id("req_"), **(headers or {})},
    )


def new_id(prefix: str) -> str:
    return f"{prefix}rehearsal_{uuid.uuid4().hex[:20]}"


def sse(data: JsonObject, kind: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {kind}\n" if kind else ""
    return f"{head}data: {encode(data)}\n\n".encode()


def mould(build: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`build`, for many pieces of text: what is the same around them is rendered once."""
    before, after = build(_PLACE).split(f'"{_PLACE}"'.encode())
    return lambda piece: before + encode(piece).encode() + after


def shown_text(turn: Turn) -> str:
    return "" if turn.fault is Fault.EMPTY else turn.text


def shown_thinking(turn: Turn, call: Call) -> str:
    """What is thought, if the request asked to read it."""
    return turn.thinking if call.shows_thinking and turn.fault is not Fault.EMPTY else ""


def pieces(turn: Turn) -> Iterator[str]:
    """The text in as many pieces as are asked for, else at least two, and one for each tenth of a second of the stream."""
    text = shown_text(turn)
    if turn.chunks and text:
        size = len(text)
        for at in range(turn.chunks):
            yield text[at * size // turn.chunks : (at + 1) * size // turn.chunks]
        return
    wanted = max(2, round(turn.duration_s * 10))
    size = max(1, min(PIECE_CHARS, -(-len(text) // wanted)))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def halves(text: str) -> tuple[str, ...]:
    """A short text in two pieces, as arguments and thoughts are streamed."""
    middle = len(text) // 2
    return (text[:middle], text[middle:]) if middle else (text,)


def wait_headers(turn: Turn, default: RetryAs) -> dict[str, str]:
    """How a wait is told in the headers that all dialects but Anthropic's stamps share."""
    seconds = turn.retry_after_s
    if seconds is None:
        return {}
    match turn.retry_after_as or default:
        case RetryAs.SECONDS:
            return {"retry-after": str(math.ceil(seconds))}
        case RetryAs.DATE:
            return {"retry-after": formatdate(math.ceil(turn.at + seconds), usegmt=True)}
        case RetryAs.MS:
            return {"retry-after-ms": str(math.ceil(seconds * 1000))}
        case _:
            return {}


def waiting_rates(turn: Turn) -> Rates | None:
    """The rate-limit figures of a turn; a wait that is told as a reset is one of them."""
    what = turn.retry_after_as and _OVERLOADS.get(turn.retry_after_as)
    if what is None or turn.retry_after_s is None:
        return turn.rate
    if what == "requests":
        return Rates(limit_requests=60, remaining_requests=0, reset_requests_s=turn.retry_after_s)
    return Rates(limit_tokens=60_000, remaining_tokens=0, reset_tokens_s=turn.retry_after_s)


def rate_headers(rates: Rates | None) -> dict[str, str]:
    """`x-ratelimit-*`, resets as "1s", "6m0s", "20ms"."""
    if rates is None:
        return {}
    values = {
        "limit-requests": rates.limit_requests,
        "remaining-requests": rates.remaining_requests,
        "reset-requests": _span(rates.reset_requests_s),
        "limit-tokens": rates.limit_tokens,
        "remaining-tokens": rates.remaining_tokens,
        "reset-tokens": _span(rates.reset_tokens_s),
    }
    return {f"x-ratelimit-{key}": str(value) for key, value in values.items() if value is not None}


def stamp(at: float) -> str:
    """RFC 3339, whole seconds, never too early."""
    return datetime.fromtimestamp(math.ceil(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds else "0s"
    whole, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(whole), 60)
    return (
        (f"{hours}h" if hours else "") + (f"{minutes}m" if whole else "") + f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    )
