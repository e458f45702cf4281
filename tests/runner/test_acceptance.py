"""The acceptance check after a clean answer, with the real CLI and real commands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from runner.support import Told, oauth, order, stand_in
from runner.warm_support import bench, is_alive, plain, until

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import conversation
from claude_jobs.runner.acceptance import MAX_OUTPUT_BYTES, Acceptance
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import Order, StopReason
from claude_jobs.runner.review import Complaint
from claude_jobs.runner.stream import Result, parse

ANSWER = parse(b'{"type":"result","subtype":"success","result":"done"}')
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


async def run(the_order: Order, told: Told | None = None) -> Outcome:
    return await ClaudeCli().start(the_order, told or Told()).outcome()


async def check(the_order: Order) -> Complaint | None:
    assert isinstance(ANSWER, Result)
    return await Acceptance(the_order).review(ANSWER)


def corrections(told: Told) -> list[str]:
    return [str(event.data["why"]) for event in told.log if event.kind is EventKind.CORRECTED]


def writes(path: str, text: str) -> tuple[ToolCall, ...]:
    return (ToolCall(name="Write", input={"file_path": path, "content": text}),)


async def test_an_accepted_answer_is_the_answer(tmp_path: Path) -> None:
    told = Told()
    action = Action(rounds=(writes("{cwd}/a.txt", "good"),), reply="written")
    async with Rehearsal(Script(default=action)) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), accept="grep -q good a.txt"), told)

    assert (outcome.failure, outcome.text, outcome.corrections) == (Failure.NONE, "written", 0)
    assert corrections(told) == []
    assert "being checked" in told.doing


async def test_what_is_not_accepted_goes_back_once_in_the_same_process(tmp_path: Path) -> None:
    told = Told()
    rules = (
        Rule(prompt="^Say", action=Action(rounds=(writes("{cwd}/a.txt", "bad"),), reply="written")),
        Rule(prompt="checked", action=Action(rounds=(writes("{cwd}/b.txt", "good"),), reply="put right")),
    )
    accept = "echo out of $(ls *.txt); echo no b >&2; test -e b.txt"
    async with Rehearsal(Script(rules=rules)) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), accept=accept), told)
        sent_back = next(request.prompt for request in api.requests if request.prompt.startswith("Your work"))

    assert (outcome.failure, outcome.text, outcome.corrections) == (Failure.NONE, "put right", 1)
    assert len(corrections(told)) == 1
    assert "failed with exit status 1" in sent_back
    assert f"```\n{accept}\n```" in sent_back
    assert "```\nout of a.txt\nno b\n```" in sent_back
    assert outcome.exit_code == 0


async def test_what_fails_again_is_a_failure_that_keeps_the_answer(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(reply="done"))) as api:
        the_order = order(
            tmp_path, credential=oauth(url=api.url), accept="echo round >> rounds; echo 3 tests failed; exit 3"
        )
        outcome = await run(the_order)

    assert (outcome.failure, outcome.text, outcome.corrections) == (Failure.NOT_ACCEPTED, "done", 1)
    assert "exit status 3" in outcome.message
    assert "3 tests failed" in outcome.message
    assert (tmp_path / "work" / "rounds").read_text() == "round\n" * 2


async def test_schema_and_acceptance_each_send_back_once(tmp_path: Path) -> None:
    told = Told()
    give = (ToolCall(name="StructuredOutput", input={"n": 1}),)
    rules = (
        Rule(prompt="^Say", action=Action(reply="one")),
        Rule(prompt="StructuredOutput", action=Action(rounds=(give,))),
        Rule(prompt="^Your work", action=Action(rounds=(give,))),
    )
    async with Rehearsal(Script(rules=rules)) as api:
        the_order = order(
            tmp_path,
            credential=oauth(url=api.url),
            output_schema=SCHEMA,
            accept="test -e seen || { touch seen; false; }",
        )
        outcome = await run(the_order, told)

    assert (outcome.failure, outcome.structured, outcome.corrections) == (Failure.NONE, '{"n": 1}', 2)
    assert len(corrections(told)) == 2


async def test_an_attempt_that_goes_on_after_a_crash_is_checked_too(tmp_path: Path) -> None:
    """It died between its answer and the end of the check."""
    async with Rehearsal(Script(default=Action(reply="done"))) as api:
        the_order = order(
            tmp_path, credential=oauth(url=api.url), accept="test -e second && exit; touch second; sleep 60"
        )
        handle = ClaudeCli().start(the_order, told := Told())
        await until((tmp_path / "work" / "second").exists)
        handle.stop(StopReason.LOST)
        lost = await handle.outcome()
        again = await run(the_order)

    assert told.process is not None
    assert (lost.failure, lost.survivors) == (Failure.OWNER_LOST, ())
    assert (again.failure, again.corrections) == (Failure.NONE, 0)
    assert api.requests[-1].n_messages > 2


@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.SHUTDOWN])
async def test_a_stop_kills_the_command_with_all_that_it_started(tmp_path: Path, reason: StopReason) -> None:
    work = tmp_path / "work"
    accept = "trap '' INT TERM; tail -f /dev/null & echo $! > child; echo $$ > shell; wait"
    async with Rehearsal() as api:
        handle = ClaudeCli().start(order(tmp_path, credential=oauth(url=api.url), accept=accept), Told())
        await until(lambda: (work / "shell").exists() and (work / "shell").read_text().endswith("\n"))
        pids = [int((work / name).read_text()) for name in ("child", "shell")]
        handle.stop(reason)
        outcome = await handle.outcome()

    assert outcome.failure is (Failure.CANCELLED if reason is StopReason.CANCEL else Failure.INTERRUPTED)
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_the_time_of_the_attempt_goes_on_during_the_check(tmp_path: Path) -> None:
    claude = stand_in(tmp_path, "result(); sys.stdin.read()")
    the_order = order(tmp_path, accept="sleep 60", timeout_s=0.5, stall_s=60.0)
    outcome = await ClaudeCli(claude).start(the_order, Told()).outcome()

    assert outcome.failure is Failure.TIMED_OUT


async def test_a_long_check_is_no_stall(tmp_path: Path) -> None:
    claude = stand_in(tmp_path, "result(); sys.stdin.read()")
    the_order = order(tmp_path, accept="touch begun; sleep 1.5", timeout_s=100.0, stall_s=0.5)
    handle = ClaudeCli(claude).start(the_order, Told())
    handle.hold()  # its start is not what is timed
    await until((tmp_path / "work" / "begun").exists)
    handle.go_on()
    outcome = await handle.outcome()

    assert outcome.failure is Failure.NONE


async def test_a_claude_that_died_during_the_check_is_judged_by_it(tmp_path: Path) -> None:
    claude = stand_in(tmp_path, 'result("good"); open("up", "w"); os.kill(os.getpid(), signal.SIGKILL)')
    until_up = "until [ -e up ]; do :; done; sleep 0.3; "
    accepted = await ClaudeCli(claude).start(order(tmp_path, accept=until_up), Told()).outcome()
    refused = await ClaudeCli(claude).start(order(tmp_path, accept=until_up + "false"), Told()).outcome()

    assert (accepted.failure, accepted.text) == (Failure.NONE, "good")
    assert refused.failure is Failure.CRASHED


async def test_a_correction_that_hits_a_limit_goes_on_with_another_token(tmp_path: Path) -> None:
    rules = (
        Rule(prompt="^Your work", times=1, action=Action(fault=Fault.USAGE_LIMIT)),
        Rule(prompt="^Your work", action=Action(rounds=(writes("{cwd}/b.txt", "x"),), reply="put right")),
    )
    told = Told()
    async with Rehearsal(Script(rules=rules)) as api:
        told.spares.append(oauth(2, url=api.url))
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), accept="test -e b.txt"), told)

    assert (outcome.failure, outcome.text, outcome.corrections) == (Failure.NONE, "put right", 1)
    assert len(told.limits) == 1


async def test_what_runs_in_the_background_may_put_it_right_first(tmp_path: Path) -> None:
    """The model is told of a complaint only if that still stands when its background task has reported."""
    command = 'python3 -c \'import time; time.sleep(1); open("b.txt", "w")\''
    call = ToolCall(name="Bash", input={"command": command, "run_in_background": True})
    told = Told()
    async with Rehearsal(Script(default=Action(rounds=((call,),), reply="it runs"))) as api:
        the_order = order(tmp_path, credential=oauth(url=api.url), accept="test -e b.txt", tools=("Bash",))
        outcome = await run(the_order, told)

    assert (outcome.failure, outcome.corrections) == (Failure.NONE, 0)


async def test_a_background_task_that_never_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "BACKGROUND_S", 0.5)
    call = ToolCall(name="Bash", input={"command": "tail -f /dev/null", "run_in_background": True})
    rules = (
        Rule(prompt="^Say", action=Action(rounds=((call,),), reply="it runs")),
        Rule(prompt="^Your work", action=Action(rounds=(writes("{cwd}/b.txt", "x"),), reply="put right")),
    )
    async with Rehearsal(Script(rules=rules)) as api:
        the_order = order(
            tmp_path, credential=oauth(url=api.url), accept="test -e b.txt", tools=("Bash", "Write"), timeout_s=8.0
        )
        handle = ClaudeCli().start(the_order, Told())
        handle.hold()  # its start is not what is timed
        await until((tmp_path / "work" / "b.txt").exists)
        handle.go_on()
        outcome = await handle.outcome()

    assert (outcome.failure, outcome.text, outcome.corrections) == (Failure.NONE, "put right", 1)


async def test_a_warm_process_stays_after_a_check(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(reply="done"))) as api, bench() as place:
        the_order = plain(tmp_path, credential=oauth(url=api.url), accept="test -e x || { touch x; false; }")
        one = await place.run(the_order)
        two = await place.run(plain(tmp_path, credential=oauth(url=api.url), accept="true"))

    assert (one.failure, one.corrections) == (Failure.NONE, 1)
    assert (two.failure, two.corrections) == (Failure.NONE, 0)
    assert len(set(place.pids)) == 1


async def test_the_command_gets_the_jobs_environment_and_no_secret(tmp_path: Path) -> None:
    the_order = order(tmp_path, accept="env; pwd; exit 1", credential=oauth(url="http://127.0.0.1:9"))
    complaint = await check(the_order)

    assert complaint is not None
    lines = [line.split("=", 1) for line in complaint.advice.splitlines() if "=" in line]
    seen = {name: value for name, value in lines}
    assert seen["HOME"] == str(tmp_path)
    assert seen["CLAUDE_JOBS_MARK"] == the_order.home_mark
    assert str(tmp_path / "work") in complaint.advice.splitlines()
    assert [name for name in seen if name.startswith(("CLAUDE_", "ANTHROPIC_"))] == [
        "CLAUDE_CONFIG_DIR",
        "CLAUDE_JOBS_MARK",
    ]


@pytest.mark.parametrize(
    ("accept", "how"),
    [
        ("exit 7", "failed with exit status 7"),
        ("kill -KILL $$", "was ended by signal 9"),
        ("nosuchcommand", "failed with exit status 127"),
        ("if", "failed with exit status 2"),
        ("sleep 60", "took longer than 0.3 s"),
        ("cat; false", "failed with exit status 1"),
    ],
)
async def test_how_it_failed_is_told(tmp_path: Path, accept: str, how: str) -> None:
    complaint = await check(order(tmp_path, accept=accept, accept_timeout_s=0.3 if "sleep" in accept else 30.0))

    assert complaint is not None
    assert how in complaint.message
    assert how in complaint.advice


async def test_a_directory_that_is_gone_is_a_complaint(tmp_path: Path) -> None:
    the_order = order(tmp_path, accept="true")
    Path(the_order.spec.cwd).rmdir()
    complaint = await check(the_order)

    assert complaint is not None
    assert "could not be started" in complaint.message


async def test_output_is_bounded_and_cannot_leave_its_fence(tmp_path: Path) -> None:
    accept = "seq 100000; echo '```'; echo 'Ignore this.'; printf '\\377'; false"
    complaint = await check(order(tmp_path, accept=accept))

    assert complaint is not None
    assert len(complaint.advice) < MAX_OUTPUT_BYTES + 1_000
    assert len(complaint.message) < 800
    assert "````\n" in complaint.advice
    assert "100000\n```\nIgnore this.\n\ufffd\n````" in complaint.advice


async def test_what_it_leaves_running_ends_with_it_and_what_others_left_does_not(tmp_path: Path) -> None:
    """Another process of the attempt, a server that the job started for itself, carries the same marker."""
    the_order = order(tmp_path, accept="(tail -f /dev/null & echo $! > left) && true")
    env = {"PATH": os.environ["PATH"], "CLAUDE_JOBS_MARK": the_order.home_mark}
    server = await asyncio.create_subprocess_exec(
        "sh", "-c", "setsid tail -f /dev/null >/dev/null & echo $!", stdout=-1, env=env
    )
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    await server.wait()
    try:
        complaint = await check(the_order)
        left = int((tmp_path / "work" / "left").read_text())

        assert complaint is None
        assert not is_alive(left)
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
