"""One greeted connection from a front to the worker. Synchronous, standard library only: the bridge uses it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from claude_jobs.errors import ClaudeJobsError, WorkerLost, WorkerUnavailable
from claude_jobs.rpc.fault import from_fault
from claude_jobs.rpc.offer import Welcome
from claude_jobs.rpc.peer import peer_pid, peer_uid
from claude_jobs.runner.paths import Home, is_private_dir

GREETING_TIMEOUT_S = 10.0
_WELCOME_BYTES = 1 << 16


def connect(home: Home, hello: bytes) -> tuple[socket.socket, Welcome] | None:
    """A socket on which the worker has accepted `hello`, None when nobody listens or the listener just went away.

    Raises:
        ClaudeJobsError: The worker refused us, and says why.
    """
    for place in _places(home):
        sock = _dial(place)
        if sock is None:
            continue
        try:
            return sock, _greet(sock, hello)
        except WorkerLost:
            sock.close()
        except BaseException:
            sock.close()
            raise
    return None


def is_listening(home: Home) -> bool:
    """Whether somebody accepts connections there; says nothing about who."""
    for place in _places(home):
        sock = _dial(place)
        if sock is not None:
            sock.close()
            return True
    return False


def ask(sock: socket.socket, method: str, params: Mapping[str, object]) -> dict[str, object]:
    """One request on a fresh connection of kind "rpc", and the message that answers it; {} if none came."""
    sock.settimeout(GREETING_TIMEOUT_S)
    try:
        sock.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode("ascii") + b"\n")
        return _read_line(sock)
    except OSError:
        return {}


def _places(home: Home) -> Iterator[Path]:
    """Where a worker may listen: where it says, and where one started in our environment would."""
    try:
        noted = Path(home.socket_note.read_text("utf-8", "surrogateescape"))
    except OSError:
        noted = home.socket
    yield noted
    if noted != home.socket:
        yield home.socket


def _dial(place: Path) -> socket.socket | None:
    """A connection to a listener that is certainly ours: it will be told our credentials."""
    if not is_private_dir(place.parent):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(GREETING_TIMEOUT_S)
    try:
        sock.connect(str(place))
        if peer_uid(sock) == place.parent.lstat().st_uid:
            return sock
    except OSError:
        pass  # no file, or nobody listens, or its queue is full: to us all the same
    sock.close()
    return None


def _greet(sock: socket.socket, hello: bytes) -> Welcome:
    try:
        sock.sendall(hello)
        answer = _read_line(sock)
    except TimeoutError as error:
        raise WorkerUnavailable(_silent(peer_pid(sock))) from error
    except OSError as error:
        raise WorkerLost("The worker went away while it was greeted.") from error
    if answer.get("ok") is not True:
        raise _refusal(answer)
    sock.settimeout(None)
    return Welcome(
        version=str(answer.get("version", "")),
        worker=str(answer.get("worker", "")),
        pid=int(cast("int", answer.get("pid", 0))),
    )


def _silent(pid: int) -> str:
    return (
        f"The worker (process {pid}) accepts connections but has said nothing for {GREETING_TIMEOUT_S:.0f} s: it was stopped, "
        f"or the machine is very busy. Let it go on with `kill -CONT {pid}`, or end it with `kill -9 {pid}`: "
        "another one starts and resumes its jobs. See `claude-jobs doctor`."
    )


def _refusal(answer: dict[str, object]) -> ClaudeJobsError:
    error = from_fault(answer)
    error.message = f"The worker refused the connection: {error.message}"
    return error


def _read_line(sock: socket.socket) -> dict[str, object]:
    """The welcome. Nothing follows it before we speak, so reading ahead takes nothing that is not ours."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = sock.recv(_WELCOME_BYTES)
        if not chunk or len(line) > _WELCOME_BYTES:
            raise ConnectionResetError
        line += chunk
    try:
        return cast("dict[str, object]", json.loads(line))
    except ValueError as error:
        raise ConnectionResetError from error
