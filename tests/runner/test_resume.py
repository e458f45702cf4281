"""A job that goes on with an earlier job's session, or with a copy of it: what is said, what it costs, what a crash does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.support import Ear, Told, oauth, order
from support_processes import PATIENCE_S

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.rehearsal.script import Action, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import Order
from claude_jobs.runner.transcript import Standing, cost_nusd, has_said, prompt_id, standing_of

BASH_HANGS = Action(rounds=((ToolCall(name="Bash", input={"command": "tail -f /dev/null", "description": "wait"}),),))
EARLIER, LATER = "Name an otter.", "Now name a heron."


async def run(the_order: Order, told: Told | None = None) -> Outcome:
    return await ClaudeCli().start(the_order, told or Told()).outcome()


def later(home: Path, first: Order, *, fork: bool, **more: Any) -> Order:
    """The job that goes on with `first`'s session."""
    session_id = str(uuid.uuid4()) if fork else first.session_id
    more.setdefault("credential", first.credential)
    made = order(home, LATER, session_id=session_id, resume_session=first.session_id, fork=fork, **more)
    return replace(made, job_id="later-otter", home_mark=made.home_mark.replace("quiet-otter", "later-otter"))


def transcript(home: Path, session_id: str) -> Path:
    (path,) = home.glob(f".claude/projects/*/{session_id}.jsonl")
    return path


def said(home: Path, session_id: str) -> list[str]:
    """What users said in it, in order."""
    lines = map(json.loads, transcript(home, session_id).read_text().splitlines())
    return [line["message"]["content"] for line in lines if line["type"] == "user" and "promptSource" in line]


@pytest.mark.parametrize("fork", [False, True])
async def test_its_own_words_come_first_and_only_its_own_part_is_charged(tmp_path: Path, fork: bool) -> None:
    async with Rehearsal() as api, Ear(api.url) as ear:
        first = order(tmp_path, EARLIER, credential=oauth(url=ear.url), system="Be brief.")
        one = await run(first)
        before = transcript(tmp_path, first.session_id).read_bytes()
        ear.heard()
        the_order = later(tmp_path, first, fork=fork, system="Be thorough.")
        two = await run(the_order)
        history = ear.heard()

    assert (two.failure, two.text) == (Failure.NONE, "Rehearsed: Now name a heron.")
    assert said(tmp_path, the_order.session_id) == [EARLIER, LATER]
    assert EARLIER in history
    assert "Be thorough." in history
    assert one.usage is not None
    assert two.usage is not None
    assert two.session_cost_nusd == one.usage.cost_nusd + two.usage.cost_nusd
    assert 0 < two.usage.cost_nusd < one.usage.cost_nusd
    assert transcript(tmp_path, first.session_id).read_bytes().startswith(before)
    assert (transcript(tmp_path, first.session_id).read_bytes() == before) is fork


@pytest.mark.parametrize("fork", [False, True])
async def test_after_a_crash_it_continues_and_never_says_its_prompt_twice(tmp_path: Path, fork: bool) -> None:
    async with Rehearsal(Script(rules=(Rule(prompt=LATER, times=1, action=BASH_HANGS),))) as api:
        first = order(tmp_path, EARLIER, credential=oauth(url=api.url), tools=("Bash",))
        one = await run(first)
        the_order = later(tmp_path, first, fork=fork, tools=("Bash",))
        handle = ClaudeCli().start(the_order, told := Told())
        await api.wait_for(lambda request: request.prompt == LATER)
        async with asyncio.timeout(PATIENCE_S):
            while not (told.tools() and has_said(tmp_path / ".claude", the_order.session_id, prompt_id(the_order))):
                await asyncio.sleep(0.01)
        assert told.process is not None
        os.kill(told.process.pid, signal.SIGKILL)
        crashed = await handle.outcome()
        again = await run(the_order)
        more = await run(the_order)

    assert crashed.failure is Failure.CRASHED
    assert (again.failure, more.failure) == (Failure.NONE, Failure.NONE)
    assert said(tmp_path, the_order.session_id) == [EARLIER, LATER, "Continue.", "Continue."]
    assert one.usage is not None
    assert again.usage is not None
    assert 0 < again.usage.cost_nusd < one.usage.cost_nusd


