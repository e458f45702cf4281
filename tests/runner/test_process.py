"""One child: its exit is noticed while its pid is still taken, with and without pidfds."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support_processes import PATIENCE_S

from claude_jobs.runner import proctree
from claude_jobs.runner.command import Command
from claude_jobs.runner.process import Child


async def run(root: Path, script: str) -> tuple[int, bytes, bool]:
    """Exit code, output, and whether it was a zombie of ours when its end was told."""
    said: list[bytes] = []
    zombie: list[bool] = []

    def on_zombie() -> None:
        proc = proctree.look(child.proc.pid)
        zombie.append(proc is not None and proc.is_dead)

    command = Command(argv=("/bin/sh", "-c", script), env={}, cwd=str(root), system=b"", prompt=b"", secrets=())
    child = Child(command, on_output=said.append, on_zombie=on_zombie)
    async with asyncio.timeout(PATIENCE_S):
        code = await child.exited
    return code, b"".join(said), zombie == [True]


@pytest.mark.parametrize("has_pidfd", [True, False], ids=["pidfd", "thread"])
@pytest.mark.parametrize(("script", "code"), [("echo hi", 0), ("echo hi; exit 3", 3), ("echo hi; kill -9 $$", -9)])
async def test_exit_is_told_while_the_pid_is_still_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_pidfd: bool, script: str, code: int
) -> None:
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)

    assert await run(tmp_path, script) == (code, b"hi\n", True)
