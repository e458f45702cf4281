"""Callers who ask the same at once: each gets what it asked for, in its own time, and the books are right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from support_generation import Place, generating

from claude_jobs.errors import ProviderTimeout, ProviderUnavailable


async def last_call(place: Place) -> dict[str, object]:
    """The newest line of the ledger."""
    return (await place.app.oversight.calls(limit=1, org=""))[0]


async def test_nobody_joins_a_call_that_is_being_cancelled(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        first = asyncio.create_task(place.generate(rehearse={"hold": True}))
        await place.api.wait_for()
        first.cancel()
        await asyncio.sleep(0)  # its task was told, and has not ended yet
        second = asyncio.create_task(place.generate(rehearse={"hold": True}))
        while len(place.asked()) < 2:
            await asyncio.sleep(0.01)
        place.api.release()
        answer = await second
        with pytest.raises(asyncio.CancelledError):
            await first

    assert answer.completion.text


async def test_who_has_a_fallback_does_not_share_the_error_of_who_has_none(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0") as place:
        fault = {"fault": "500"}
        alone = asyncio.create_task(place.fails(rehearse=fault, provider="openai"))
        other = asyncio.create_task(place.fails(rehearse=fault, provider="openai", fallbacks=["gemini"]))
        ended = await asyncio.gather(alone, other)

    assert [cast("ProviderUnavailable", error).provider for error in ended] == ["openai", "gemini"]


async def test_the_record_of_a_call_that_ran_out_of_time_tells_what_was_used(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        await place.generate("Its client is made.")
        late = await place.fails(rehearse={"fault": "silence"}, timeout_s=2)
        record = await place.app.oversight.explain(late.call_id)
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()

    assert isinstance(late, ProviderTimeout)
    assert record["outcome"] == "provider_timeout"
    assert record["cost_nusd"] is None  # it may be billed: unknown is not nothing
    assert [step["what"] for step in cast("list[dict[str, str]]", record["explain"])].count("attempt") == 1
    assert (quota["held"], quota["used"] > 0) == (0, True)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_callers_short_patience_opens_no_circuit(tmp_path: Path, is_stream: bool) -> None:
    async with generating(tmp_path, MAX_RETRIES="0", CIRCUIT_FAILURE_THRESHOLD="2") as place:
        for n in range(3):
            ask = place.ask(f"Question {n}.", rehearse={"fault": "silence"}, timeout_s=0.2, cache="off")
            with pytest.raises(ProviderTimeout):
                if is_stream:
                    _ = [event async for event in place.app.generation.stream(ask)]
                else:
                    await place.app.generation.generate(ask)
        routes = await place.app.oversight.routes()
        answer = await place.generate("Another one.")

    assert [one["state"] for one in cast("list[dict[str, str]]", routes["circuits"])] in ([], ["closed"])
    assert answer.completion.text
