"""Several processes on one home: one upstream call for the same question, also when its maker is killed; limits of each hold."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support_app import environment
from support_generation import addresses, generating, shown

from claude_jobs.rehearsal.server import Rehearsal

HERE = Path(__file__).parent
PROMPT = 'The same. rehearse: {"hold": true}'


@asynccontextmanager
async def process(root: Path, url: str, times: int, **settings: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process that asks; killed at the end if it still runs."""
    env = environment(root, **{**addresses(url), **settings})
    body = {"prompt": PROMPT, "provider": "openai"}
    arguments = [str(HERE / "one_process.py"), json.dumps(env), json.dumps(body), str(times)]
    path = {"PYTHONPATH": str(HERE.parent), "PATH": os.environ["PATH"]}
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env=path)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def told(started: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """What it printed, at its end."""
    out, _ = await started.communicate()
    return [json.loads(line) for line in out.splitlines()]


async def test_the_same_question_in_three_processes_is_one_call(tmp_path: Path) -> None:
    async with (
        Rehearsal() as api,
        process(tmp_path, api.url, 10) as one,
        process(tmp_path, api.url, 10) as two,
        process(tmp_path, api.url, 10) as three,
    ):
        await api.wait_for(timeout_s=90)
        await asyncio.sleep(1)  # the others find the flight, or the answer
        api.release()
        answers = [answer for each in await asyncio.gather(told(one), told(two), told(three)) for answer in each]
        calls = len(api.requests)

    assert calls == 1
    assert len(answers) == 30
    assert {answer["text"] for answer in answers} == {answers[0]["text"]}
    assert sum(answer["cached"] == "" for answer in answers) == 1


async def test_a_killed_maker_is_followed_by_another_one(tmp_path: Path) -> None:
    async with (
        Rehearsal() as api,
        process(tmp_path, api.url, 1, REQUEST_TIMEOUT="120") as maker,
        generating(tmp_path, REQUEST_TIMEOUT="10", OPENAI_BASE_URL=f"{api.url}/openai/v1") as place,
    ):
        await api.wait_for(timeout_s=90)
        waiting = asyncio.create_task(place.generate(PROMPT, provider="openai"))
        os.kill(maker.pid, signal.SIGKILL)
        await api.wait_for(count=2, timeout_s=90)
        api.release()
        answer = await waiting

    assert answer.completion.text
    assert answer.cached == ""
    assert shown(answer)[0] == ("coalesce", "follower")
    assert answer.steps[0].took_ms > 10_000  # longer than REQUEST_TIMEOUT: waiting took nothing of the time to answer


async def test_only_who_could_do_no_more_shares_an_error_with_another_process(tmp_path: Path) -> None:
    async with (
        Rehearsal() as api,
        generating(tmp_path, MAX_RETRIES="0", OPENAI_BASE_URL=f"{api.url}/openai/v1") as one,
        generating(tmp_path, MAX_RETRIES="0", OPENAI_BASE_URL=f"{api.url}/openai/v1") as two,
    ):
        given: dict[str, Any] = {"provider": "openai", "rehearse": {"hold": True, "fault": "500", "times": 1}}
        leading = asyncio.create_task(one.fails(**given))
        await api.wait_for()
        same = asyncio.create_task(two.fails(**given))
        more = asyncio.create_task(two.generate(fallbacks=["claude"], **given))
        await asyncio.sleep(3)  # they found the flight
        api.release()
        await api.wait_for(count=2)
        api.release()
        errors = [await leading, await same]
        answer = await more
        told_of = await two.steps(errors[1].call_id)

    assert [error.code for error in errors] == ["provider_unavailable"] * 2
    assert ("coalesce", "follower") in told_of
    assert shown(answer) == [("coalesce", "follower"), ("cache", "miss"), ("attempt", "ok")]
    assert len(api.requests) == 2


async def test_who_waited_for_another_process_is_told_so(tmp_path: Path) -> None:
    async with (
        Rehearsal() as api,
        generating(tmp_path, OPENAI_BASE_URL=f"{api.url}/openai/v1") as one,
        generating(tmp_path, OPENAI_BASE_URL=f"{api.url}/openai/v1") as two,
    ):
        leading = asyncio.create_task(one.generate(PROMPT, provider="openai"))
        await api.wait_for()
        following = asyncio.create_task(two.generate(PROMPT, provider="openai"))
        await asyncio.sleep(3)
        api.release()
        answers = [await leading, await following]

    assert [shown(answer)[0] for answer in answers] == [("cache", "miss"), ("coalesce", "follower")]
    assert answers[1].paid.nusd == 0


async def test_each_process_holds_its_own_limit_over_what_all_used(tmp_path: Path) -> None:
    async with Rehearsal() as api, generating(tmp_path, OPENAI_BASE_URL=f"{api.url}/openai/v1") as place:
        free = await place.generate("Free.", provider="openai", max_tokens=100)
        async with process(tmp_path, api.url, 1, TOKEN_QUOTA="50") as strict:
            (refused,) = await told(strict)
        api.release()

    assert free.completion.text
    assert refused["error"] == "quota_exceeded"
