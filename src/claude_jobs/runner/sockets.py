"""Whose end of a loopback TCP connection it is: a job that found the HTTP token must not get past its limits with it.

Linux only; elsewhere nobody is found, and the token alone decides.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from claude_jobs.runner import proctree

_TABLE = Path("/proc/net/tcp")
_LOCAL, _REMOTE, _INODE = 1, 2, 9
"""Columns of the kernel's table of connections."""


def is_held_below(root_pid: int, client: tuple[str, int], server_port: int) -> bool:
    """Whether a descendant of `root_pid` holds the client's end of a connection. This process itself does not count. Blocks for reads.

    Args:
        client: The peer's address and port (IPv4).
    """
    inode = _inode(client, server_port)
    if inode is None:
        return False
    wanted = f"socket:[{inode}]"
    below = (proc.pid for proc in proctree.descendants(root_pid) if proc.pid != os.getpid())
    return any(_holds(pid, wanted) for pid in below)


def _inode(client: tuple[str, int], server_port: int) -> str | None:
    """The socket on the client's side, in the kernel's words."""
    try:
        host = struct.unpack("=I", socket.inet_aton(client[0]))[0]
        local, remote = f"{host:08X}:{client[1]:04X}", f":{server_port:04X}"
        for line in _TABLE.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[_LOCAL] == local and columns[_REMOTE].endswith(remote):
                return columns[_INODE]
    except OSError:
        return None
    return None


def _holds(pid: int, wanted: str) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry) == wanted for entry in entries)
    except OSError:  # it has ended
        return False


def _target(entry: os.DirEntry[str]) -> str:
    try:
        return os.readlink(entry)  # noqa: PTH115 - a Path each costs more than the read
    except OSError:  # closed meanwhile
        return ""
