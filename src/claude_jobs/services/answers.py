"""Answers and explain records as bytes and text: what the cache and the ledger keep. Exact, compact, without pydantic.

A stored answer is a version byte, a checksum and JSON. What does not read back whole is no answer: a miss, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast
from zlib import crc32

from claude_jobs.domain.generation import (
    Completion,
    Cost,
    FinishReason,
    Image,
    Part,
    Provenance,
    Route,
    Step,
    Text,
    Thinking,
    Tokens,
    ToolResult,
    ToolUse,
)

VERSION = 1
_HEAD = 5
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


def encode(completion: Completion, route: Route, cost: Cost) -> bytes:
    """An answer to keep. The rate-limit headers stay behind: they were of that moment."""
    tokens = completion.tokens
    doc = (
        [_part_doc(part) for part in completion.parts],
        completion.finish,
        (
            tokens.input,
            tokens.output,
            tokens.cache_read,
            tokens.cache_write,
            tokens.cache_write_1h,
            tokens.thinking,
            tokens.provenance,
        ),
        completion.model,
        completion.warnings,
        completion.response_id,
        (route.provider, route.model, route.key),
        (cost.nusd, cost.price),
    )
    body = _ENCODE(doc).encode("utf-8", "surrogatepass")
    return bytes((VERSION,)) + crc32(body).to_bytes(4, "big") + body


def decode(data: bytes) -> tuple[Completion, Route, Cost] | None:
    """What `encode` made; None if it is of another version or damaged."""
    body = data[_HEAD:]
    if data[:1] != bytes((VERSION,)) or data[1:_HEAD] != crc32(body).to_bytes(4, "big"):
        return None
    try:
        return _answer(json.loads(body.decode("utf-8", "surrogatepass")))
    except _UNREADABLE:
        return None


def steps_json(steps: Iterable[Step]) -> str:
    """An explain record as a JSON list of objects, what is empty left out; times to the microsecond."""
    return _ENCODE([_step_doc(step) for step in steps])


def steps_of(text: str) -> tuple[Step, ...]:
    """What `steps_json` made; members that a later version added are passed over. () if it is none."""
    try:
        return tuple(_step(doc) for doc in json.loads(text))
    except _UNREADABLE:
        return ()


def _part_doc(part: Part) -> tuple[object, ...]:
    match part:
        case Text():
            return "text", part.text
        case ToolUse():
            return "call", part.id, part.name, part.arguments, part.signature
        case Thinking():
            return "thinking", part.text, part.signature
        case Image():
            return "image", part.media_type, part.data
        case ToolResult():
            return "result", part.id, part.name, part.text, part.is_error


def _part(doc: list[Any]) -> Part:
    match doc:
        case ["text", text]:
            return Text(text=text)
        case ["call", id_, name, arguments, signature]:
            return ToolUse(id=id_, name=name, arguments=arguments, signature=signature)
        case ["thinking", text, signature]:
            return Thinking(text=text, signature=signature)
        case ["image", media_type, data]:
            return Image(media_type=media_type, data=data)
        case ["result", id_, name, text, is_error]:
            return ToolResult(id=id_, name=name, text=text, is_error=is_error)
        case _:
            raise ValueError("No part of a message.")


def _answer(doc: Any) -> tuple[Completion, Route, Cost]:  # noqa: ANN401 - as json gives it
    parts, finish, counts, model, warnings, response_id, route, cost = doc
    fresh, output, read, write, write_1h, thinking, provenance = counts
    provider, route_model, key = route
    nusd, price = cost
    completion = Completion(
        parts=tuple(_part(part) for part in parts),
        finish=FinishReason(finish),
        tokens=Tokens(
            input=fresh,
            output=output,
            cache_read=read,
            cache_write=write,
            cache_write_1h=write_1h,
            thinking=thinking,
            provenance=Provenance(provenance),
        ),
        model=model,
        warnings=tuple(warnings),
        response_id=response_id,
    )
    return completion, Route(provider=provider, model=route_model, key=key), Cost(nusd=nusd, price=price)


def _step_doc(step: Step) -> dict[str, object]:
    doc: dict[str, object] = {"what": step.what, "outcome": step.outcome, "at_ms": round(step.at_ms, 3)}
    if step.took_ms:
        doc["took_ms"] = round(step.took_ms, 3)
    if step.route is not None:
        doc["route"] = {"provider": step.route.provider, "model": step.route.model, "key": step.route.key}
    if step.why:
        doc["why"] = step.why
    if step.cost is not None:
        doc["cost"] = {"nusd": step.cost.nusd, "price": step.cost.price}
    return doc


def _step(doc: dict[str, Any]) -> Step:
    route = cast(dict[str, str] | None, doc.get("route"))
    cost = cast(dict[str, Any] | None, doc.get("cost"))
    return Step(
        what=doc["what"],
        outcome=doc["outcome"],
        at_ms=doc["at_ms"],
        took_ms=doc.get("took_ms", 0.0),
        route=None
        if route is None
        else Route(provider=route["provider"], model=route["model"], key=route.get("key", "")),
        why=doc.get("why", ""),
        cost=None if cost is None else Cost(nusd=cost["nusd"], price=cost.get("price", "")),
    )
