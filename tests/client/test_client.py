"""The asyncio client against a real worker: answers, streams, batches, jobs, errors with their fields, and a worker that dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from support_processes import wait_until
from support_web import base_urls, rehearse
from support_worker import Place, kill_hard, place, rehearsing

from claude_jobs.client import AsyncClient, BatchAnswer, GenerateAnswer, Piece
from claude_jobs.errors import ContextTooLong, InvalidRequest, JobNotFound, RateLimited, WorkerLost, WorkerUnavailable
from claude_jobs.rehearsal.script import Action, Rule, Script
from claude_jobs.rehearsal.server import Rehearsal

KEYS = {"OPENAI_API_KEY": "sk-rehearsal-1", "ANTHROPIC_API_KEY": "sk-rehearsal-1"}


@contextmanager
def at_work(root: Path, script: Script | None = None, **settings: str) -> Generator[tuple[Place, Rehearsal]]:
    """A home whose worker's providers are all the rehearsal API."""
    with rehearsing(script) as api, place(root, **cast("Any", {**base_urls(api.url), **KEYS, **settings})) as here:
        yield here, api


def client_of(here: Place, **more: Any) -> AsyncClient:
    return AsyncClient(here.home, environ=here.env, **more)


async def until(fact: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not fact():
            await asyncio.sleep(0.02)


HEAVY = (
    "fastmcp",
    "mcp",
    "pydantic",
    "starlette",
    "uvicorn",
    "httpx2",
    "structlog",
    "openai",
    "anthropic",
    "google.genai",
)


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, claude_jobs.client; print([name for name in {HEAVY!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"


async def test_questions_are_answered_whole_and_piece_by_piece(tmp_path: Path) -> None:
    prompt = rehearse("q", reply="abcdefghijkl", chunks=3, usage={"input": 100, "output": 10})
    with at_work(tmp_path) as (here, _):
        async with client_of(here) as claude:
            answer = await claude.generate(prompt, provider="openai", model="gpt-5-mini", org="acme")
            again = await claude.generate(prompt, provider="openai", model="gpt-5-mini", org="acme")
            pieces = [piece async for piece in claude.stream_generate(prompt, provider="claude")]
            talk = await claude.generate(
                messages=[
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": answer.parts},
                    *_user("b"),
                ],
                provider="llama",
                model="tiny",
            )
            count = await claude.count_tokens("one two three", provider="claude")
            models = await claude.list_models("anthropic")
            at_once = await asyncio.gather(*(claude.generate(f"{n}", provider="claude") for n in range(20)))

    assert isinstance(answer.cost_usd, Decimal) and answer.cost_usd > 0
    assert (answer.text, answer.usage.input_tokens, answer.usage.provenance) == ("abcdefghijkl", 100, "reported")
    assert (answer.provider, answer.finish_reason, answer.org) == ("openai", "stop", "acme")
    assert answer.explain and answer.key and answer.total_ms > 0
    assert (again.cached, again.cost_usd, again.text) == ("hit", 0, answer.text)
    *deltas, last = pieces
    assert isinstance(last, GenerateAnswer) and last.text == "abcdefghijkl"
    assert "".join(one.text for one in deltas if isinstance(one, Piece) and one.kind == "text") == "abcdefghijkl"
    assert talk.provider == "llama" and talk.text
    assert count.input_tokens > 0 and count.provenance == "reported"
    assert models.models and {model.provider for model in models.models} == {"claude"}
    assert [one.text for one in at_once] == [f"Rehearsed: {n}" for n in range(20)]


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_batch_gives_each_answer_or_error_as_it_comes(tmp_path: Path) -> None:
    items: list[dict[str, Any] | str] = [
        "plain",
        {"prompt": rehearse("b", fault="prompt_too_long"), "key": "long"},
        {"prompt": "c", "key": "other", "provider": "claude"},
    ]

    async def run(claude: AsyncClient) -> dict[str, BatchAnswer]:
        found = [one async for one in claude.batch_generate(items, provider="openai", batch_key="k", temperature=1.2)]
        return {one.key: one for one in found}

    with at_work(tmp_path) as (here, _):
        async with client_of(here) as claude:
            first, second = await run(claude), await run(claude)

    assert first["0"].answer is not None and first["0"].answer.text == "Rehearsed: plain"
    assert isinstance(first["long"].error, ContextTooLong) and first["long"].answer is None
    assert [second[key].is_resumed for key in ("0", "long", "other")] == [True, False, True]


async def test_jobs_are_handed_in_watched_read_and_cancelled(tmp_path: Path) -> None:
    with at_work(tmp_path) as (here, _):
        async with client_of(here) as claude:
            job = await claude.spawn("p", cwd=str(here.work), label="mine", key="k")
            same = await claude.spawn("p", cwd=str(here.work), label="mine", key="k")
            done = await claude.result(job.job_id, wait_s=60)
            here.stand_in("sleep 60")
            slow = await claude.spawn("q", cwd=str(here.work))
            cancelled = await claude.cancel(slow.job_id)
            listed = await claude.status([job.job_id, slow.job_id])
            with pytest.raises(JobNotFound) as missing:
                await claude.result("j-none")

    assert job.is_new and not same.is_new and same.job_id == job.job_id
    assert (done.state, done.text, done.label, done.is_ended) == ("succeeded", "done", "mine", True)
    assert cancelled[0].job_id == slow.job_id
    assert {one.job_id: one.key for one in listed} == {job.job_id: "k", slow.job_id: ""}
    assert missing.value.job_id == "j-none"


async def test_errors_arrive_with_their_fields(tmp_path: Path) -> None:
    with at_work(tmp_path, MAX_RETRIES="0") as (here, _):
        async with client_of(here) as claude:
            with pytest.raises(InvalidRequest, match="'openai'") as unknown:
                await claude.generate("p", provider="opneai")
            with pytest.raises(ContextTooLong) as long:
                await claude.generate(rehearse("p", fault="prompt_too_long"), provider="openai", model="gpt-5")
            with pytest.raises(RateLimited) as limited:
                async for _piece in claude.stream_generate(
                    rehearse("p", fault="429", retry_after_s=31), provider="claude"
                ):
                    pass
            unwritable: Any = object()
            with pytest.raises(InvalidRequest, match="JSON"):
                await claude.generate("p", metadata=unwritable)
            fine = await claude.generate("still there", provider="openai")

    assert unknown.value.field == "provider"
    assert (long.value.provider, long.value.model) == ("openai", "gpt-5")
    assert long.value.call_id.startswith("g-") and not long.value.retryable
    assert limited.value.retry_after_s is not None and limited.value.retry_after_s >= 31
    assert limited.value.retryable and limited.value.provider == "claude"
    assert fine.text == "Rehearsed: still there"


async def test_a_call_that_is_given_up_ends_and_a_dead_worker_is_told(tmp_path: Path) -> None:
    script = Script(rules=(Rule(prompt="hold me", action=Action(hold=True)),))
    with at_work(tmp_path, script) as (here, api):
        async with client_of(here) as claude:
            waiting = asyncio.ensure_future(claude.generate("hold me", provider="openai"))
            await until(lambda: len(api.requests) == 1)
            waiting.cancel()
            await asyncio.wait((waiting,))
            ended = await asyncio.to_thread(_outcomes, here)

            lost = asyncio.ensure_future(claude.generate("hold me too", provider="openai"))
            await until(lambda: len(api.requests) == 2)
            kill_hard(int((await asyncio.to_thread(here.health))["pid"]))
            with pytest.raises(WorkerLost):
                await lost
            again = await claude.generate("again", provider="openai")

    assert waiting.cancelled()
    assert ended == ["cancelled"]
    assert again.text == "Rehearsed: again"


def _outcomes(here: Place) -> list[str]:
    """Of the calls that ended, once there are any."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [call["outcome"] for call in here.call("calls", limit=5)["calls"]]
        return bool(found)

    wait_until(look)
    return found


async def test_without_a_worker_it_says_so(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        async with client_of(here, start=False) as claude:
            with pytest.raises(WorkerUnavailable):
                await claude.status()
