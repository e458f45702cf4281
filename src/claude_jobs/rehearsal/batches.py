"""Batches: Anthropic's message batches, OpenAI's files and batches. Each item is a turn of the script, all end together.

A batch ends after the longest `delay_s` + `duration_s` among its items. The clock comes in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.call import Asked, Call, json_object, mapping, mappings, string
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Play, Turn
from claude_jobs.rehearsal.script import Token
from claude_jobs.rehearsal.wires.anthropic import Messages
from claude_jobs.rehearsal.wires.base import Reply, Wire, encode, json_reply, new_id, stamp
from claude_jobs.rehearsal.wires.openai_chat import ChatCompletions
from claude_jobs.rehearsal.wires.openai_responses import Responses

_DAY_S = 24 * 3600
_WIRES: dict[str, Wire] = {"/v1/chat/completions": ChatCompletions(), "/v1/responses": Responses()}
_CLAUDE = "/v1/messages/batches"
_OPENAI = ("openai", "grok", "qwen")
_PATH = re.compile(r"^/v1/(messages/batches|files|batches)")
_NAME = re.compile(rb'filename="([^"]*)"')

Played = tuple[Call, Turn, int]
"""An item as it is logged: what was asked, the turn, the status it would have had."""


@dataclass(slots=True, kw_only=True)
class _Item:
    custom_id: str
    status: int
    body: JsonObject


@dataclass(slots=True, kw_only=True)
class _Batch:
    id: str
    asked: JsonObject
    created_at: float
    ends_at: float
    items: list[_Item]
    cancelled_at: float | None = None

    def is_over(self, now: float) -> bool:
        return self.cancelled_at is not None or now >= self.ends_at

    def good(self) -> int:
        return sum(1 for item in self.items if item.status == 200)


@dataclass(slots=True)
class Batches:
    """All batches and files of a rehearsal, which is at `url`. `log` hears of each item that is played."""

    play: Play
    log: Callable[[Token, Played], None]
    url: str = ""
    _batches: dict[str, _Batch] = field(default_factory=dict[str, _Batch])
    _files: dict[str, tuple[JsonObject, bytes]] = field(default_factory=dict[str, tuple[JsonObject, bytes]])

    def owns(self, asked: Asked) -> bool:
        """Whether the request is about batches or files."""
        if asked.provider == "claude":
            return asked.path.startswith(_CLAUDE)
        return asked.provider in _OPENAI and asked.path.startswith(("/v1/files", "/v1/batches"))

    def answer(self, asked: Asked, method: str, token: Token, *, now: float) -> Reply | None:
        """The answer to a request about batches or files, None for what is none of these.

        Raises:
            InvalidRequest: What was sent is no batch.
        """
        if not self.owns(asked):
            return None
        rest = _PATH.sub("", asked.path).strip("/").split("/")
        if asked.provider == "claude":
            return self._claude(asked, method, rest, token, now=now)
        if asked.path.startswith("/v1/files"):
            return self._file(asked, method, rest, now=now)
        return self._openai(asked, method, rest, token, now=now)

    def _claude(self, asked: Asked, method: str, path: list[str], token: Token, *, now: float) -> Reply | None:
        match method, path:
            case "POST", [""]:
                requests = mappings(json_object(asked.body).get("requests"))
                items = [(string(one.get("custom_id")), mapping(one.get("params"))) for one in requests]
                batch = self._create("msgbatch_", {}, Messages(), items, asked, token, now=now)
            case "GET", [""]:
                listed = [self._claude_view(batch, now) for batch in self._batches.values()]
                return json_reply({"data": listed, "has_more": False, "first_id": None, "last_id": None})
            case "GET", [batch_id, "results"] if (found := self._batches.get(batch_id)) and found.is_over(now):
                lines = [encode(_claude_result(item, found)) for item in found.items]
                return _lines(lines, "application/x-jsonl")
            case _:
                found = self._known(method, path, now)
                if found is None:
                    return None
                batch = found
        return json_reply(self._claude_view(batch, now))

    def _claude_view(self, batch: _Batch, now: float) -> JsonObject:
        is_over, n = batch.is_over(now), len(batch.items)
        is_cancelled = batch.cancelled_at is not None
        done = batch.good() if is_over and not is_cancelled else 0
        counts = {
            "processing": 0 if is_over else n,
            "succeeded": done,
            "errored": n - done if is_over and not is_cancelled else 0,
            "canceled": n if is_cancelled else 0,
            "expired": 0,
        }
        ended_at = batch.cancelled_at if batch.cancelled_at is not None else batch.ends_at
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if is_over else "in_progress",
            "request_counts": counts,
            "created_at": stamp(batch.created_at),
            "expires_at": stamp(batch.created_at + _DAY_S),
            "ended_at": stamp(ended_at) if is_over else None,
            "archived_at": None,
            "cancel_initiated_at": None if batch.cancelled_at is None else stamp(batch.cancelled_at),
            "results_url": f"{self.url}/anthropic{_CLAUDE}/{batch.id}/results" if is_over else None,
        }

    def _openai(self, asked: Asked, method: str, path: list[str], token: Token, *, now: float) -> Reply | None:
        match method, path:
            case "POST", [""]:
                given = json_object(asked.body)
                wire = _WIRES.get(string(given.get("endpoint")))
                _, content = self._files.get(string(given.get("input_file_id")), ({}, b""))
                if wire is None or not content:
                    raise InvalidRequest("A batch needs an endpoint and an uploaded input_file_id.", field="batch")
                lines = [json_object(line) for line in content.splitlines() if line.strip()]
                items = [(string(one.get("custom_id")), mapping(one.get("body"))) for one in lines]
                batch = self._create("batch_", given, wire, items, asked, token, now=now)
            case "GET", [""]:
                return json_reply({"object": "list", "data": [self._view(one, now) for one in self._batches.values()]})
            case _:
                found = self._known(method, path, now)
                if found is None:
                    return None
                batch = found
        return json_reply(self._view(batch, now))

    def _known(self, method: str, path: list[str], now: float) -> _Batch | None:
        """The batch that is asked about, cancelled first if that is asked."""
        batch = self._batches.get(path[0])
        if batch is not None and (method, path[1:]) == ("POST", ["cancel"]) and not batch.is_over(now):
            batch.cancelled_at = now
            return batch
        return batch if (method, path[1:]) == ("GET", []) else None

    def _file(self, asked: Asked, method: str, path: list[str], *, now: float) -> Reply | None:
        if (method, path) == ("POST", [""]):
            name, content = _uploaded(asked.body)
            return json_reply(self._store(content, name, "batch", now=now))
        if path[0] not in self._files:
            return None
        view, content = self._files[path[0]]
        match method, path[1:]:
            case "GET", []:
                return json_reply(view)
            case "GET", ["content"]:
                return _lines(content.decode().splitlines(), "application/jsonl")
            case "DELETE", []:
                del self._files[path[0]]
                return json_reply({"id": path[0], "object": "file", "deleted": True})
            case _:
                return None

    def _store(self, content: bytes, name: str, purpose: str, *, now: float) -> JsonObject:
        view: JsonObject = {
            "id": new_id("file-"),
            "object": "file",
            "bytes": len(content),
            "created_at": int(now),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self._files[string(view["id"])] = (view, content)
        return view

    def _create(
        self,
        prefix: str,
        given: JsonObject,
        wire: Wire,
        items: list[tuple[str, JsonObject]],
        asked: Asked,
        token: Token,
        *,
        now: float,
    ) -> _Batch:
        if not items:
            raise InvalidRequest("A batch needs at least one request.", field="requests")
        lasts, played = 0.0, list[_Item]()
        for custom_id, params in items:
            body = json.dumps(params).encode()
            call = wire.parse(Asked(provider=asked.provider, path=asked.path, body=body))
            turn = self.play.next(token, call, now=now)
            error = wire.error(turn.fault, turn, call) if turn.fault else None
            status, said = (error.status, json_object(error.body)) if error else (200, wire.whole(turn, call))
            lasts = max(lasts, turn.delay_s + turn.duration_s)
            played.append(_Item(custom_id=custom_id, status=status, body=said))
            self.log(token, (call, turn, status))
        batch = _Batch(id=new_id(prefix), asked=given, created_at=now, ends_at=now + lasts, items=played)
        self._batches[batch.id] = batch
        return batch

    def _view(self, batch: _Batch, now: float) -> JsonObject:
        """A batch as OpenAI shows it; its files appear when it is over."""
        is_over = batch.is_over(now)
        if is_over and "output_file_id" not in batch.asked:
            good = [encode(_openai_result(item)) for item in batch.items if item.status == 200]
            bad = [encode(_openai_result(item)) for item in batch.items if item.status != 200]
            batch.asked["output_file_id"] = self._results(good, batch, now)
            batch.asked["error_file_id"] = self._results(bad, batch, now)
        status = "in_progress" if not is_over else "completed" if batch.cancelled_at is None else "cancelled"
        done = batch.good() if is_over and batch.cancelled_at is None else 0
        counts = {"total": len(batch.items), "completed": done, "failed": len(batch.items) - done if is_over else 0}
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.asked.get("endpoint"),
            "input_file_id": batch.asked.get("input_file_id"),
            "completion_window": batch.asked.get("completion_window"),
            "metadata": batch.asked.get("metadata"),
            "status": status,
            "created_at": int(batch.created_at),
            "in_progress_at": int(batch.created_at),
            "expires_at": int(batch.created_at) + _DAY_S,
            "completed_at": int(batch.ends_at) if status == "completed" else None,
            "cancelled_at": None if batch.cancelled_at is None else int(batch.cancelled_at),
            "output_file_id": batch.asked.get("output_file_id"),
            "error_file_id": batch.asked.get("error_file_id"),
            "request_counts": counts,
        }

    def _results(self, lines: list[str], batch: _Batch, now: float) -> str | None:
        if not lines or batch.cancelled_at is not None:
            return None
        content = "\n".join(lines).encode()
        return string(self._store(content, f"{batch.id}_output.jsonl", "batch_output", now=now)["id"])


def _claude_result(item: _Item, batch: _Batch) -> JsonObject:
    result: JsonObject
    if batch.cancelled_at is not None:
        result = {"type": "canceled"}
    elif item.status == 200:
        result = {"type": "succeeded", "message": item.body}
    else:
        result = {"type": "errored", "error": item.body}
    return {"custom_id": item.custom_id, "result": result}


def _openai_result(item: _Item) -> JsonObject:
    response = {"status_code": item.status, "request_id": new_id("req_"), "body": item.body}
    return {"id": new_id("batch_req_"), "custom_id": item.custom_id, "response": response, "error": None}


def _uploaded(body: bytes) -> tuple[str, bytes]:
    """Name and content of the file in a multipart form; its first line is the delimiter."""
    delimiter = body.split(b"\r\n", 1)[0]
    for part in body.split(delimiter):
        head, _, content = part.partition(b"\r\n\r\n")
        if found := _NAME.search(head):
            return found[1].decode(), content.removesuffix(b"\r\n")
    raise InvalidRequest("There is no file in the form.", field="file")


def _lines(lines: list[str], kind: str) -> Reply:
    return Reply(status=200, body="".join(line + "\n" for line in lines).encode(), headers={"content-type": kind})
