"""Warm processes with the real claude CLI: jobs without tools share one, and nothing but the process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from runner.support import Ear, Told, oauth
from runner.warm_support import MOST_ROUNDS, bench, is_alive, plain, until

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.order import StopReason


async def test_ten_jobs_in_one_process_are_ten_sessions_with_nothing_in_common(tmp_path: Path) -> None:
    async with Rehearsal() as api, Ear(api.url) as ear, bench() as place:
        told = [Told() for _ in range(10)]
        outcomes: list[Outcome] = []
        sent: list[str] = []
        for number, one in enumerate(told):
            the_order = plain(tmp_path, f"question {number}", credential=oauth(url=ear.url), system="Be brief.")
            outcomes.append(await place.run(the_order, one))
            sent.append(ear.heard())

    assert [outcome.failure for outcome in outcomes] == [Failure.NONE] * 10
    assert [outcome.text for outcome in outcomes] == [f"Rehearsed: question {number}" for number in range(10)]
    assert len(set(place.pids)) == 1
    assert [len(one.sessions) for one in told] == [0] + [1] * 9
    assert len({session for one in told for session in one.sessions}) == 9
    assert {request.n_messages for request in api.requests} == {2}
    assert [request.prompt for request in api.requests] == [f"question {number}" for number in range(10)]
    for number, body in enumerate(sent):
        assert [other for other in range(10) if f"question {other}" in body] == [number]
        assert "Be brief." in body
    costs = [outcome.usage.cost_nusd for outcome in outcomes if outcome.usage]
    assert costs == [outcome.session_cost_nusd for outcome in outcomes]
    assert 0 < max(costs) < 1.5 * min(costs)
    assert [one.answers for one in told] == [1] * 10
    assert all(outcome.signalled == () for outcome in outcomes)


async def test_the_session_on_record_is_the_one_with_the_transcript(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        await place.run(plain(tmp_path, "about otters", credential=oauth(url=api.url)))
        told = Told()
        await place.run(plain(tmp_path, "about herons", credential=oauth(url=api.url)), told)

    (transcript,) = tmp_path.glob(f".claude/projects/*/{told.sessions[0]}.jsonl")
    assert "about herons" in transcript.read_text()
    assert "about otters" not in transcript.read_text()


async def test_another_subscription_token_pays_for_the_next_job(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        for number in (1, 2, 2, 1):
            outcome = await place.run(plain(tmp_path, credential=oauth(number, url=api.url)))
            assert outcome.failure is Failure.NONE

    assert [request.token for request in api.requests] == [f"rehearsal-{number}" for number in (1, 2, 2, 1)]
    assert len(set(place.pids)) == 1


async def test_an_api_key_is_never_exchanged(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        profile = (("ANTHROPIC_BASE_URL", api.url),)
        for name in ("a", "b", "a"):
            key = Credential(name=name, kind=TokenKind.API_KEY, secret=f"sk-ant-api03-{name}", profile=profile)
            await place.run(plain(tmp_path, credential=key))

    assert place.pids[0] != place.pids[1]


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.UNAUTHORIZED, Fault.USAGE_LIMIT, Fault.EMPTY])
async def test_a_failure_ends_the_process(tmp_path: Path, fault: Fault) -> None:
    script = Script(rules=(Rule(prompt="go wrong", action=Action(fault=fault)),))
    async with Rehearsal(script) as api, bench() as place:
        credential = oauth(url=api.url)
        await place.run(plain(tmp_path, credential=credential))
        failed = await place.run(plain(tmp_path, "go wrong", credential=credential))
        gone = not is_alive(place.pids[1])
        await place.run(plain(tmp_path, credential=oauth(2, url=api.url)))

    assert failed.failure is not Failure.NONE
    assert gone
    assert place.pids[0] == place.pids[1] != place.pids[2]


async def test_a_limit_that_another_token_got_round_ends_the_process_after_the_job(tmp_path: Path) -> None:
    script = Script(rules=(Rule(prompt="limited", times=1, action=Action(fault=Fault.USAGE_LIMIT)),))
    async with Rehearsal(script) as api, bench() as place:
        told = Told(spares=[oauth(2, url=api.url)])
        outcome = await place.run(plain(tmp_path, "limited", credential=oauth(1, url=api.url)), told)
        waiting = place.pool.idle

    assert (outcome.failure, len(told.limits)) == (Failure.NONE, 1)
    assert waiting == ()


@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.LOST])
async def test_a_stop_in_a_warm_process_kills_it(tmp_path: Path, reason: StopReason) -> None:
    script = Script(rules=(Rule(prompt="for ever", action=Action(fault=Fault.SILENCE)),))
    async with Rehearsal(script) as api, bench() as place:
        credential = oauth(url=api.url)
        await place.run(plain(tmp_path, credential=credential))
        sockets = list(tmp_path.glob("cc-socks/*.sock"))
        handle = place.cli.start(plain(tmp_path, "for ever", credential=credential), told := Told())
        await api.wait_for(lambda request: "for ever" in request.prompt)
        handle.stop(reason)
        outcome = await handle.outcome()
        waiting = place.pool.idle

    assert told.process is not None
    assert told.process.pid == place.pids[0]
    assert outcome.failure in {Failure.CANCELLED, Failure.OWNER_LOST}
    assert outcome.signalled == (place.pids[0],)
    assert outcome.survivors == ()
    assert not is_alive(place.pids[0])
    assert waiting == ()
    assert [socket for socket in sockets if socket.exists()] == []


async def test_a_job_that_lost_its_warm_process_is_resumed_in_one_of_its_own(tmp_path: Path) -> None:
    script = Script(rules=(Rule(prompt="remember", times=1, action=Action(fault=Fault.SILENCE)),))
    async with Rehearsal(script) as api, Ear(api.url) as ear, bench() as place:
        credential = oauth(url=ear.url)
        await place.run(plain(tmp_path, "an earlier question", credential=credential))
        told = Told()
        handle = place.cli.start(plain(tmp_path, "remember 42", credential=credential), told)
        await api.wait_for(lambda request: "remember" in request.prompt)
        (session,) = told.sessions
        (transcript,) = tmp_path.glob(f".claude/projects/*/{session}.jsonl")
        await until(lambda: '"content":"remember 42"},"uuid"' in transcript.read_text())
        os.kill(place.pids[0], signal.SIGKILL)
        crashed = await handle.outcome()
        ear.heard()
        again = plain(tmp_path, "remember 42", credential=credential, session_id=session)
        resumed = await place.run(again, second := Told())
        history = ear.heard()

    assert crashed.failure is Failure.CRASHED
    assert resumed.failure is Failure.NONE
    assert second.sessions == []
    assert "remember 42" in history
    assert "Continue." in history
    assert "an earlier question" not in history


async def test_a_session_whose_prompt_was_never_heard_starts_with_the_prompt(tmp_path: Path) -> None:
    """`/clear` alone writes a transcript with two messages of a user; to resume that would lose the task."""
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        await place.run(plain(tmp_path, credential=credential))
        told = Told(records_sessions=False)
        handle = place.cli.start(plain(tmp_path, "the task", credential=credential), told)
        refused = await handle.outcome()
        (session,) = told.sessions
        found = list(tmp_path.glob(f".claude/projects/*/{session}.jsonl"))
        outcome = await place.run(plain(tmp_path, "the task", credential=credential, session_id=session, fresh=True))

    assert refused.failure is Failure.INTERRUPTED
    assert told.process is None
    assert not is_alive(place.pids[0])
    assert found
    assert outcome.text == "Rehearsed: the task"


async def test_a_budget_holds_for_each_job_alone(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        first = await place.run(plain(tmp_path, credential=oauth(url=api.url), max_cost_usd=0.009))
        assert first.usage is not None
        rest = [await place.run(plain(tmp_path, credential=oauth(url=api.url), max_cost_usd=0.009)) for _ in range(3)]

    assert 0.0045 < first.usage.cost_nusd / 1e9 < 0.009
    assert [outcome.failure for outcome in rest] == [Failure.NONE] * 3
    assert len(set(place.pids)) == 1


async def test_a_job_with_tools_has_a_process_of_its_own(tmp_path: Path) -> None:
    call = ToolCall(name="Read", input={"file_path": "{cwd}/a.txt"})
    async with Rehearsal(Script(default=Action(rounds=((call,),)))) as api, bench() as place:
        for tools in (("Read",), None):
            outcome = await place.run(plain(tmp_path, credential=oauth(url=api.url), tools=tools))
            assert outcome.exit_code == 0
            assert place.pool.idle == ()


@pytest.mark.slow
async def test_a_warm_job_takes_half_the_time(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        credential = oauth(url=api.url)
        took: dict[bool, list[float]] = {True: [], False: []}
        await place.run(plain(tmp_path, credential=credential))
        while len(took[True]) < MOST_ROUNDS and (len(took[True]) < 3 or min(took[False]) >= 0.5 * min(took[True])):
            for fresh in took:
                began = time.perf_counter()
                await place.run(plain(tmp_path, credential=credential, fresh=fresh))
                took[fresh].append(time.perf_counter() - began)

    print(f"fresh {min(took[True]) * 1000:.0f} ms, warm {min(took[False]) * 1000:.0f} ms")
    assert min(took[False]) < 0.5 * min(took[True])
