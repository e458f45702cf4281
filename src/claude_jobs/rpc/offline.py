"""What a bridge answers while there is no worker: it stays connected and says why. Pure, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from claude_jobs import __version__
from claude_jobs.rpc.traffic import Message, error_line, line_of

_LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_MODERN = "2026-07-28"
_CAPABILITIES = {"tools": {"listChanged": True}}
_EMPTY_LISTS = {
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}
_STATUS = {
    "name": "status",
    "description": "claude-jobs cannot run at present. Call this to try again and to learn why.",
    "inputSchema": {"type": "object"},
}


def answer(request: Message, cause: str, *, is_legacy: bool) -> bytes:
    """The line that answers a request, with the cause where somebody will read it."""
    result = _result(str(request.get("method")), _params(request), cause)
    if result is None:
        return error_line(request.get("id"), -32603, cause)
    era: dict[str, object] = {} if is_legacy else {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return line_of({"jsonrpc": "2.0", "id": request.get("id"), "result": {**result, **era}})


def _params(request: Message) -> Message:
    found = request.get("params")
    return cast("Message", found) if isinstance(found, dict) else {}


def _result(method: str, params: Mapping[str, object], cause: str) -> Mapping[str, object] | None:
    server = {"name": "claude-jobs", "version": __version__}
    if method == "initialize":
        asked = str(params.get("protocolVersion"))
        version = asked if asked in _LEGACY else _LEGACY[-1]
        return {"protocolVersion": version, "capabilities": _CAPABILITIES, "serverInfo": server, "instructions": cause}
    if method == "server/discover":
        meta = {"io.modelcontextprotocol/serverInfo": server}
        return {"supportedVersions": [_MODERN], "capabilities": _CAPABILITIES, "instructions": cause, "_meta": meta}
    if method == "tools/list":
        return {"tools": [_STATUS]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": cause}], "isError": True}
    if method in _EMPTY_LISTS:
        return {_EMPTY_LISTS[method]: []}
    return {} if method == "ping" else None
