"""The first line of each connection as the worker reads it: who the front is, its environment and its credentials.

`offer` is the front's side of it, in a file of its own because the bridge loads as little as it can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import cast

from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import credentials
from claude_jobs.rpc.offer import PROTOCOL, Kind, Pairs, build, is_inside_job

__all__ = ["Hello", "Lineage", "build", "is_inside_job", "parse", "refusal_line", "welcome_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The job and epoch that the front says it runs in, and the secret that proves it."""

    job: str
    epoch: int
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a front says about itself.

    Attributes:
        pid: Its own word for its process id; `peer_pid` is the kernel's, 0 if the kernel does not tell.
        env: Allow-listed environment, sorted pairs.
        profile: Variables that belong to the credentials, sorted pairs.
        credentials: (name, kind, secret) in order of use.
        keys: (name, secret) of provider keys, in order of use.
        inside_job: The job that it runs in, as the worker found out; never what it says itself.
    """

    kind: Kind
    version: str
    pid: int
    cwd: str
    env: Pairs = field(default=(), repr=False)
    profile: Pairs = field(default=(), repr=False)
    credentials: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    lineage: Lineage | None = None
    peer_pid: int = 0
    inside_job: str = ""


_KINDS = (credentials.OAUTH, credentials.API_KEY)
"""A newer front may offer kinds that we do not know; they are left to a newer worker."""


def parse(line: bytes) -> Hello:
    """The hello in a line.

    Raises:
        InvalidRequest: It is not a hello that we understand.
    """
    try:
        message = cast("dict[str, object]", json.loads(line))
        if message["v"] != PROTOCOL:
            raise InvalidRequest(f"Hello of protocol {message['v']!r}; this worker speaks {PROTOCOL}.", field="v")
        return _hello(message)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"Not a hello: {type(error).__name__}.", field="hello") from error


def _hello(message: dict[str, object]) -> Hello:
    kind = message["kind"]
    if kind not in ("mcp", "rpc"):
        raise InvalidRequest(f"Unknown kind of connection {kind!r}.", field="kind")
    offered = cast("list[dict[str, str]]", message["credentials"])
    return Hello(
        kind=kind,
        version=_text(message["version"]),
        pid=int(cast("int", message["pid"])),
        cwd=_text(message["cwd"]),
        env=_pairs(message["env"]),
        profile=_pairs(message["profile"]),
        credentials=tuple(
            (_text(one["name"]), _text(one["kind"]), _text(one["secret"])) for one in offered if one["kind"] in _KINDS
        ),
        keys=tuple(
            (_text(one["name"]), _text(one["secret"])) for one in cast("list[dict[str, str]]", message.get("keys", ()))
        ),
        lineage=_lineage(message.get("lineage")),
    )


def _lineage(value: object) -> Lineage | None:
    if not value:
        return None
    said = cast("dict[str, object]", value)
    job, epoch = _text(said["job"]), said["epoch"]
    if not isinstance(epoch, int) or not job.isascii():
        raise TypeError("lineage")
    return Lineage(job=job, epoch=epoch, secret=_text(said["secret"]))


def welcome_line(version: str, worker: str, pid: int) -> bytes:
    """The line that accepts a hello."""
    return json.dumps({"ok": True, "version": version, "worker": worker, "pid": pid}).encode("ascii") + b"\n"


def refusal_line(code: str, message: str) -> bytes:
    """The line that refuses one."""
    return json.dumps({"ok": False, "code": code, "message": message}).encode("ascii") + b"\n"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _pairs(value: object) -> Pairs:
    return tuple(sorted((_text(name), _text(text)) for name, text in cast("dict[object, object]", value).items()))
