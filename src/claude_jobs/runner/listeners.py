"""Who hears a claude process while no attempt does: a `/clear` on its way, answers to requests of ours, and silence.

A process that waits has nothing to say. If it begins a turn nevertheless, somebody else spoke to it (CLIs of one user take
messages from each other over their sockets): it is nobody's clean process any more.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from claude_jobs.runner.stream import Assistant, Init, Measured, Other, Result, ToolResults, parse

Listener = Callable[[Sequence[bytes], bool], None]
"""Gets whole lines of output, and whether these were the last."""
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOISE = (Init, Assistant, ToolResults, Measured, Result)


def nobody(lines: Sequence[bytes], is_end: bool) -> None:
    """Hears nothing."""


class Quiet:
    """Expects no turn. Calls `on_noise` for the first one that begins."""

    def __init__(self, on_noise: Callable[[], None]) -> None:
        self._on_noise = on_noise
        self._is_quiet = True

    def hear(self, lines: Sequence[bytes], is_end: bool) -> None:
        """A Listener."""
        if self._is_quiet and any(isinstance(parse(line), _NOISE) for line in lines):
            self._is_quiet = False
            self._on_noise()


class Clearing:
    """Follows a `/clear` to its end, and expects quiet from then on. What was still said before it is passed over.

    Attributes:
        session_id: That of the next conversation; "" if this claude does not begin another, None if it ends instead.
        init: What the process said of itself when it was cleared.
    """

    def __init__(self, on_noise: Callable[[], None]) -> None:
        self.session_id: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.init: Init | None = None
        self._after = Quiet(on_noise)
        self._is_reset = False

    def hear(self, lines: Sequence[bytes], is_end: bool) -> None:
        """A Listener."""
        for at, line in enumerate(lines):
            if self.session_id.done():
                self._after.hear(lines[at:], is_end)
                break
            self._follow(line)
        if is_end and not self.session_id.done():
            self.session_id.set_result(None)

    def _follow(self, line: bytes) -> None:
        match parse(line):
            case Other(type="conversation_reset"):
                self._is_reset = True
            case Init(session_id=session_id) as init if self._is_reset and _SESSION_ID.fullmatch(session_id):
                self.init = init
            case Result():
                self.session_id.set_result(self.init.session_id if self.init else "")
            case _:
                pass


class Answers:
    """Collects the answers to control requests.

    Attributes:
        are_good: True once all have succeeded, False as soon as one has not; None if it ends or begins a turn instead.
    """

    def __init__(self, request_ids: Collection[str]) -> None:
        self.are_good: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._open = set(request_ids)
        self._noise = Quiet(lambda: self._end(is_good=None))

    def hear(self, lines: Sequence[bytes], is_end: bool) -> None:
        """A Listener."""
        for line in lines:
            self._take(line)
        self._noise.hear(lines, is_end)
        if is_end:
            self._end(is_good=None)

    def _take(self, line: bytes) -> None:
        answer = _answer(line)
        if answer.get("request_id") not in self._open:
            return
        details = answer.get("response")
        errors = cast("dict[str, Any]", details).get("errors") if isinstance(details, dict) else None
        if answer.get("subtype") != "success" or errors:
            self._end(is_good=False)
        self._open.discard(answer["request_id"])
        if not self._open:
            self._end(is_good=True)

    def _end(self, *, is_good: bool | None) -> None:
        if not self.are_good.done():
            self.are_good.set_result(is_good)


def _answer(line: bytes) -> dict[str, Any]:
    """What stands in a control response, nothing for any other line."""
    try:
        told: object = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    message = cast("dict[str, Any]", told)
    response = message.get("response")
    is_answer = message.get("type") == "control_response" and isinstance(response, dict)
    return cast("dict[str, Any]", response) if is_answer else {}
