"""Streams: pieces as they come, then the answer; what breaks in the middle is told and paid for, never tried again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from support_generation import KEYS, Place, generating

from claude_jobs.domain.generation import Answer, Provenance, TextDelta
from claude_jobs.errors import ProviderError, ProviderUnavailable


async def streamed(place: Place, prompt: str = "Say hello.", **fields: object) -> tuple[str, Answer]:
    text, answer = "", None
    async for event in place.app.generation.stream(place.ask(prompt, **fields)):
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, Answer):
            answer = event
    assert answer is not None
    return text, answer


@pytest.mark.parametrize("provider", [*KEYS, "llama"])
async def test_pieces_make_the_answer(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path) as place:
        text, answer = await streamed(place, provider=provider, rehearse={"chunks": 20})

    assert text == answer.completion.text
    assert answer.first_token_ms is not None
    assert answer.paid.nusd is not None
    assert answer.cached == ""


async def test_a_stream_is_kept_only_if_asked(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        for _ in range(2):
            assert (await streamed(place, "Plain."))[1].cached == ""
        await streamed(place, "Kept.", cache_stream=True)
        text, answer = await streamed(place, "Kept.", cache_stream=True)

    assert answer.cached == "hit"
    assert text == answer.completion.text


@pytest.mark.parametrize("fault", ["cut", "truncated", "stream_error"])
@pytest.mark.parametrize("provider", ["openai", "claude", "gemini", "llama"])
async def test_a_stream_that_breaks_ends_in_an_error_and_is_paid(tmp_path: Path, provider: str, fault: str) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        with pytest.raises(ProviderError) as caught:
            await streamed(place, provider=provider, rehearse={"fault": fault, "chunks": 20})
        (quota,) = (await place.settled()).values()
        (call,) = await place.app.oversight.calls(limit=5, org="")

    assert caught.value.call_id == call["id"]
    assert quota["held"] == 0
    assert quota["used"] > 0
    assert len(place.asked()) == 1


async def test_what_fails_before_the_first_piece_is_tried_again(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        text, answer = await streamed(place, rehearse={"fault": "503", "times": 1})

    assert text == answer.completion.text != ""
    assert [request.status for request in place.asked()] == [503, 200]


async def test_a_client_that_leaves_pays_for_what_came(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        ask = place.ask(rehearse={"chunks": 50, "duration_s": 30})
        async with aclosing(place.app.generation.stream(ask)) as events:
            async for _ in events:
                break
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()
        (call,) = await place.app.oversight.calls(limit=5, org="")

    assert quota["held"] == 0
    assert 0 < quota["used"] < 4_096
    assert call["outcome"] == "cancelled"
    assert call["usage"]["provenance"] == Provenance.ESTIMATED.value  # type: ignore[index]


async def test_a_cancelled_reader_is_a_client_that_left(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        reading = asyncio.create_task(streamed(place, rehearse={"chunks": 50, "duration_s": 30}))
        await place.api.wait_for()
        await asyncio.sleep(0.3)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()

    assert quota["held"] == 0


async def test_a_stalled_stream_ends(tmp_path: Path) -> None:
    async with generating(tmp_path, REQUEST_TIMEOUT="0.5") as place:
        with pytest.raises(ProviderError):
            await streamed(place, rehearse={"fault": "stall", "chunks": 20})


async def test_no_key_or_provider_fault_is_silence(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0") as place:
        with pytest.raises(ProviderUnavailable):
            await streamed(place, rehearse={"fault": "drop"})


async def test_streams_that_are_kept_are_one_call_for_all_who_ask_at_once(tmp_path: Path) -> None:
    slowly = {"chunks": 20, "duration_s": 4}
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        asking = [asyncio.create_task(streamed(place, rehearse=slowly, cache_stream=True)) for _ in range(5)]
        await place.api.wait_for()
        await asyncio.sleep(0.5)  # some pieces have come
        asking.append(asyncio.create_task(streamed(place, rehearse=slowly, cache_stream=True)))
        whole = asyncio.create_task(place.generate(rehearse=slowly))
        told = await asyncio.gather(*asking)
        answer = await whole
        (quota,) = (await place.settled()).values()

    assert len(place.asked()) == 1
    assert {text for text, _ in told} == {answer.completion.text}
    assert [each.cached for _, each in told] == ["", *["coalesced"] * 5]
    assert quota["held"] == 0
    assert quota["used"] == answer.completion.tokens.total


async def test_who_leaves_a_stream_does_not_take_it_from_the_others(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        slowly = {"chunks": 20, "duration_s": 1}
        first = asyncio.create_task(streamed(place, rehearse=slowly, cache_stream=True))
        second = asyncio.create_task(streamed(place, rehearse=slowly, cache_stream=True))
        await place.api.wait_for()
        await asyncio.sleep(0.3)
        first.cancel()
        text, answer = await second
        only = asyncio.create_task(streamed(place, "Alone.", rehearse=slowly, cache_stream=True))
        await place.api.wait_for(count=2)
        await asyncio.sleep(0.3)
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()
        calls = await place.app.oversight.calls(limit=5, org="")

    assert text == answer.completion.text
    assert quota["held"] == 0
    assert sorted(str(call["outcome"]) for call in calls) == ["cancelled", "ok", "ok"]


async def test_who_follows_a_stream_of_another_process_gets_it_whole(tmp_path: Path) -> None:
    async with (
        generating(tmp_path) as one,
        generating(tmp_path, ANTHROPIC_BASE_URL=f"{one.api.url}/anthropic") as two,
    ):
        fields: dict[str, Any] = {"rehearse": {"hold": True}, "cache_stream": True}
        leading = asyncio.create_task(streamed(one, **fields))
        await one.api.wait_for()
        following = asyncio.create_task(streamed(two, **fields))
        await asyncio.sleep(0.5)
        one.api.release()
        (text, _), (again, answer) = await leading, await following
        failing: dict[str, Any] = {"rehearse": {"fault": "cut", "chunks": 20, "hold": True}, "cache_stream": True}
        breaking = [asyncio.create_task(streamed(place, "Broken.", **failing)) for place in (one, two)]
        await one.api.wait_for(count=2)
        await asyncio.sleep(3)  # the other follows
        one.api.release()
        errors = await asyncio.gather(*breaking, return_exceptions=True)

    assert (text, answer.cached) == (again, "hit")
    assert all(isinstance(error, ProviderError) for error in errors)
    assert len(one.api.requests) == 2
