"""A worker for the keeper's tests: journals what it is told and behaves as its first argument says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

behaviour, journal = sys.argv[1], sys.argv[2]
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--keeper-fd") + 1]))
lines = link.makefile("rwb")


def note(**fields: object) -> None:
    with open(journal, "a") as out:  # noqa: PTH123
        out.write(json.dumps({"pid": os.getpid(), **fields}) + "\n")


def tell(**message: object) -> None:
    lines.write(json.dumps(message).encode() + b"\n")
    lines.flush()


held = json.loads(lines.readline())
if behaviour == "config":
    note(event="started")
    sys.exit(os.EX_CONFIG)
if behaviour == "family":
    tell(op="hold", credentials=[{"name": "A", "secret": f"s{held['generation']}" + "x" * 300_000}])
    script = "setsid sh -c 'echo $$; setsid sleep 600 & echo $!; exec sleep 600' & exec sleep 600"
    tree = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert tree.stdout is not None
    family = [tree.pid, int(tree.stdout.readline()), int(tree.stdout.readline())]
    note(event="started", held=held["credentials"], orphans=held["orphans_killed"], family=family)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(event="started")
if behaviour == "waits":
    note(
        event="started", stdin=str(Path("/proc/self/fd/0").readlink()), group=os.getpgid(0), environ=sorted(os.environ)
    )
if behaviour == "release":
    tell(op="release")
    note(event="started")
if behaviour == "done":
    note(event="started")
    tell(op="done")
    sys.exit(0)
if behaviour == "noise":
    lines.write(b"what?\n[1]\n" + b"x" * 1000)
    lines.flush()
    note(event="started")
while lines.readline():
    pass
note(event="keeper gone")
