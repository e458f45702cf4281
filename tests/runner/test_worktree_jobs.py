"""Jobs in git worktrees, with real git and the real CLI: from the first word to what is left."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from runner.support import Ear, Told, oauth, order, stand_in
from runner.warm_support import is_alive, until
from runner.worktree_support import git, nothing_is_left, wanted

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.rehearsal.script import Action, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import Order, StopReason
from claude_jobs.runner.transcript import prompt_id
from claude_jobs.runner.worktree import Worktrees


async def run(the_order: Order, place: Worktrees, told: Told | None = None) -> Outcome:
    cli = ClaudeCli(worktrees=place.path("x").parent)
    return await cli.start(the_order, told or Told()).outcome()


def writes(text: str) -> tuple[ToolCall, ...]:
    return (ToolCall(name="Write", input={"file_path": "{cwd}/new.txt", "content": text}),)


async def test_a_job_that_only_reads_leaves_nothing(repository: Path, place: Worktrees) -> None:
    call = (ToolCall(name="Read", input={"file_path": "{cwd}/b.txt"}),)
    async with Rehearsal(Script(default=Action(rounds=(call,), reply="it says {result}"))) as api:
        the_order = wanted(repository, cwd=repository / "sub", credential=oauth(url=api.url))
        outcome = await run(the_order, place)

    assert outcome.failure is Failure.NONE
    assert "two" in outcome.text
    assert (outcome.worktree, outcome.diff) == ("", "")
    assert nothing_is_left(repository, place)


async def test_the_instructions_of_the_last_commit_hold(repository: Path, place: Worktrees) -> None:
    (repository / "CLAUDE.md").write_text("Answer in Esperanto.")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "house rules")
    (repository / "CLAUDE.md").write_text("Answer in Volapuk.")
    async with Rehearsal() as api, Ear(api.url) as ear:
        await run(wanted(repository, cwd=repository / "sub", credential=oauth(url=ear.url)), place)
        told = ear.heard()

    assert "Esperanto" in told
    assert "Volapuk" not in told


async def test_a_job_that_writes_leaves_its_work_on_a_branch(repository: Path, place: Worktrees) -> None:
    async with Rehearsal(Script(default=Action(rounds=(writes("hello\n"),)))) as api:
        the_order = wanted(repository, credential=oauth(url=api.url), accept='test "$(cat new.txt)" = hello')
        outcome = await run(the_order, place)

    assert outcome.failure is Failure.NONE
    assert outcome.worktree == str(place.path("quiet-otter"))
    assert "+hello" in outcome.diff
    assert not (repository / "new.txt").exists()
    assert git(repository, "branch", "--list", "claude-jobs/*") == "+ claude-jobs/quiet-otter"


async def test_after_a_crash_the_job_goes_on_in_the_same_worktree_and_session(
    repository: Path, place: Worktrees
) -> None:
    hang = (ToolCall(name="Bash", input={"command": "tail -f /dev/null", "description": "wait"}),)
    rules = (Rule(prompt="Say", times=2, action=Action(rounds=(writes("half\n"), hang))),)
    async with Rehearsal(Script(rules=rules, default=Action(reply="done"))) as api:
        the_order = wanted(repository, credential=oauth(url=api.url), tools=("Write", "Bash"))
        handle = ClaudeCli(worktrees=place.path("x").parent).start(the_order, told := Told())
        transcripts = repository.parent / ".claude" / "projects"
        await until(lambda: any("tail -f" in path.read_text() for path in transcripts.glob("*/*.jsonl")))
        assert told.process is not None
        os.kill(told.process.pid, signal.SIGKILL)
        crashed = await handle.outcome()
        outcome = await run(the_order, place)

    assert crashed.failure is Failure.CRASHED
    assert (outcome.failure, outcome.text) == (Failure.NONE, "done")
    assert crashed.worktree == outcome.worktree == str(place.path("quiet-otter"))
    assert "+half" in outcome.diff
    assert api.requests[-1].n_messages > 4
    assert len(list(transcripts.glob(f"*/{the_order.session_id}.jsonl"))) == 1


async def test_a_job_can_go_on_in_a_worktree_with_a_session_from_elsewhere(repository: Path, place: Worktrees) -> None:
    async with Rehearsal() as api:
        first = order(repository.parent, "Name an otter.", cwd=repository, credential=oauth(url=api.url))
        await run(first, place)
        more = {"session_id": first.session_id, "resume_session": first.session_id}
        the_order = wanted(repository, job_id="later-otter", credential=oauth(url=api.url), **more)
        outcome = await run(the_order, place)

    assert outcome.failure is Failure.NONE
    assert prompt_id(the_order) != prompt_id(first)
    assert api.requests[-1].n_messages > 2


async def test_a_session_goes_on_in_a_new_worktree_when_its_own_is_gone(repository: Path, place: Worktrees) -> None:
    async with Rehearsal() as api:
        first = wanted(repository, prompt="Name an otter.", credential=oauth(url=api.url))
        outcome = await run(first, place)
        more = {"session_id": first.session_id, "resume_session": first.session_id}
        later = await run(wanted(repository, job_id="later-otter", credential=oauth(url=api.url), **more), place)

    assert outcome.worktree == ""
    assert later.failure is Failure.NONE
    assert api.requests[-1].n_messages > 2
    assert nothing_is_left(repository, place, "later-otter")


@pytest.mark.parametrize("writes_first", [False, True])
async def test_a_cancelled_job_is_tidied_like_any_other(repository: Path, place: Worktrees, writes_first: bool) -> None:
    claude = stand_in(repository.parent, f'{writes_first} and open("x.txt", "w"); tool(); sys.stdin.read()')
    cli = ClaudeCli(claude, worktrees=place.path("x").parent)
    handle = cli.start(wanted(repository), told := Told())
    await until(lambda: told.tools() != [])
    handle.stop(StopReason.CANCEL)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.CANCELLED
    assert (outcome.worktree != "") is writes_first
    assert nothing_is_left(repository, place) is not writes_first


async def test_a_stop_while_it_is_made_leaves_nothing(repository: Path, place: Worktrees, tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"worktree add"*) echo $$ > {tmp_path}/pid; exec sleep 60;; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    slow.chmod(0o755)
    the_order = wanted(repository)
    env = dict(the_order.spec.env)
    spec = replace(the_order.spec, env=tuple({**env, "PATH": f"{slow.parent}:{env['PATH']}"}.items()))
    handle = ClaudeCli(worktrees=place.path("x").parent).start(replace(the_order, spec=spec), Told())
    await until((tmp_path / "pid").exists)
    handle.stop(StopReason.CANCEL)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.CANCELLED
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert nothing_is_left(repository, place)


async def test_a_lost_attempt_does_not_touch_it(repository: Path, place: Worktrees) -> None:
    claude = stand_in(repository.parent, "tool(); sys.stdin.read()")
    handle = ClaudeCli(claude, worktrees=place.path("x").parent).start(wanted(repository), told := Told())
    await until(lambda: told.tools() != [])
    handle.stop(StopReason.LOST)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.OWNER_LOST
    assert place.path("quiet-otter").is_dir()


async def test_what_cannot_be_made_is_a_failure_by_name(repository: Path, place: Worktrees, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    outcome = await run(wanted(repository, cwd=tmp_path / "plain"), place)
    homeless = await ClaudeCli().start(wanted(repository), Told()).outcome()

    assert (outcome.failure, homeless.failure) == (Failure.WORKTREE, Failure.WORKTREE)
    assert "Submit without worktree" in outcome.message
