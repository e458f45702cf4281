"""For whom a process is started ahead, how long it waits, and what it must have in common with the attempt that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.support import Told, oauth
from runner.warm_support import QUICK, WAITS, Bench, bench, go_on, is_alive, plain, talker, until, waiting_for

from claude_jobs.domain.job import ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import ClaudeNotFound
from claude_jobs.policy.slots import JOB_BYTES
from claude_jobs.runner.ahead import Ahead, AheadRules
from claude_jobs.runner.command import Command, build
from claude_jobs.runner.order import Order

REFUSES = (
    'if message["type"] == "control_request": '
    'say(type="control_response", response={"subtype": "error", "request_id": message["request_id"]})'
)
SPEAKS = 'say(type="system", subtype="init", session_id="x", model="m", tools=[])'


async def meet(place: Bench, home: Path) -> None:
    await place.run(own(home))


def own(home: Path, epoch: int = 1, **more: Any) -> Order:
    """An order that shares with nobody."""
    return plain(home, fresh=True, epoch=epoch, **more)


class Waiters:
    """An Ahead with a talker that it has met."""

    def __init__(self, claude: Path, rules: AheadRules) -> None:
        self.free_bytes = 64 << 30
        self.ahead = Ahead(
            build=lambda order: build(order, claude),
            pool=None,
            waits=QUICK,
            free_bytes=lambda: self.free_bytes,
            rules=rules,
        )
        self.ahead.meet(str(claude), "9.9.9")

    async def want(self, *orders: Order) -> list[int]:
        """The pids that wait for them now."""
        self.ahead.want(orders)
        await asyncio.sleep(0.05)
        return [pid for order in orders for pid in waiting_for(order)]


@asynccontextmanager
async def waiters(claude: Path, rules: AheadRules | None = None) -> AsyncGenerator[Waiters]:
    place = Waiters(claude, rules or AheadRules())
    try:
        yield place
    finally:
        await place.ahead.close()


async def test_it_is_taken_once_by_the_attempt_it_was_started_for(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2)
        pid = await place.prepare(ours)
        outcomes = [await place.run(ours, Told()) for _ in range(2)]

    assert all(outcome.succeeded for outcome in outcomes)
    assert place.pids[-2] == pid != place.pids[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": "00000000-0000-4000-8000-000000000000"},
        {"spec": {"cwd": "/"}},
        {"spec": {"model": "opus"}},
        {"spec": {"system": "Be kind."}},
        {"spec": {"effort": "low"}},
        {"spec": {"env": (("PATH", "/bin"), ("HOME", "/"))}},
        {"credential": oauth(1, url="http://127.0.0.1:9")},
        {"credential": Credential(name="k", kind=TokenKind.API_KEY, secret="k")},
    ],
    ids=str,
)
async def test_an_attempt_that_would_start_another_way_starts_for_itself(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async with bench(talker(tmp_path)) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2)
        pid = await place.prepare(ours)
        spec = replace(ours.spec, **change.get("spec", {}))
        outcome = await place.run(replace(ours, **{**change, "spec": spec}))

        assert outcome.succeeded
        assert place.pids[-1] != pid
        assert not is_alive(pid)


async def test_two_api_keys_do_not_share(tmp_path: Path) -> None:
    one, other = (Credential(name=name, kind=TokenKind.API_KEY, secret=name) for name in "ab")
    async with bench(talker(tmp_path)) as place:
        await meet(place, tmp_path)
        pid = await place.prepare(own(tmp_path, 2, credential=one))
        await place.run(own(tmp_path, 2, credential=other))

    assert place.pids[-1] != pid


async def test_another_attempt_of_the_job_does_not_take_it(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2)
        pid = await place.prepare(ours)
        await place.run(replace(ours, epoch=3, home_mark=ours.home_mark.removesuffix("2") + "3"))

    assert place.pids[-1] != pid


async def test_a_claude_that_cannot_get_ready_is_replaced_and_not_started_ahead_again(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_line=REFUSES)) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2)
        pid = await place.prepare(ours)
        outcome = await place.run(ours)
        again = own(tmp_path, 3)
        place.cli.prepare([again])

        assert outcome.succeeded
        assert place.pids[-1] != pid
        assert not is_alive(pid)
        assert waiting_for(again) == []


async def test_one_that_died_waiting_is_not_used(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_line='message["type"] == "user" or sys.exit(1)')) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2, system="Be brief.")
        place.cli.prepare([ours])
        outcome = await place.run(replace(ours, spec=replace(ours.spec, system="")))

    assert outcome.succeeded


async def test_one_that_speaks_before_its_prompt_goes(tmp_path: Path) -> None:
    async with bench(talker(tmp_path, on_line=SPEAKS)) as place:
        await meet(place, tmp_path)
        ours = own(tmp_path, 2, system="Be brief.")
        place.cli.prepare([ours])
        await until(lambda: waiting_for(ours) == [])


async def test_a_program_that_was_not_seen_at_work_is_not_started(tmp_path: Path) -> None:
    async with bench(talker(tmp_path)) as place:
        ours = own(tmp_path, 2)
        place.cli.prepare([ours])

        assert waiting_for(ours) == []


async def test_at_most_two_wait(tmp_path: Path) -> None:
    orders = [own(tmp_path, epoch) for epoch in range(2, 6)]
    async with waiters(talker(tmp_path)) as place:
        pids = await place.want(*orders)
        same = await place.want(*orders)

        assert len(pids) == 2
        assert same == pids
    assert not any(map(is_alive, pids))


async def test_under_a_fixed_number_of_processes_jobs_come_first(tmp_path: Path) -> None:
    one, other = own(tmp_path, 2), own(tmp_path, 3)
    async with bench(talker(tmp_path, on_prompt=WAITS), max_live=2) as place:
        await meet(place, tmp_path)
        first = asyncio.create_task(place.run(own(tmp_path, 4, prompt="zz")))
        await until(lambda: waiting_for(own(tmp_path, 4)) != [])
        place.cli.prepare([one, other])
        both = [len(waiting_for(one)), len(waiting_for(other))]
        second = await place.run(own(tmp_path, 5))
        await until(lambda: waiting_for(one) == [])
        go_on(tmp_path)
        await first

    assert both == [1, 0]
    assert second.succeeded


async def test_it_goes_a_while_after_nobody_wants_it(tmp_path: Path) -> None:
    ours = own(tmp_path, 2)
    async with waiters(talker(tmp_path), AheadRules(grace_s=2.0)) as place:
        (pid,) = await place.want(ours)
        place.ahead.want([])
        still = is_alive(pid)
        await until(lambda: not is_alive(pid))

    assert still


async def test_it_stays_if_it_is_wanted_again_in_time(tmp_path: Path) -> None:
    ours = own(tmp_path, 2)
    async with waiters(talker(tmp_path), AheadRules(grace_s=0.5)) as place:
        (pid,) = await place.want(ours)
        place.ahead.want([])
        place.ahead.want([ours])
        await asyncio.sleep(1.2)

        assert is_alive(pid)


async def test_it_does_not_wait_for_ever_and_no_other_takes_its_place(tmp_path: Path) -> None:
    ours = own(tmp_path, 2)
    async with waiters(talker(tmp_path), AheadRules(keep_s=2.0)) as place:
        (pid,) = await place.want(ours)
        await until(lambda: not is_alive(pid))

        assert await place.want(ours) == []


async def test_without_memory_none_is_started_and_those_that_wait_go(tmp_path: Path) -> None:
    one, other = own(tmp_path, 2), own(tmp_path, 3)
    async with waiters(talker(tmp_path)) as place:
        (pid,) = await place.want(one)
        place.free_bytes = 2 * JOB_BYTES - 1
        both = await place.want(one, other)
        place.free_bytes = JOB_BYTES - 1
        await until(lambda: not is_alive(pid))

    assert both == [pid]


@pytest.mark.parametrize(
    "change",
    [
        {"project": ProjectFiles.FULL},
        {"worktree": True},
        {"resume_session": "00000000-0000-4000-8000-000000000000"},
        {"credential": Credential(name="login", kind=TokenKind.LOGIN)},
        {"cwd": Path("/nowhere")},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_is_settled_only_at_the_start_is_not_prepared(tmp_path: Path, change: dict[str, Any]) -> None:
    async with waiters(talker(tmp_path)) as place:
        assert await place.want(own(tmp_path, 2, **change)) == []


async def test_what_cannot_be_started_is_left_to_the_attempt(tmp_path: Path) -> None:
    def nothing(_: Order) -> Command:
        raise ClaudeNotFound

    ahead = Ahead(build=nothing, pool=None, waits=QUICK, free_bytes=lambda: 64 << 30)
    ahead.want([own(tmp_path)])

    await ahead.close()


async def test_nothing_is_started_once_it_is_closed(tmp_path: Path) -> None:
    async with waiters(talker(tmp_path)) as place:
        await place.ahead.close()

        assert await place.want(own(tmp_path, 2)) == []
