"""Processes as `ps` tells of them, where there is no /proc: the same answers, and not one listing for each question."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from claude_jobs.runner import proctree

FAMILY = (
    "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); print(flush=True); input()"
)


@pytest.fixture
def by_ps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as it is where there is no /proc."""
    spec = importlib.util.spec_from_file_location("proctree_by_ps", proctree.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "system", lambda: "Darwin")
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_tree_is_found_and_killed_with_proof(by_ps: Any, parent: subprocess.Popen[bytes]) -> None:
    root = by_ps.look(parent.pid)
    below = by_ps.descendants(parent.pid)

    signalled, alive = by_ps.kill_tree([root])

    assert len(below) == 1
    assert set(signalled) == {parent.pid, below[0].pid}
    assert alive == []
    assert not [pid for pid in signalled if (proc := proctree.look(pid)) is not None and not proc.is_dead]


def test_one_born_after_the_last_listing_is_alive(by_ps: Any) -> None:
    by_ps.is_alive(by_ps.look(os.getpid()))
    with subprocess.Popen(["sleep", "600"]) as child:
        was_alive = by_ps.is_alive(by_ps.look(child.pid))
        child.kill()

    assert was_alive


def test_many_questions_are_answered_from_one_listing(by_ps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    me = by_ps.look(os.getpid())
    run: Any = subprocess.run
    asked: list[object] = []

    def counted(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return run(*args, **more)

    monkeypatch.setattr(subprocess, "run", counted)
    begun = time.monotonic()

    answers = [by_ps.is_alive(me) for _ in range(200)]

    assert all(answers)
    assert len(asked) <= 2 + (time.monotonic() - begun) / by_ps._PS_FRESH_S


def test_the_way_up_from_a_process_is_the_same(by_ps: Any, parent: subprocess.Popen[bytes]) -> None:
    (below,) = proctree.descendants(parent.pid)

    assert [proc.pid for proc in by_ps.line(below.pid)] == [proc.pid for proc in proctree.line(below.pid)]
    assert [proc.pid for proc in proctree.line(below.pid)][:3] == [below.pid, parent.pid, os.getpid()]
    assert by_ps.line(2**22 + 1) == proctree.line(2**22 + 1) == []
