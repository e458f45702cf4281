"""What a bridge must remember of the JSON-RPC lines it passes, so that a lost worker costs the client as little as possible.

Pure: no IO. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, cast

REPLAY_ID = "claude-jobs:replay"
_LOST = -32000
_PARSE_ERROR = -32700
_LOST_TEXT = (
    "The claude-jobs worker was replaced while this call ran. Accepted jobs are safe and go on: look with `status`, "
    "read with `result`. If this call was to start a job, repeat it with the same `key`; without a key, look first."
)

Message = Mapping[str, object]


def parse(line: bytes) -> Message | None:
    """The JSON-RPC message of a line, None if it is none."""
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def line_of(message: Message) -> bytes:
    """The line of a message."""
    return json.dumps(message).encode("ascii") + b"\n"


def error_line(request_id: object, code: int, text: str) -> bytes:
    """The line that answers a request with an error."""
    return line_of({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})


def unreadable_line() -> bytes:
    """The answer to a line that is not JSON-RPC."""
    return error_line(None, _PARSE_ERROR, "Not a JSON-RPC message: each line must be one JSON object.")


class Asked(NamedTuple):
    """A request that the worker has not answered.

    Attributes:
        line: To be sent again to the next worker; empty for what must not be done twice.
    """

    request_id: object
    method: str
    line: bytes


class Traffic:
    """The requests under way in both directions, and the handshake of the era before 2026-07-28."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._asked_by_worker: set[str] = set()
        self._harmless_tools: frozenset[str] = frozenset()
        self._initialize: Message | None = None
        self._is_initialized = False

    @property
    def is_legacy(self) -> bool:
        """Whether the client opened with `initialize`."""
        return self._initialize is not None

    @property
    def is_idle(self) -> bool:
        """Whether the client waits for nothing."""
        return not self._asked

    def from_client(self, message: Message, line: bytes) -> bool:
        """Note a message on its way to the worker. False: it must not be passed on, its addressee is gone."""
        method = message.get("method")
        if method is None:
            return _key(message.get("id")) in self._asked_by_worker
        if "id" in message:
            self._note_request(message, str(method), line)
        elif method == "notifications/initialized":
            self._is_initialized = True
        elif method == "notifications/cancelled":
            self._asked.pop(_key(_object(message.get("params")).get("requestId")), None)
        return True

    def from_worker(self, message: Message) -> bool:
        """Note a message on its way to the client. False: it is the answer to our own replay."""
        if "method" in message:
            if "id" in message:
                self._asked_by_worker.add(_key(message["id"]))
            return True
        asked = self._asked.pop(_key(message.get("id")), None)
        if asked is not None and asked.method == "tools/list":
            self._harmless_tools |= _read_only(message)
        return message.get("id") != REPLAY_ID

    def answered(self, request_id: object) -> None:
        """Note that the bridge itself has answered a request."""
        self._asked.pop(_key(request_id), None)

    def lost(self) -> tuple[list[bytes], list[bytes]]:
        """The worker is gone: answers for the client now, and lines for the next worker.

        A tool may have done its work, so its call is answered with an error and left to the client. What only reads, or
        carries a key by which a repetition is known, is asked once more, but not twice: the worker may have died of it.
        """
        answers = [error_line(one.request_id, _LOST, _LOST_TEXT) for one in self._asked.values() if not one.line]
        again = [one for one in self._asked.values() if one.line]
        self._asked = {_key(one.request_id): Asked(one.request_id, one.method, b"") for one in again}
        self._asked_by_worker.clear()
        return answers, [one.line for one in again]

    def replay(self) -> list[bytes]:
        """What makes a new worker's connection look like the one before: nothing for a client of the stateless era.

        Two lines: the second must follow the answer to the first.
        """
        if self._initialize is None or not self._is_initialized:
            return []
        first = line_of({**self._initialize, "id": REPLAY_ID})
        return [first, line_of({"jsonrpc": "2.0", "method": "notifications/initialized"})]

    def _note_request(self, message: Message, method: str, line: bytes) -> None:
        if method == "initialize":
            self._initialize = message
        is_repeatable = method != "tools/call" or self._is_repeatable(message.get("params"))
        self._asked[_key(message["id"])] = Asked(message["id"], method, line if is_repeatable else b"")

    def _is_repeatable(self, params: object) -> bool:
        call = _object(params)
        return call.get("name") in self._harmless_tools or bool(_object(call.get("arguments")).get("key"))


def _read_only(listed: Message) -> frozenset[str]:
    """The tools of a list that say they change nothing."""
    tools = _object(listed.get("result")).get("tools")
    described = [_object(tool) for tool in cast("list[object]", tools)] if isinstance(tools, list) else []
    return frozenset(
        str(tool.get("name")) for tool in described if _object(tool.get("annotations")).get("readOnlyHint") is True
    )


def _object(value: object) -> Message:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _key(request_id: object) -> str:
    return json.dumps(request_id)
