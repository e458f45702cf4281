"""Puts a turn on a connection: whole, streamed, late, or broken on purpose."""

from __future__ import annotations

import asyncio

from claude_jobs.rehearsal.call import Call
from claude_jobs.rehearsal.faults import BREAKS, Fault
from claude_jobs.rehearsal.http import Connection
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.wires.base import Reply, Wire, json_reply

_HTML = b"<!doctype html><html><body><h1>Sign in to this network</h1></body></html>"
_GATEWAY = (
    b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"
)
# What is sent instead of any answer: status, content type, body.
_STRANGE: dict[Fault | None, tuple[int, str, bytes]] = {
    Fault.HTML: (200, "text/html", _HTML),
    Fault.HTML_502: (502, "text/html", _GATEWAY),
    Fault.MALFORMED: (200, "application/json", b'{"type": "message", "content": [{"ty'),
    Fault.OTHER_JSON: (200, "application/json", b'{"ok": true}'),
}
_SIGN_S = 0.05
SILENT = (Fault.DROP, Fault.SILENCE)


def status_of(turn: Turn, error: Reply | None) -> int:
    """The HTTP status of the answer; 0 if there is none."""
    if error is not None:
        return error.status
    if turn.fault in SILENT:
        return 0
    return _STRANGE[turn.fault][0] if turn.fault in _STRANGE else 200


async def perform(connection: Connection, wire: Wire, call: Call, turn: Turn, error: Reply | None) -> None:
    """Says the turn; holding and delaying it is over. Raises ConnectionError when the client leaves."""
    if error is not None:
        await send(connection, error)
    elif turn.fault is Fault.DROP:
        connection.abort()
    elif turn.fault is Fault.SILENCE:
        await connection.hung_up()
    elif turn.fault is Fault.KEEP_ALIVE:
        await connection.start(200, {"content-type": wire.stream_type, "cache-control": "no-cache"})
        await _keep_alive(connection, wire)
    elif turn.fault in _STRANGE:
        status, kind, body = _STRANGE[turn.fault]
        await connection.reply(status, {"content-type": kind}, body)
    elif call.stream:
        await _stream(connection, wire, call, turn)
    else:
        if turn.duration_s:
            await pause(connection, turn.duration_s)
        await _whole(connection, wire, call, turn)


async def send(connection: Connection, reply: Reply) -> None:
    await connection.reply(reply.status, reply.headers, reply.body)


async def pause(connection: Connection, seconds: float) -> None:
    """Waits, but not for a client that is gone."""
    try:
        async with asyncio.timeout(seconds):
            await connection.hung_up()
    except TimeoutError:
        return
    raise ConnectionResetError("the client left during a pause")


async def _stream(connection: Connection, wire: Wire, call: Call, turn: Turn) -> None:
    await connection.start(200, {"content-type": wire.stream_type, "cache-control": "no-cache", **wire.headers(turn)})
    events = list(wire.events(turn, call))
    is_broken = turn.fault in BREAKS
    if is_broken:
        events = events[: len(events) // 2]
    if turn.duration_s:
        for event in events:
            await pause(connection, turn.duration_s / len(events))
            await connection.chunk(event)
    else:
        await connection.chunks(events)
    if is_broken:
        await _break(connection, wire, call, turn)
    else:
        await connection.end()


async def _whole(connection: Connection, wire: Wire, call: Call, turn: Turn) -> None:
    """The answer to a request that does not stream, to which Claude Code falls back when a stream broke."""
    reply = json_reply(wire.whole(turn, call), headers=wire.headers(turn))
    if turn.fault in (Fault.STREAM_ERROR, Fault.STREAM_ERROR_FLAT):
        await send(connection, wire.error(Fault.BUSY, turn, call) or reply)
    elif turn.fault in BREAKS and turn.fault is not Fault.RESPONSE_FAILED:
        await connection.start(reply.status, reply.headers)
        await connection.chunk(reply.body[: len(reply.body) // 2])
        await _break(connection, wire, call, turn)
    else:
        await send(connection, reply)


async def _break(connection: Connection, wire: Wire, call: Call, turn: Turn) -> None:
    match turn.fault:
        case Fault.CUT:
            connection.abort()
        case Fault.STALL:
            await connection.hung_up()
        case Fault.STALL_ALIVE:
            await _keep_alive(connection, wire)
        case Fault.STREAM_ERROR | Fault.STREAM_ERROR_FLAT | Fault.RESPONSE_FAILED:
            await connection.chunk(wire.broken(turn, call))
            await connection.end()
        case Fault.BAD_EVENT:
            await connection.chunk(b'data: {"ty\n\n')
            await connection.end()
        case _:
            await connection.end()


async def _keep_alive(connection: Connection, wire: Wire) -> None:
    """What every reader of the stream passes over, until the client leaves."""
    sign = b": keep-alive\n\n" if "event-stream" in wire.stream_type else b"\n"
    while True:
        await connection.chunk(sign)
        await pause(connection, _SIGN_S)
