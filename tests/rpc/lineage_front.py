"""A front of any descent: asks the worker who it is and writes the answer down. `lineage_front.py OUT [HOW]`.

HOW: "" as it is; "orphan": cut off from its parents first; "inherited": over a socket that a dead child has opened.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc import offer
from claude_jobs.rpc.client import connect
from claude_jobs.runner.paths import Home


def orphaned() -> None:
    """Become nobody's child."""
    if os.fork():
        os._exit(0)
    os.setsid()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.01)


def inherited() -> object:
    """What is answered on a connection whose opener, as the kernel knows it, is dead when the hello comes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        child = os.fork()
        if not child:
            sock.connect(str(Home.resolve(os.environ).socket))
            os._exit(0)
        os.waitpid(child, 0)
        sock.sendall(offer.build(os.environ, "rpc"))
        with sock.makefile() as lines:
            answer = json.loads(lines.readline())
    return {"code": answer.get("code"), "error": answer.get("message")}


def asked() -> object:
    """What the worker says to who asks as everybody does."""
    try:
        with connect(start=False) as client:
            return client.call("who", timeout_s=90)
    except ClaudeJobsError as error:
        return {"code": error.code, "error": error.message}


def main() -> None:
    out, how = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    if how == "orphan":
        orphaned()
    said = inherited() if how == "inherited" else asked()
    draft = out.with_suffix(".draft")
    draft.write_text(json.dumps(said))
    draft.rename(out)


main()
