"""What is kept of answers, and that whoever gets a kept one gets all of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support_app import caller, environment, running_app, stand_in
from support_generation import generating

from claude_jobs.domain.generation import Answer, ToolDelta
from claude_jobs.errors import InvalidRequest
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.stores.gate import LedgerQuery

LOOK = {
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


async def test_a_kept_tool_call_is_streamed_whole(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        fields: dict[str, Any] = {"tools": [LOOK], "rehearse": {"tool": {"name": "look", "input": {"at": "é"}}}}
        first = await place.generate(**fields)
        ask = place.ask(**fields, cache_stream=True)
        *deltas, last = [event async for event in place.app.generation.stream(ask)]

    assert isinstance(last, Answer)
    assert (last.cached, last.completion) == ("hit", first.completion)
    (call,) = first.completion.tool_calls
    assert ToolDelta(index=0, id=call.id, name="look", arguments='{"at": "é"}') in deltas


async def test_a_tool_call_that_its_schema_does_not_allow_is_not_kept(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        fields: dict[str, Any] = {"tools": [LOOK], "rehearse": {"tool": {"name": "look", "input": {"at": 5}}}}
        answers = [await place.generate(**fields) for _ in range(2)]

    assert [answer.cached for answer in answers] == ["", ""]
    assert len(place.asked()) == 2


async def test_an_operator_may_have_answers_of_jobs_kept(tmp_path: Path) -> None:
    """And whoever leads lands: nobody in another process waits for what was answered long ago."""
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="hello")), CACHE_SKIP_PROVIDERS="grok")
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello."}).ask(caller(tmp_path, env))
        answers = [await app.generation.generate(ask) for _ in range(2)]
        (path,) = tmp_path.rglob("gate.db")
        with closing(sqlite3.connect(path)) as connection:
            flying = connection.execute("SELECT COUNT(*) FROM flights WHERE until_ms > 0").fetchone()

    assert [answer.cached for answer in answers] == ["", "hit"]
    assert answers[1].paid.nusd == 0
    assert flying == (0,)


async def test_focus_rows_take_the_period_of_the_query(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        await place.generate()
        text = await place.app.oversight.usage(LedgerQuery(by=("org",), until_ms=1 << 42), "focus")
        with pytest.raises(InvalidRequest, match="need a period"):
            await place.app.oversight.usage(LedgerQuery(by=("org",)), "focus")

    assert "1970-01-01T00:00:00Z" in text
