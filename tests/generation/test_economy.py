"""Economy: batches by the providers' own Batch APIs, at half price; handed in once whatever happens, each answer booked once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support_app import environment
from support_generation import Place, addresses, generating, keys

from claude_jobs.factory import open_app
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_batch import run_batch
from claude_jobs.services.generation_request import parse_batch
from claude_jobs.settings import load

HERE = Path(__file__).parent
View = dict[str, Any]
FREE = 10**9
COUNTED = '{} rehearse: {{"usage": {{"input": 1000, "output": 100, "cache_read": 0, "cache_write": 0}}}}'


class Clock:
    """The API's time, which a test moves."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@asynccontextmanager
async def place_at(root: Path, api: Rehearsal, **settings: str) -> AsyncGenerator[Place]:
    """An app on an API that outlives it."""
    env = environment(root, **{**addresses(api.url), "TOKEN_QUOTA": str(FREE), **settings})
    async with open_app(load(env), Home.resolve(env)) as app:
        yield Place(app, api, Caller(cwd=str(root / "work"), submitter="uid:0", keys=keys()))


def body(*prompts: str, **fields: Any) -> View:
    return {"provider": "claude", "economy": True, "items": [{"prompt": prompt} for prompt in prompts], **fields}


def late(prompt: str) -> str:
    return f'{prompt} rehearse: {{"delay_s": 10000}}'


async def told(place: Place, asked: View) -> list[View]:
    """All items, in their order."""
    async with aclosing(run_batch(place.app.generation, parse_batch(asked, place.caller), place.app.batches)) as views:
        return sorted([view async for view in views], key=lambda view: view["index"])


def kept(root: Path) -> list[Path]:
    return sorted((root / "jobs" / "batches" / "economy").glob("*.json"))


async def handed_in(root: Path, count: int = 1) -> list[Path]:
    """The files of batches that the provider took."""
    async with asyncio.timeout(60):
        while True:
            found = [path for path in kept(root) if json.loads(path.read_bytes())["batch_id"]]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def quota(place: Place) -> View:
    (only,) = (await place.settled()).values()
    return only


@pytest.mark.parametrize("provider", ["claude", "openai"])
async def test_a_batch_costs_half_and_is_booked(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path, TOKEN_QUOTA=str(FREE)) as place:
        full = await place.generate(COUNTED.format("One."), provider=provider, max_tokens=100)
        before = await quota(place)
        views = await told(
            place, body(COUNTED.format("One."), COUNTED.format("Two."), provider=provider, max_tokens=100)
        )
        after = await quota(place)
        line = await place.app.oversight.explain(views[0]["answer"]["id"])

    answers = [view["answer"] for view in views]
    assert [answer["text"][:15] for answer in answers] == ["Rehearsed: One.", "Rehearsed: Two."]
    assert answers[0]["usage"]["total_tokens"] == full.completion.tokens.total
    assert full.paid.nusd
    assert answers[0]["cost_nusd"] == pytest.approx(full.paid.nusd / 2, abs=1)
    assert line["cost_nusd"] == answers[0]["cost_nusd"]
    assert (after["held"], after["used"] - before["used"]) == (
        0,
        sum(answer["usage"]["total_tokens"] for answer in answers),
    )
    assert kept(tmp_path) == []


async def test_who_has_no_batch_api_is_asked_at_once_with_a_note(tmp_path: Path) -> None:
    items: list[View] = [{"prompt": "a"}, {"prompt": "b", "provider": "gemini"}, {"prompt": "c", "provider": "openai"}]
    async with generating(tmp_path) as place:
        views = await told(place, {**body(), "items": items})

    assert [view["answer"]["provider"] for view in views] == ["claude", "gemini", "openai"]
    assert ["note" in view for view in views] == [False, True, False]
    assert "full price" in views[1]["note"]
    assert next(request.path for request in place.asked("b")).startswith("/models/")
    assert all("batches" in request.path for request in (*place.asked("a"), *place.asked("c")))


