"""An attempt that waits for other jobs is not timed meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from runner.support import Told, oauth, order, stand_in

from claude_jobs.domain.job import Failure
from claude_jobs.rehearsal.script import Action, Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import StopReason


async def test_a_held_attempt_outlives_its_times(tmp_path: Path) -> None:
    script = Script(default=Action(reply="late", hold=True))
    async with Rehearsal(script) as api:
        handle = ClaudeCli().start(order(tmp_path, credential=oauth(url=api.url), timeout_s=100.0, stall_s=5.0), Told())
        handle.hold()
        await api.wait_for()
        await asyncio.sleep(5.5)
        handle.go_on()
        api.release()
        outcome = await handle.outcome()

    assert (outcome.failure, outcome.text) == (Failure.NONE, "late")


@pytest.mark.parametrize(("limit", "failure"), [("ceiling_s", Failure.TIMED_OUT), ("stall_s", Failure.STALLED)])
async def test_its_clocks_run_again_when_it_goes_on(tmp_path: Path, limit: str, failure: Failure) -> None:
    claude = stand_in(tmp_path, "sys.stdin.read()")
    handle = ClaudeCli(claude).start(
        order(tmp_path, ceiling_s=0.5 if limit == "ceiling_s" else 60.0, stall_s=0.5 if limit == "stall_s" else 60.0),
        Told(),
    )
    handle.hold()
    ending = asyncio.ensure_future(handle.outcome())
    done, _ = await asyncio.wait([ending], timeout=1.0)
    handle.go_on()
    handle.go_on()

    assert not done
    assert (await ending).failure is failure


async def test_a_held_attempt_can_be_stopped_and_let_go_after_its_end(tmp_path: Path) -> None:
    claude = stand_in(tmp_path, "sys.stdin.read()")
    handle = ClaudeCli(claude).start(order(tmp_path), Told())
    handle.hold()
    handle.stop(StopReason.CANCEL)
    outcome = await handle.outcome()
    handle.go_on()

    assert outcome.failure is Failure.CANCELLED
