"""How long a warm process is kept, by whom it is marked, and what two attempts must have in common to share one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.support import Told, oauth
from runner.warm_support import WAITS, bench, go_on, is_alive, plain, talker, until

from claude_jobs.domain.job import Failure, ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.policy.slots import JOB_BYTES
from claude_jobs.runner import proctree
from claude_jobs.runner.command import build
from claude_jobs.runner.order import Order, StopReason
from claude_jobs.runner.transcript import Standing
from claude_jobs.runner.warm import Key, WarmRules, key_of

CLAUDE = Path("/opt/claude")
NEW = Standing()


async def test_a_warm_process_is_marked_by_its_keeper_and_by_no_job(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        marks = [json.loads((await place.run(plain(tmp_path))).text) for _ in range(2)]
        the_order = plain(tmp_path)
        waiting = proctree.marked(the_order.home_mark.removesuffix("quiet-otter:1"))

    assert [mark for mark, _ in marks] == [the_order.home_mark.removesuffix("quiet-otter:1") + "warm:1"] * 2
    assert [job for _, job in marks] == ["", ""]
    assert [proc.pid for proc in waiting] == place.pids[:1]


async def test_an_idle_process_is_ended_after_a_while(tmp_path: Path) -> None:
    async with bench(talker(tmp_path), WarmRules(idle_s=1.0)) as place:
        await place.run(plain(tmp_path))
        began = place.pool.idle
        await until(lambda: not is_alive(place.pids[0]))

        assert began == tuple(place.pids)
        assert place.pool.idle == ()


async def test_a_process_is_retired_after_its_share_of_jobs(tmp_path: Path) -> None:
    async with bench(talker(tmp_path), WarmRules(max_jobs=2)) as place:
        outcomes = [await place.run(plain(tmp_path)) for _ in range(4)]

    assert place.pids[0] == place.pids[1] != place.pids[2] == place.pids[3]
    assert [outcome.exit_code for outcome in outcomes] == [None, 0, None, 0]


async def test_a_process_that_grew_too_big_is_retired(tmp_path: Path) -> None:
    async with bench(talker(tmp_path), WarmRules(max_rss_bytes=1)) as place:
        await place.run(plain(tmp_path))
        waiting = place.pool.idle

    assert waiting == ()


async def test_no_more_than_a_few_wait(tmp_path: Path) -> None:
    async with bench(talker(tmp_path), WarmRules(max_idle=2)) as place:
        await asyncio.gather(*(place.run(plain(tmp_path)) for _ in range(5)))
        waiting = place.pool.idle
        await until(lambda: sum(map(is_alive, place.pids)) == 2)

    assert len(waiting) == 2
    assert len(set(place.pids)) == 5


async def test_those_that_wait_hold_a_share_of_the_memory_and_give_way(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        place.free_bytes = 7 * JOB_BYTES
        await asyncio.gather(*(place.run(plain(tmp_path)) for _ in range(4)))
        some = place.pool.idle
        place.free_bytes = 0
        await until(lambda: place.pool.idle == ())
        await until(lambda: not any(map(is_alive, place.pids)))

    assert len(some) == 2


async def test_those_that_wait_give_way_to_jobs_under_a_fixed_number_of_processes(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_prompt=WAITS), max_live=3) as place:
        await asyncio.gather(*(place.run(plain(tmp_path)) for _ in range(3)))
        idle = [len(place.pool.idle)]
        running = [asyncio.create_task(place.run(plain(tmp_path, "z", fresh=True))) for _ in range(2)]
        await until(lambda: len(place.pool.idle) == 1)
        again = await place.run(plain(tmp_path))
        idle.append(len(place.pool.idle))
        go_on(tmp_path)
        await asyncio.gather(*running)

    assert again.succeeded
    assert idle == [3, 1]


async def test_a_process_that_begins_a_turn_unasked_is_given_up(tmp_path: Path) -> None:
    speak = 'say(type="system", subtype="init", session_id="x", model="m", tools=[])'
    on_clear = f"import threading; threading.Timer(1.0, lambda: {speak}).start()"
    async with bench(talker(tmp_path, on_clear=on_clear)) as place:
        await place.run(plain(tmp_path))
        began = place.pool.idle
        await until(lambda: not is_alive(place.pids[0]))

        assert began == tuple(place.pids)
        assert place.pool.idle == ()


@pytest.mark.parametrize(
    "change", ['model="other"', 'tools=["Bash"]', 'cwd="/elsewhere"', 'permissionMode="plan"'], ids=lambda word: word
)
async def test_a_process_that_is_not_what_it_was_is_not_used_again(tmp_path: Path, change: str) -> None:
    nature = f"**{{**dict(model='m', tools=[]), **dict({change})}}"
    on_clear = (
        'say(type="conversation_reset"); '
        f'say(type="system", subtype="init", session_id=str(uuid.uuid4()), {nature}); '
        'say(type="result", subtype="success", result=""); continue'
    )
    async with bench(talker(tmp_path, on_clear=on_clear)) as place:
        told = Told()
        outcomes = [await place.run(plain(tmp_path), told) for _ in range(2)]
        waiting = place.pool.idle

    assert all(outcome.succeeded for outcome in outcomes)
    assert place.pids[0] != place.pids[1]
    assert told.sessions == []
    assert waiting == (place.pids[1],)


async def test_a_process_that_left_something_running_is_not_kept(tmp_path: Path) -> None:
    on_prompt = 'import subprocess; left = subprocess.Popen(["sleep", "600"], start_new_session=True)'
    async with bench(talker(tmp_path, on_prompt=on_prompt)) as place:
        await place.run(plain(tmp_path))
        waiting = place.pool.idle
        left = proctree.marked(plain(tmp_path).home_mark.removesuffix("quiet-otter:1"))

    assert waiting == ()
    assert left == []


def _kill(pid: int) -> None:
    """Dead for the kernel when this returns; the event loop has not had a turn in which to hear of it."""
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.001)


async def test_a_process_that_died_waiting_is_not_used(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        await place.run(plain(tmp_path))
        _kill(place.pids[0])
        at_once = await place.run(plain(tmp_path))
        _kill(place.pids[1])
        await until(lambda: place.pool.idle == ())
        later = await place.run(plain(tmp_path))

    assert at_once.succeeded
    assert later.succeeded
    assert len(set(place.pids)) == 3


@pytest.mark.parametrize(
    "on_clear",
    [
        "sys.exit(1)",
        'say(type="result", subtype="success", is_error=False, result="Unknown command"); continue',
        'session = "s"; say(type="system", subtype="init", session_id="s"); say(type="result", result=""); continue',
    ],
    ids=["dies", "does not know it", "says nothing of a reset"],
)
async def test_a_claude_that_cannot_begin_anew_is_replaced(tmp_path: Path, on_clear: str) -> None:
    async with bench(talker(tmp_path, on_clear=on_clear)) as place:
        told = Told()
        outcomes = [await place.run(plain(tmp_path), told) for _ in range(3)]

    assert [outcome.failure for outcome in outcomes] == [Failure.NONE] * 3
    assert len(set(place.pids)) == 3
    assert told.sessions == []


async def test_a_session_other_than_the_one_on_record_is_not_run_in(tmp_path: Path) -> None:
    on_prompt = 'if session: say(type="system", subtype="init", session_id=str(uuid.uuid4())); time.sleep(60)'
    async with bench(talker(tmp_path, on_prompt=on_prompt)) as place:
        await place.run(plain(tmp_path))
        outcome = await place.run(plain(tmp_path), told := Told())
        again = await place.run(plain(tmp_path))

    assert len(told.sessions) == 1
    assert outcome.failure is Failure.INTERRUPTED
    assert again.succeeded
    assert len(set(place.pids)) == 2


async def test_a_hook_that_breaks_leaves_no_process_behind(tmp_path: Path) -> None:
    class Broken(Told):
        async def session(self, session_id: str) -> bool:
            raise RuntimeError(session_id)

    async with bench(talker(tmp_path)) as place:
        await place.run(plain(tmp_path))
        with pytest.raises(RuntimeError):
            await place.run(plain(tmp_path), Broken())
        left = is_alive(place.pids[0])

    assert not left


async def test_a_stop_while_it_begins_anew_kills_the_process(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_clear="time.sleep(60)")) as place:
        await place.run(plain(tmp_path))
        handle = place.cli.start(plain(tmp_path), told := Told())
        await until(lambda: place.pool.idle == ())
        handle.stop(StopReason.CANCEL)
        outcome = await handle.outcome()

    assert outcome.failure is Failure.CANCELLED
    assert (told.process, told.sessions) == (None, [])
    assert place.pids[0] in outcome.signalled


async def test_nothing_is_kept_once_the_runner_is_closed(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_prompt="time.sleep(0.3)")) as place:
        running = asyncio.create_task(place.run(plain(tmp_path)))
        await asyncio.sleep(0)
        await place.cli.close()
        outcome = await running

        assert outcome.succeeded
        assert not is_alive(place.pids[0])


async def test_secrets_of_earlier_jobs_are_redacted_too(tmp_path: Path) -> None:
    on_prompt = 'text = os.environ["CLAUDE_CODE_OAUTH_TOKEN"]'
    async with bench(talker(tmp_path, on_prompt=on_prompt)) as place:
        await place.run(plain(tmp_path, credential=oauth(1)))
        told = Told()
        await place.run(plain(tmp_path, credential=oauth(2)), told)

    assert oauth(1).secret not in str(told.log)
    assert len(told.log) == 1


def key(the_order: Order, *, standing: Standing = NEW, instructions: str = "") -> Key | None:
    return key_of(the_order, build(the_order, CLAUDE, standing=standing, instructions=instructions))


def test_attempts_that_differ_in_job_session_and_subscription_token_share(tmp_path: Path) -> None:
    one = plain(tmp_path, "a", credential=oauth(1))
    other = replace(plain(tmp_path, "b", credential=oauth(2), epoch=7), job_id="other", timeout_s=1.0)

    assert key(one) == key(other) is not None
    assert oauth(1).secret not in repr(key(one))


def test_jobs_with_tools_share_if_they_say_so(tmp_path: Path) -> None:
    one, other = (key(plain(tmp_path, prompt, tools=("Read",), fresh=False)) for prompt in "ab")

    assert one == other is not None


@pytest.mark.parametrize(
    "change",
    [
        {"org": "acme"},
        {"spec": {"tools": ("Read",), "fresh": False}},
        {"spec": {"tools": None, "fresh": False}},
        {"spec": {"output_schema": "{}"}},
        {"spec": {"model": "opus"}},
        {"spec": {"cwd": "/"}},
        {"spec": {"system": "Be kind."}},
        {"spec": {"effort": "low"}},
        {"spec": {"max_cost_usd": 2.0}},
        {"spec": {"env": (("PATH", "/bin"),)}},
        {"credential": oauth(1, url="http://127.0.0.1:9")},
        {"credential": Credential(name="k", kind=TokenKind.API_KEY, secret="k")},
        {"credential": Credential(name="l", kind=TokenKind.LOGIN)},
    ],
    ids=str,
)
def test_attempts_that_differ_in_anything_else_do_not_share(tmp_path: Path, change: dict[str, Any]) -> None:
    one = plain(tmp_path)
    spec = replace(one.spec, **change.get("spec", {}))
    other = replace(one, **{**change, "spec": spec})

    assert key(one) != key(other) is not None


def test_two_api_keys_do_not_share(tmp_path: Path) -> None:
    one, other = (
        plain(tmp_path, credential=Credential(name=name, kind=TokenKind.API_KEY, secret=name)) for name in "ab"
    )

    assert key(one) != key(other)


def test_a_new_login_does_not_share_with_the_one_before(tmp_path: Path) -> None:
    the_order = plain(tmp_path, credential=Credential(name="login", kind=TokenKind.LOGIN))
    before = key(the_order)
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / ".credentials.json").write_text("{}")

    assert key(the_order) != before


@pytest.mark.parametrize(
    "spec",
    [
        {"tools": None},
        {"tools": ("Read",)},
        {"fresh": True},
        {"project": ProjectFiles.FULL},
        {"nest": True, "fresh": False},
        {"worktree": True, "fresh": False},
    ],
    ids=str,
)
def test_what_may_leave_traces_or_does_not_want_to_shares_with_nobody(tmp_path: Path, spec: dict[str, Any]) -> None:
    assert key(plain(tmp_path, **spec)) is None
    assert key(plain(tmp_path), standing=Standing(resume=str(uuid.uuid4()), has_said=True)) is None