@pytest.mark.parametrize("provider", ["claude", "openai"])
async def test_items_fail_one_by_one(tmp_path: Path, provider: str) -> None:
    prompts = [f'{n} rehearse: {{"fault": "{fault}"}}' for n, fault in enumerate(("500", "400", "prompt_too_long"))]
    async with generating(tmp_path, TOKEN_QUOTA=str(FREE)) as place:
        views = await told(place, body("Fine.", *prompts, provider=provider))
        used = await quota(place)

    assert "answer" in views[0]
    codes = [view["error"]["code"] for view in views[1:]]
    assert codes == ["provider_unavailable", "request_refused", "context_too_long"]
    assert (used["held"], used["used"]) == (0, views[0]["answer"]["usage"]["total_tokens"])
    assert len(place.asked()) == 4


@pytest.mark.parametrize("provider", ["claude", "openai"])
async def test_a_batch_that_is_not_taken_is_told_to_each(tmp_path: Path, provider: str) -> None:
    closed = Script(rules=(Rule(path="/batches$", action=Action(fault=Fault.SERVER_ERROR)),))
    async with generating(tmp_path, script=closed, TOKEN_QUOTA=str(FREE)) as place:
        views = await told(place, body("a", "b", provider=provider))
        used = await quota(place)

    assert [view["error"]["code"] for view in views] == ["provider_unavailable"] * 2
    assert len({view["error"]["call_id"] for view in views}) == 2
    assert (used["held"], used["used"]) == (0, 0)
    assert kept(tmp_path) == []


async def test_what_a_quota_refuses_is_not_handed_in(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="3000") as place:
        views = await told(place, body("a", "b", max_tokens=2000))

    assert sorted("error" in view for view in views) == [False, True]
    assert len(place.asked()) == 1


async def test_what_the_model_cannot_do_does_not_spoil_the_others(tmp_path: Path) -> None:
    items: list[View] = [{"prompt": "a"}, {"prompt": "b", "stop": [str(n) for n in range(9)], "provider": "openai"}]
    async with generating(tmp_path) as place:
        views = await told(place, {**body(), "items": items})

    assert "answer" in views[0]
    assert "error" in views[1]


@pytest.mark.parametrize("provider", ["claude", "openai"])
@pytest.mark.parametrize("batch_key", ["", "mine"])
async def test_a_killed_process_is_followed_by_one_that_waits_for_the_same_batch(
    tmp_path: Path, provider: str, batch_key: str
) -> None:
    clock = Clock()
    asked = body(late("a"), late("b"), provider=provider, batch_key=batch_key)
    async with Rehearsal(clock=clock) as api:
        env = environment(tmp_path, **{**addresses(api.url), "TOKEN_QUOTA": str(FREE)})
        arguments = [sys.executable, str(HERE / "one_batch.py"), json.dumps(env), json.dumps(asked)]
        path = {"PYTHONPATH": str(HERE.parent), "PATH": os.environ["PATH"]}
        killed = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env=path)
        try:
            (file,) = await handed_in(tmp_path)
        finally:
            os.kill(killed.pid, signal.SIGKILL)
            out, _ = await killed.communicate()
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (file, file.parent)]
        content = file.read_text()
        async with place_at(tmp_path, api) as place:
            waiting = asyncio.create_task(told(place, asked))
            await asyncio.sleep(0.5)
            clock.ahead_s = 20_000
            views = await waiting
            used = await quota(place)
            again = await told(place, asked) if batch_key else []
        requests = len(api.requests)

    assert out == b""
    assert modes == [0o600, 0o700]
    assert "sk-" not in content
    assert "rehearse" not in content
    assert [view["answer"]["text"][:12] for view in views] == ["Rehearsed: a", "Rehearsed: b"]
    assert requests == 2
    assert used["held"] == 0
    assert used["used"] == sum(view["answer"]["usage"]["total_tokens"] for view in views)
    assert all(view["resumed"] for view in again)
    assert kept(tmp_path) == []