async def test_two_jobs_of_one_session_are_told_apart(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        first = order(tmp_path, EARLIER, credential=oauth(url=api.url))
        second = later(tmp_path, first, fork=False)
        third = replace(second, job_id="third-otter", spec=replace(second.spec, prompt=LATER))
        for the_order in (first, second, third, second):
            await run(the_order)

    assert said(tmp_path, first.session_id) == [EARLIER, LATER, LATER, "Continue."]


async def test_a_copy_that_never_heard_the_prompt_is_made_anew(tmp_path: Path) -> None:
    """What is left of a fork whose process was killed before it had written down what it was told."""
    async with Rehearsal() as api:
        first = order(tmp_path, EARLIER, credential=oauth(url=api.url))
        await run(first)
        the_order = later(tmp_path, first, fork=True)
        source = transcript(tmp_path, first.session_id)
        copied = source.read_text().replace(first.session_id, the_order.session_id)
        source.with_name(f"{the_order.session_id}.jsonl").write_text(copied)
        outcome = await run(the_order)

    assert outcome.failure is Failure.NONE
    assert said(tmp_path, the_order.session_id) == [EARLIER, LATER]


@pytest.mark.parametrize("fork", [False, True])
async def test_a_budget_is_the_jobs_own(tmp_path: Path, fork: bool) -> None:
    async with Rehearsal() as api:
        first = order(tmp_path, EARLIER, credential=oauth(url=api.url))
        one = await run(first)
        assert one.usage is not None
        budget = one.usage.cost_nusd / 2e9
        paid = await run(later(tmp_path, first, fork=fork, max_cost_usd=budget))
        spent = await run(later(tmp_path, first, fork=fork, max_cost_usd=budget, spent_nusd=one.usage.cost_nusd))

    assert paid.failure is Failure.NONE
    assert spent.failure is Failure.BUDGET


async def test_a_session_that_is_gone_is_told_by_name(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        first = order(tmp_path, EARLIER, credential=oauth(url=api.url))
        outcome = await run(later(tmp_path, first, fork=True))

    assert outcome.failure is Failure.SESSION_NOT_FOUND


def test_half_a_line_was_not_heard(tmp_path: Path) -> None:
    the_order = later(tmp_path, order(tmp_path), fork=False)
    path = tmp_path / "projects" / "x" / f"{the_order.session_id}.jsonl"
    path.parent.mkdir(parents=True)
    line = json.dumps({"type": "user", "uuid": prompt_id(the_order), "message": {}}, separators=(",", ":"))
    heard: list[bool] = []
    for text in ("", line[:-5], line, f'{{"type":"x"}}\n{line}\n', line.replace('"user"', '"x"')):
        path.write_text(text)
        heard.append(has_said(tmp_path, the_order.session_id, prompt_id(the_order)))

    assert heard == [False, False, True, True, False]


def test_the_cost_is_what_was_written_down_last(tmp_path: Path) -> None:
    the_order = later(tmp_path, order(tmp_path), fork=False)
    assert cost_nusd(tmp_path, the_order.session_id) == 0
    assert standing_of(tmp_path, the_order) == Standing(resume=the_order.session_id)

    path = tmp_path / "projects" / "x" / f"{the_order.session_id}.jsonl"
    path.parent.mkdir(parents=True)
    states = [f'{{"type":"cost-state","totalCostUSD":{cost}}}' for cost in (0.5, 0.25)]
    path.write_text("\n".join([*states, '{"type":"user"}', ""]))

    assert cost_nusd(tmp_path, the_order.session_id) == 250_000_000
    path.write_text('{"type":"cost-state"}\n')
    assert cost_nusd(tmp_path, the_order.session_id) == 0
