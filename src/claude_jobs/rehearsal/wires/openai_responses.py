"""OpenAI's Responses dialect, which Grok speaks too. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from claude_jobs.rehearsal.call import Asked, Call, Said, json_object, mapping, mappings, string, understand
from claude_jobs.rehearsal.faults import Fault
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.script import ToolCall
from claude_jobs.rehearsal.wires import openai
from claude_jobs.rehearsal.wires.base import Counts, Reply, counts, encode, halves, new_id, pieces, shown_text, sse

_INCOMPLETE: dict[Fault | None, str] = {Fault.CONTENT_FILTER: "content_filter", Fault.MAX_TOKENS: "max_output_tokens"}


class Responses:
    """`POST /v1/responses`."""

    stream_type = "text/event-stream"

    def parse(self, asked: Asked) -> Call:
        data = json_object(asked.body)
        return understand(
            asked,
            data,
            list(_said(data)),
            schema=_schema(data),
            forced=openai.forced(data.get("tools"), data.get("tool_choice")),
            shows_thinking=bool(mapping(data.get("reasoning")).get("summary")),
        )

    def whole(self, turn: Turn, call: Call) -> JsonObject:
        response = _response(call, _status(turn), output=list(_items(turn, call)))
        if turn.fault is Fault.RESPONSE_FAILED:
            return response | {"error": _overload()}
        if turn.fault in _INCOMPLETE:
            response["incomplete_details"] = {"reason": _INCOMPLETE[turn.fault]}
        used = counts(turn, call)
        return response if used is None else response | {"usage": _usage(used)}

    def events(self, turn: Turn, call: Call) -> Iterator[bytes]:
        final = self.whole(turn, call)
        started: JsonObject = {**final, "status": "in_progress", "output": [], "usage": None}
        stream = _Stream()
        yield stream.event("response.created", {"response": started})
        yield stream.event("response.in_progress", {"response": started})
        for at, item in enumerate(mappings(final["output"])):
            yield stream.event("response.output_item.added", {"output_index": at, "item": _begun(item)})
            yield from stream.item(at, item, turn)
            yield stream.event("response.output_item.done", {"output_index": at, "item": item})
        yield stream.event(f"response.{final['status']}", {"response": final})

    def broken(self, turn: Turn, call: Call) -> bytes:
        if turn.fault is Fault.RESPONSE_FAILED:
            failed = _response(call, "failed", output=[]) | {"error": _overload()}
            return sse({"type": "response.failed", "sequence_number": 99, "response": failed}, "response.failed")
        said: JsonObject = {"type": "error", "sequence_number": 99}
        if turn.fault is Fault.STREAM_ERROR_FLAT:
            return sse({**said, "param": None, **_overload()}, "error")
        return sse({**said, "error": {**openai.overload(), "param": None}}, "error")

    def error(self, fault: Fault, turn: Turn, call: Call) -> Reply | None:
        return openai.error(fault, turn, call)

    def complain(self, status: int, message: str) -> Reply:
        return openai.complain(status, message)

    def headers(self, turn: Turn) -> dict[str, str]:
        return openai.headers(turn)


@dataclass(slots=True)
class _Stream:
    """Events carry a running number."""

    number: int = -1

    def event(self, kind: str, data: JsonObject) -> bytes:
        self.number += 1
        return sse({"type": kind, "sequence_number": self.number, **data}, kind)

    def item(self, at: int, item: JsonObject, turn: Turn) -> Iterator[bytes]:
        where: JsonObject = {"item_id": item["id"], "output_index": at}
        match item["type"]:
            case "message":
                yield from self._message(where, mappings(item["content"])[0], turn)
            case "function_call":
                arguments = string(item["arguments"])
                for piece in halves(arguments):
                    yield self.event("response.function_call_arguments.delta", {**where, "delta": piece})
                done: JsonObject = {**where, "name": item["name"], "arguments": arguments}
                yield self.event("response.function_call_arguments.done", done)
            case _:
                yield from self._summary(where, mappings(item["summary"]))

    def _message(self, where: JsonObject, part: JsonObject, turn: Turn) -> Iterator[bytes]:
        where = {**where, "content_index": 0}
        key = "refusal" if part["type"] == "refusal" else "text"
        kind = "response.refusal" if key == "refusal" else "response.output_text"
        yield self.event("response.content_part.added", {**where, "part": {**part, key: ""}})
        # The number differs in each event, so what is around it and the piece is put together by hand.
        tail = f',"item_id":"{where["item_id"]}","output_index":{where["output_index"]},"content_index":0'
        tail += ',"logprobs":[]' if key == "text" else ""
        head = f'event: {kind}.delta\ndata: {{"type":"{kind}.delta","sequence_number":'
        for piece in pieces(turn):
            self.number += 1
            yield f'{head}{self.number}{tail},"delta":{encode(piece)}}}\n\n'.encode()
        yield self.event(f"{kind}.done", {**where, key: part[key], **({"logprobs": []} if key == "text" else {})})
        yield self.event("response.content_part.done", {**where, "part": part})

    def _summary(self, where: JsonObject, parts: list[JsonObject]) -> Iterator[bytes]:
        for index, part in enumerate(parts):
            here = {**where, "summary_index": index}
            text = string(part["text"])
            yield self.event("response.reasoning_summary_part.added", {**here, "part": {**part, "text": ""}})
            for piece in halves(text):
                yield self.event("response.reasoning_summary_text.delta", {**here, "delta": piece})
            yield self.event("response.reasoning_summary_text.done", {**here, "text": text})
            yield self.event("response.reasoning_summary_part.done", {**here, "part": part})


def _said(data: JsonObject) -> Iterator[Said]:
    """The input as messages; function calls that follow one another are one round."""
    given = data.get("input")
    if isinstance(given, str):
        yield Said(role="user", texts=(given,))
        return
    asking = False
    for item in mappings(given):
        kind = item.get("type")
        if kind == "function_call":
            if not asking:
                yield Said(role="assistant", asks=True)
        elif kind == "function_call_output":
            yield Said(role="tool", results=("\n".join(_texts(item.get("output"))),))
        elif kind in (None, "message"):
            yield Said(role=string(item.get("role")), texts=_texts(item.get("content")))
        asking = kind == "function_call" or (asking and kind == "reasoning")


def _texts(content: object) -> tuple[str, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(string(part.get("text")) for part in mappings(content) if "text" in part)


def _schema(data: JsonObject) -> JsonObject | None:
    wanted = mapping(mapping(data.get("text")).get("format"))
    if wanted.get("type") == "json_schema":
        return mapping(wanted.get("schema"))
    return {} if wanted.get("type") == "json_object" else None


def _items(turn: Turn, call: Call) -> Iterator[JsonObject]:
    if turn.thinking and turn.fault is not Fault.EMPTY:
        yield _reasoning(turn, call)
    if text := shown_text(turn):
        yield _message(text, turn)
    for one in turn.calls:
        yield _function_call(one)


def _reasoning(turn: Turn, call: Call) -> JsonObject:
    summary = [{"type": "summary_text", "text": turn.thinking}] if call.shows_thinking else []
    item: JsonObject = {"id": new_id("rs_"), "type": "reasoning", "summary": summary, "status": "completed"}
    wanted = call.data.get("include")
    if isinstance(wanted, list) and "reasoning.encrypted_content" in wanted:
        item["encrypted_content"] = f"rehearsed-{len(turn.thinking)}"
    return item


def _message(text: str, turn: Turn) -> JsonObject:
    part: JsonObject = (
        {"type": "refusal", "refusal": text}
        if turn.fault is Fault.REFUSAL
        else {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    )
    status = "incomplete" if turn.fault in _INCOMPLETE else "completed"
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "status": status, "content": [part]}


def _function_call(one: ToolCall) -> JsonObject:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "call_id": new_id("call_"),
        "name": one.name,
        "arguments": json.dumps(one.input),
        "status": "completed",
    }


def _begun(item: JsonObject) -> JsonObject:
    empty: JsonObject = {"message": {"content": []}, "function_call": {"arguments": ""}, "reasoning": {"summary": []}}
    return {**item, "status": "in_progress", **mapping(empty[string(item["type"])])}


def _status(turn: Turn) -> str:
    if turn.fault is Fault.RESPONSE_FAILED:
        return "failed"
    return "incomplete" if turn.fault in _INCOMPLETE else "completed"


def _response(call: Call, status: str, *, output: list[JsonObject]) -> JsonObject:
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": 1_767_225_600,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": call.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "metadata": {},
        "usage": None,
    }


def _overload() -> JsonObject:
    return {key: value for key, value in openai.overload().items() if key != "type"}


def _usage(used: Counts) -> JsonObject:
    return {
        "input_tokens": used.prompt,
        "input_tokens_details": {"cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.thinking},
        "total_tokens": used.prompt + used.output,
    }