async def test_who_leaves_and_asks_again_pays_once(tmp_path: Path) -> None:
    clock = Clock()
    asked = body(late("a"), late("b"), batch_key="mine")
    async with Rehearsal(clock=clock) as api, place_at(tmp_path, api) as place:
        left = asyncio.create_task(told(place, asked))
        await handed_in(tmp_path)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        held = (await quota(place))["held"]
        clock.ahead_s = 20_000
        async with asyncio.timeout(60):
            while (used := await quota(place))["held"]:
                await asyncio.sleep(0.1)
        views = await told(place, asked)
        after = await quota(place)
        calls = await place.app.oversight.calls(limit=10, org="")

    assert held > 0
    assert len(api.requests) == 2
    assert used["used"] == after["used"] == sum(view["answer"]["usage"]["total_tokens"] for view in views)
    assert sorted(str(call["id"]) for call in calls) == sorted(view["answer"]["id"] for view in views)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("provider", ["claude", "openai"])
async def test_who_wants_it_ends_the_batch_by_leaving(tmp_path: Path, provider: str) -> None:
    asked = body(late("a"), late("b"), provider=provider, cancel_on_leave=True)
    async with Rehearsal(clock=Clock()) as api, place_at(tmp_path, api) as place:
        left = asyncio.create_task(told(place, asked))
        await handed_in(tmp_path)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        async with asyncio.timeout(60):
            while (used := await quota(place))["held"]:
                await asyncio.sleep(0.1)
        views = await told(place, asked)

    assert used["used"] == 0
    assert [view["error"]["code"] for view in views] == ["provider_unavailable"] * 2
    assert "cancelled" in views[0]["error"]["message"]
    assert len(api.requests) == 2


async def test_who_leaves_while_it_is_handed_in_ends_it_too(tmp_path: Path) -> None:
    asked = body(*(late(str(n)) for n in range(20)), cancel_on_leave=True)
    async with Rehearsal(clock=Clock()) as api, place_at(tmp_path, api) as place:
        left = asyncio.create_task(told(place, asked))
        async with asyncio.timeout(60):
            while not kept(tmp_path):
                await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        async with asyncio.timeout(60):
            while (used := await quota(place))["held"]:
                await asyncio.sleep(0.1)

    assert used["used"] == 0
    assert len(api.requests) == 20


async def test_who_waited_long_enough_is_told_and_may_wait_on(tmp_path: Path) -> None:
    clock = Clock()
    async with Rehearsal(clock=clock) as api, place_at(tmp_path, api) as place:
        early = await told(place, body(late("a"), timeout_s=0.5))
        clock.ahead_s = 20_000
        views = await told(place, body(late("a"), timeout_s=60))

    assert early[0]["error"]["code"] == "provider_timeout"
    assert "goes on" in early[0]["error"]["message"]
    assert views[0]["answer"]["text"]
    assert len(api.requests) == 1


async def test_a_batch_that_the_provider_forgot_is_handed_in_anew(tmp_path: Path) -> None:
    async with Rehearsal(clock=Clock()) as api, place_at(tmp_path, api) as place:
        await told(place, body(late("a"), timeout_s=0.5))
    (file,) = kept(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "batch_id": "msgbatch_gone"}))
    async with Rehearsal() as api, place_at(tmp_path, api) as place:
        gone = await told(place, body(late("a")))
        await told(place, body(late("a"), timeout_s=0.5))
        requests = len(api.requests)

    assert "does not know the batch msgbatch_gone" in gone[0]["error"]["message"]
    assert requests == 1


async def test_looks_that_fail_are_made_again(tmp_path: Path) -> None:
    shaky = Script(rules=(Rule(path="/batches/", times=2, action=Action(fault=Fault.SERVER_ERROR)),))
    async with generating(tmp_path, script=shaky) as place:
        views = await told(place, body("a"))
        looks = [look.status for look in place.api.lookups]

    assert views[0]["answer"]["text"]
    assert looks.count(500) == 2
    assert len(place.asked()) == 1


async def test_the_key_that_sent_a_batch_is_needed_to_find_it_again(tmp_path: Path) -> None:
    async with Rehearsal(clock=Clock()) as api, place_at(tmp_path, api) as place:
        await told(place, body(late("a"), timeout_s=0.5))
    async with Rehearsal() as api, place_at(tmp_path, api) as place:
        place.caller = Caller(cwd=str(tmp_path), submitter="uid:0", keys=keys(2))
        views = await told(place, body(late("a"), timeout_s=0.5))

    assert "fingerprint" in views[0]["error"]["message"]
    assert list(api.requests) == []
