"""Who is at the other end of a unix socket, as the kernel knows it."""

from __future__ import annotations

import socket
import struct
import sys

_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2


def peer_uid(sock: socket.socket) -> int:
    """The user id of the peer."""
    if sys.platform == "linux":
        return _ucred(sock)[1]
    _, uid = struct.unpack("2I", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 8))
    return int(uid)


def peer_pid(sock: socket.socket) -> int:
    """The process id of the peer when it connected."""
    if sys.platform == "linux":
        return _ucred(sock)[0]
    return sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)


def _ucred(sock: socket.socket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
