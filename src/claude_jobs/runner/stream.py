"""The CLI's stream-json: framing of bytes into lines and parsing of lines into events. Pure, tolerant of what is new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from claude_jobs.domain.token import Window
from claude_jobs.domain.usage import Usage, nusd

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_TEXT_CHARS = 1_000_000
"""A final answer is kept up to this length."""
_PHRASE_CHARS = 120
_SUMMARY_KEYS = ("description", "command", "file_path", "path", "pattern", "url", "query", "prompt", "skill")

Json = Mapping[str, Any]


class LineFramer:
    """Bytes in, whole lines out. A line longer than the cap is skipped and counted, never held."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._pending = bytearray()
        self._is_skipping = False
        self.skipped = 0

    def push(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._hold(first)
            return []
        self._hold(first)
        lines = [*self._release(), *(line for line in rest[:-1] if line)]
        self._hold(rest[-1])
        return lines

    def close(self) -> list[bytes]:
        """The last line, if the stream ended without a newline."""
        return self._release()

    def _hold(self, part: bytes) -> None:
        if self._is_skipping:
            return
        if len(self._pending) + len(part) > self._max:
            self._pending = bytearray()
            self._is_skipping = True
            self.skipped += 1
            return
        self._pending += part

    def _release(self) -> list[bytes]:
        line = bytes(self._pending)
        self._pending = bytearray()
        self._is_skipping = False
        return [line] if line else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """The CLI read a prompt and is about to ask the model."""

    session_id: str
    model: str
    version: str
    tools: tuple[str, ...]
    cwd: str = ""
    permission_mode: str = ""
    socket_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The model asks for a tool. `what` is one short phrase from its input, `path` the file it names."""

    id: str
    name: str
    what: str
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant:
    """One block of a model answer, or a message the CLI made up about an API error (`is_synthetic`)."""

    message_id: str
    text: str
    tool_uses: tuple[ToolUse, ...]
    is_synthetic: bool
    error: str = ""
    is_nested: bool = False
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResults:
    """Tools answered."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Token counts of one answer while it streams; a later one of the same answer replaces the earlier."""

    usage: Usage
    is_start: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What the API said about the subscription's windows."""

    status: str
    resets_at_ms: int | None
    window: str
    windows: Mapping[str, Window]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A tool was not permitted."""

    tool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A tool is still running."""

    tool: str
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """How many background tasks the CLI looks after now."""

    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a turn. `subtype` is "success" for API errors too: `is_error` and the statuses tell."""

    subtype: str
    is_error: bool
    text: str
    errors: tuple[str, ...]
    api_status: int | None
    api_error: str
    terminal_reason: str
    stop_reason: str
    turns: int
    cost_nusd: int | None
    usage: Usage
    denied: tuple[str, ...]
    structured: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Anything else: a sign of life."""

    type: str


Event = Init | Assistant | ToolResults | Measured | RateLimit | Denied | Heartbeat | Background | Result | Other


def parse(line: bytes) -> Event:
    """The event in one line; what is not JSON or not known is `Other`."""
    try:
        raw: object = json.loads(line)
    except (ValueError, RecursionError):
        return Other(type="unparsable")
    if not isinstance(raw, dict):
        return Other(type="unparsable")
    data = cast("Json", raw)
    kind = _str(data, "type")
    parser = _PARSERS.get(kind)
    return parser(data) if parser else Other(type=kind)


def _system(data: Json) -> Event:
    match _str(data, "subtype"):
        case "init":
            return Init(
                session_id=_str(data, "session_id"),
                model=_str(data, "model"),
                version=_str(data, "claude_code_version"),
                tools=tuple(name for name in _list(data, "tools") if isinstance(name, str)),
                cwd=_str(data, "cwd"),
                permission_mode=_str(data, "permissionMode"),
                socket_path=_str(data, "messaging_socket_path"),
            )
        case "permission_denied":
            return Denied(tool=_str(data, "tool_name"))
        case "background_tasks_changed":
            return Background(running=len(_list(data, "tasks")))
        case subtype:
            return Other(type=f"system/{subtype}")


def _assistant(data: Json) -> Event:
    message = _map(data, "message")
    blocks = _maps(message, "content")
    return Assistant(
        message_id=_str(message, "id"),
        text="".join(_str(block, "text") for block in blocks if _str(block, "type") == "text")[:MAX_TEXT_CHARS],
        tool_uses=tuple(_tool_use(block) for block in blocks if _str(block, "type") == "tool_use"),
        is_synthetic=_str(message, "model") == "<synthetic>",
        error=_str(data, "error"),
        is_nested=bool(data.get("parent_tool_use_id")),
        usage=usage_of(_map(message, "usage")),
    )


def _tool_use(block: Json) -> ToolUse:
    arguments = _map(block, "input")
    path = _str(arguments, "file_path") or _str(arguments, "notebook_path")
    return ToolUse(id=_str(block, "id"), name=_str(block, "name"), what=_what(arguments), path=path)


def _what(arguments: Json) -> str:
    for key in _SUMMARY_KEYS:
        value = _str(arguments, key)
        if value:
            return phrase(value)
    return ""


def phrase(text: str) -> str:
    """One short line out of any text."""
    flat = " ".join(text[: _PHRASE_CHARS * 4].split())
    return flat if len(flat) <= _PHRASE_CHARS else flat[: _PHRASE_CHARS - 1] + "…"


def _user(data: Json) -> Event:
    blocks = _maps(_map(data, "message"), "content")
    ids = tuple(_str(block, "tool_use_id") for block in blocks if _str(block, "type") == "tool_result")
    return ToolResults(ids=ids) if ids else Other(type="user")


def _stream_event(data: Json) -> Event:
    event = _map(data, "event")
    match _str(event, "type"):
        case "message_start":
            return Measured(usage=usage_of(_map(_map(event, "message"), "usage")), is_start=True)
        case "message_delta":
            return Measured(usage=usage_of(_map(event, "usage")), is_start=False)
        case kind:
            return Other(type=f"stream_event/{kind}")


def _rate_limit(data: Json) -> Event:
    told = _map(data, "rate_limit_info")
    windows = _map(told, "unifiedWindows")
    return RateLimit(
        status=_str(told, "status"),
        resets_at_ms=_epoch_ms(told, "resetsAt"),
        window=_str(told, "rateLimitType"),
        windows={
            name: Window(utilization=_number(window, "utilization"), resets_at_ms=_epoch_ms(window, "resetsAt") or 0)
            for name, window in ((name, _map(windows, name)) for name in windows)
        },
    )


def _heartbeat(data: Json) -> Event:
    return Heartbeat(tool=_str(data, "tool_name"), elapsed_s=_number(data, "elapsed_time_seconds"))


def _result(data: Json) -> Event:
    cost = data.get("total_cost_usd")
    structured = data.get("structured_output")
    status = data.get("api_error_status")
    denials = _maps(data, "permission_denials")
    return Result(
        subtype=_str(data, "subtype"),
        is_error=data.get("is_error") is True,
        text=_str(data, "result")[:MAX_TEXT_CHARS],
        errors=tuple(text[:2_000] for text in _list(data, "errors")[:10] if isinstance(text, str)),
        api_status=status if isinstance(status, int) else None,
        api_error=_str(data, "api_error"),
        terminal_reason=_str(data, "terminal_reason"),
        stop_reason=_str(data, "stop_reason"),
        turns=int(_number(data, "num_turns")),
        cost_nusd=nusd(cost) if isinstance(cost, int | float) else None,
        usage=usage_of(_map(data, "usage")),
        denied=tuple(_str(denial, "tool_name") for denial in denials),
        structured="" if structured is None else json.dumps(structured)[:MAX_TEXT_CHARS],
        model=next(iter(_map(data, "modelUsage")), ""),
    )


_PARSERS = {
    "system": _system,
    "assistant": _assistant,
    "user": _user,
    "stream_event": _stream_event,
    "rate_limit_event": _rate_limit,
    "tool_progress": _heartbeat,
    "result": _result,
}


def usage_of(counts: Json) -> Usage:
    """Token counts as the API writes them."""
    return Usage(
        input_tokens=int(_number(counts, "input_tokens")),
        output_tokens=int(_number(counts, "output_tokens")),
        cache_read_tokens=int(_number(counts, "cache_read_input_tokens")),
        cache_write_tokens=int(_number(counts, "cache_creation_input_tokens")),
    )


def _epoch_ms(data: Json, key: str) -> int | None:
    seconds = _number(data, key)
    return int(seconds * 1000) if seconds > 0 else None


def _number(data: Json, key: str) -> float:
    value = data.get(key)
    return value if isinstance(value, int | float) and abs(value) < 1e15 else 0


def _str(data: Json, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _list(data: Json, key: str) -> list[Any]:
    value = data.get(key)
    return cast("list[Any]", value) if isinstance(value, list) else []


def _map(data: Json, key: str) -> Json:
    value = data.get(key)
    return cast("Json", value) if isinstance(value, dict) else {}


def _maps(data: Json, key: str) -> list[Json]:
    return [cast("Json", item) for item in _list(data, key) if isinstance(item, dict)]
