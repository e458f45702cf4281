"""A tree that grows while it is killed: what is born between the look and the signal is killed, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support_processes import is_running, wait_until

from claude_jobs.runner import proctree

BREEDER = """
import os, signal, sys, time
children = open(sys.argv[1], "a", buffering=1)
for _ in range(4000):
    pid = os.fork()
    if not pid:
        os.setsid()
        time.sleep(600)
    children.write(f"{pid}\\n")
time.sleep(600)
"""
ROUNDS = 5


def test_what_is_born_while_its_tree_is_killed_dies_with_it(tmp_path: Path) -> None:
    for at in range(ROUNDS):
        born = tmp_path / f"born-{at}"
        with subprocess.Popen([sys.executable, "-SEc", BREEDER, str(born)], env={"ROUND": f"{tmp_path}-{at}"}) as root:
            wait_until(lambda born=born: born.exists() and len(born.read_text()) > 200)
            proc = proctree.look(root.pid)
            assert proc is not None
            _, alive = proctree.kill_tree([proc], wait_s=10)
        left = [proc.pid for proc in proctree.table().values() if is_of(proc.pid, f"{tmp_path}-{at}")]
        for pid in left:
            subprocess.run(["kill", "-9", str(pid)], check=False)

        assert alive == []
        assert left == []


def is_of(pid: int, name: str) -> bool:
    return proctree.variable_of(pid, "ROUND") == name and is_running(pid)
