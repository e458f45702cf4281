"""Whose end of a loopback connection it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from claude_jobs.runner.sockets import is_held_below

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CLIENT = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(flush=True); sys.stdin.read()"


def test_the_connection_of_a_child_is_known_and_ones_own_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        argv = [sys.executable, "-c", CLIENT, str(port)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            theirs, their_address = server.accept()
            assert is_held_below(os.getpid(), their_address, port)
            assert not is_held_below(child.pid, ("127.0.0.1", 1), port)
            child.communicate()
        theirs.close()
        with socket.create_connection(("127.0.0.1", port)):
            ours, our_address = server.accept()
            assert not is_held_below(os.getpid(), our_address, port)
        ours.close()
