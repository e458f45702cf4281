"""What a dead owner left is killed; nobody else is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from runner.support import Told, order, stand_in
from support_processes import PATIENCE_S

from claude_jobs.domain.job import ProcessRef
from claude_jobs.runner import proctree
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.sweep import found, sweep

STUBBORN = (
    "import signal,time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(600)"
)

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[subprocess.Popen[bytes]] = []

    def begin(mark: str = "", code: str = STUBBORN, **more: str) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"], **more, **({proctree.MARK: mark} if mark else {})}
        argv = [sys.executable, "-SEc", code]
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.wait()


def ref(pid: int) -> ProcessRef:
    proc = proctree.look(pid)
    assert proc is not None
    return ProcessRef(pid=pid, pgid=proc.pgid, started_ticks=proc.started_ticks, boot_id=proctree.boot_id())


def test_the_marked_are_killed_and_nobody_else(start: Start, tmp_path: Path) -> None:
    mark = f"home{os.getpid()}"
    ours, other_owner, stranger = start(f"{mark}:dead:j:1"), start(f"{mark}:alive:j:1"), start()
    killed = sweep(f"{mark}:dead:")

    assert killed == [ours.pid]
    assert ours.wait() == -signal.SIGKILL
    assert (other_owner.poll(), stranger.poll()) == (None, None)


def test_the_recorded_are_killed_with_what_hangs_below_them(start: Start) -> None:
    family = start(
        code="import subprocess,sys,time\n"
        "subprocess.Popen([sys.executable, '-SEc', 'import time; time.sleep(600)'], start_new_session=True, env={})\n"
        "print(1, flush=True); time.sleep(600)"
    )
    below = proctree.descendants(family.pid)
    killed = sweep(f"nobody{os.getpid()}:", [ref(family.pid)])

    assert len(below) == 1
    assert killed == sorted([family.pid, below[0].pid])
    assert not proctree.is_alive(below[0])


def test_the_sockets_of_the_killed_are_removed_and_no_others(start: Start, tmp_path: Path) -> None:
    mark = f"home{os.getpid()}"
    ours, other = start(f"{mark}:dead:j:1", TMPDIR=str(tmp_path)), start(f"{mark}:alive:j:1", TMPDIR=str(tmp_path))
    sockets = [tmp_path / "cc-socks" / f"{child.pid}.sock" for child in (ours, other)]
    sockets[0].parent.mkdir()
    for socket in sockets:
        socket.touch()
    sweep(f"{mark}:dead:")

    assert [socket.exists() for socket in sockets] == [False, True]


def test_a_recycled_pid_is_not_touched(start: Start) -> None:
    innocent = start()
    true = ref(innocent.pid)
    stale = [
        replace(true, started_ticks=true.started_ticks - 1),
        replace(true, boot_id="another boot"),
        replace(true, started_ticks=0),
    ]
    killed = sweep(f"nobody{os.getpid()}:", stale)

    assert found(true) is not None
    assert killed == []
    assert innocent.poll() is None


def test_an_empty_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="every process"):
        sweep("")


_OWNER = """
import asyncio, sys
from pathlib import Path
from runner.support import Told, order
from claude_jobs.runner.claude_cli import ClaudeCli
async def main():
    handle = ClaudeCli(sys.argv[2]).start(order(Path(sys.argv[1])), Told())
    await handle.outcome()
asyncio.run(main())
"""


async def test_the_cli_dies_with_a_killed_worker(tmp_path: Path) -> None:
    claude = stand_in(tmp_path, 'open("ready", "w").write(str(os.getpid()))\ntime.sleep(600)')
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", _OWNER, str(tmp_path), str(claude), env=env)
    ready = tmp_path / "work" / "ready"
    async with asyncio.timeout(PATIENCE_S):
        while not (ready.exists() and ready.read_text()):
            await asyncio.sleep(0.02)
    cli = proctree.look(int(ready.read_text()))
    assert cli is not None
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(PATIENCE_S):
        while proctree.is_alive(cli):
            await asyncio.sleep(0.01)


async def test_each_attempt_carries_its_mark(tmp_path: Path) -> None:
    the_order = order(tmp_path)
    outcome = (
        await ClaudeCli(stand_in(tmp_path, f'result(os.environ["{proctree.MARK}"])')).start(the_order, Told()).outcome()
    )

    assert outcome.text == the_order.home_mark


def test_proctree_stands_alone(tmp_path: Path) -> None:
    """The keeper loads it by its path, with nothing but the standard library."""
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print([m for m in sys.modules if 'claude' in m])"
    done = subprocess.run(
        [sys.executable, "-ISc", code, str(proctree.__file__)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert done.stdout == "[]\n", done.stderr


def test_the_tree_walk_and_the_table_agree() -> None:
    table = proctree.table()
    own = proctree.look(os.getpid())

    assert own is not None
    assert table[os.getpid()] == own
    assert proctree.ancestors(os.getpid())[0] == os.getppid()
    assert os.getpid() in {proc.pid for proc in proctree.descendants(os.getppid())}
