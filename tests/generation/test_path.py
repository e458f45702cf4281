"""The straight path: cache, coalescing, route, quota, provider, settlement; each answer tells how it came."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from support_app import until
from support_generation import KEYS, Place, generating, shown, where

from claude_jobs.domain.generation import Answer, Provenance
from claude_jobs.errors import (
    ContextTooLong,
    InvalidRequest,
    NoRoute,
    ProviderTimeout,
    QuotaExceeded,
    RateExceeded,
)
from claude_jobs.policy import attempts
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script, Token


async def circuits(place: Place) -> dict[str, str]:
    """State of the circuits by provider."""
    routes = await place.app.oversight.routes()
    return {str(one["provider"]): str(one["state"]) for one in cast("list[dict[str, object]]", routes["circuits"])}


@pytest.mark.parametrize("provider", [*KEYS, "llama"])
async def test_every_provider_answers_through_the_path(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path) as place:
        answer = await place.generate("Say hello.", provider=provider)
        again = await place.generate("Say hello.", provider=provider)

    assert answer.completion.text.startswith("Rehearsed: Say hello.")
    assert answer.route.provider == provider
    assert answer.completion.tokens.provenance is Provenance.REPORTED
    assert shown(answer) == [("cache", "miss"), ("attempt", "ok")]
    assert (again.cached, again.paid.nusd, again.completion) == ("hit", 0, answer.completion)
    assert [request.provider for request in place.asked()] == [provider]


async def test_what_can_change_the_answer_is_asked_again(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        variants: list[dict[str, Any]] = [
            {},
            {"system": "Be brief."},
            {"max_tokens": 10},
            {"org": "a"},
            {"temperature": 0.1},
        ]
        for fields in variants:
            assert (await place.generate(**fields)).cached == ""
        hot = [await place.generate(temperature=0.9) for _ in range(2)]
        off = await place.generate(cache="off")
        anew = await place.generate(cache="refresh")

    assert [answer.cached for answer in (*hot, off, anew)] == [""] * 4
    assert ("cache", "skipped") in shown(off)
    assert len(place.asked()) == 9


async def test_a_hundred_at_once_are_one_call(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        answers = await asyncio.gather(*(place.generate(rehearse={"delay_s": 0.3}) for _ in range(100)))
        views = await place.app.oversight.calls(limit=200, org="")

    assert len(place.asked()) == 1
    assert len({answer.id for answer in answers}) == 100
    assert sum(answer.cached == "" for answer in answers) == 1
    assert sum(answer.paid.nusd or 0 for answer in answers) == sum(int(str(view["cost_nusd"])) for view in views)
    assert len(views) == 100


async def test_a_waiter_that_leaves_does_not_take_the_answer_from_the_others(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        first = asyncio.create_task(place.generate(rehearse={"hold": True}))
        await place.api.wait_for()
        second = asyncio.create_task(place.generate(rehearse={"hold": True}))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        place.api.release()
        answer = await second

    assert answer.completion.text
    assert len(place.asked()) == 1


async def test_the_last_one_to_leave_ends_the_call_and_pays_for_what_was_sent(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        only = asyncio.create_task(place.generate(rehearse={"hold": True}))
        await place.api.wait_for()
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()
        (call,) = await place.app.oversight.calls(limit=5, org="")

    assert quota["held"] == 0
    assert quota["used"] > 0
    assert call["outcome"] == "cancelled"


async def test_a_failure_is_tried_again_then_elsewhere_and_told(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="1", REQUEST_TIMEOUT="60") as place:
        answer = await place.generate(
            "Try.", provider="openai", fallbacks=["qwen"], rehearse={"fault": "503", "times": 2}
        )

    assert where(answer.route).startswith("qwen/")
    assert [request.provider for request in place.asked()] == ["openai", "openai", "qwen"]
    assert (
        shown(answer)
        == [
            ("cache", "miss"),
            ("attempt", "provider_unavailable"),
            ("retry", "wait"),
            ("attempt", "provider_unavailable"),
            ("fallback", "next"),
            ("attempt", "ok"),
        ]
        or [what for what, _ in shown(answer)].count("attempt") == 3
    )


async def test_a_limited_key_cools_down_and_another_one_takes_over(tmp_path: Path) -> None:
    limited = Script(
        keys=(
            Token(name="a", secret="sk-rehearsal-1", always=Fault.RATE_LIMIT),
            Token(name="b", secret="sk-rehearsal-2"),
        )
    )
    async with generating(tmp_path, script=limited, numbers=(1, 2)) as place:
        answers = [await place.generate(f"Question {n}.", provider="openai") for n in range(8)]
        states = await circuits(place)

    assert {answer.completion.text[:10] for answer in answers} == {"Rehearsed:"}
    assert sum(request.status == 429 for request in place.asked()) <= 1
    assert set(states.values()) == {"closed"}


async def test_a_key_that_was_refused_is_left_alone_until_it_is_restored(tmp_path: Path) -> None:
    wrong = Script(rules=(Rule(action=Action(fault=Fault.UNAUTHORIZED), provider="openai", times=1),))
    async with generating(tmp_path, script=wrong) as place:
        first = await place.fails("One.", provider="openai")
        second = await place.fails("Two.", provider="openai")
        (key,) = cast("list[dict[str, str]]", (await place.app.oversight.routes())["keys"])
        await place.app.oversight.restore_key(key["key"])
        await asyncio.sleep(0.6)  # what was refused a moment ago is believed for half a second
        third = await place.generate("Three.", provider="openai")

    assert first.code == "authentication_failed"
    assert isinstance(second, NoRoute)
    assert "refused" in second.message
    assert third.completion.text
    assert len(place.asked()) == 2


async def test_a_refused_key_is_not_waited_for_more_often_than_it_may_be_tried(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="1") as place:
        refused = await place.fails(provider="openai", rehearse={"fault": "429", "retry_after_s": 0.2})

    assert refused.code == "rate_limited"
    assert len(place.asked()) == 2


async def test_an_open_circuit_is_passed_by_and_the_cache_still_serves(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0", CIRCUIT_FAILURE_THRESHOLD="2") as place:
        kept = await place.generate("Kept.", provider="openai")
        for n in range(2):
            await place.fails(f"Broken {n}.", provider="openai", rehearse={"fault": "500"})
        refused = await place.fails("Fine.", provider="openai", timeout_s=5)
        other = await place.generate("Fine.", provider="openai", fallbacks=["claude"])
        hit = await place.generate("Kept.", provider="openai")
        states = await circuits(place)

    assert isinstance(refused, NoRoute)
    assert "circuit" in refused.message
    assert refused.retryable
    assert other.route.provider == "claude"
    assert hit.cached == "hit"
    assert hit.completion == kept.completion
    assert (states["openai"], states["claude"]) == ("open", "closed")


async def test_a_quota_refuses_before_the_call_and_says_when_it_resets(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="5000", QUOTA_RESET_INTERVAL="day") as place:
        await place.generate("One.", max_tokens=3000)
        (before,) = (await place.settled()).values()
        refused = await place.fails("Two.", max_tokens=5000)
        other = await place.generate("Three.", max_tokens=3000, org="acme")
        hit = await place.generate("One.", max_tokens=3000)
        (after,) = (await place.settled()).values()

    assert isinstance(refused, QuotaExceeded)
    assert (refused.limit, refused.used) == (5000, before["used"])
    assert refused.retry_after_s >= 0
    assert "claude-jobs quota" in refused.message
    assert other.org == "acme"
    assert hit.cached == "hit"
    assert after["used"] == before["used"]
    assert after["held"] == 0
    assert len(place.asked()) == 2


async def test_zero_is_nothing_and_unset_is_no_limit(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="0") as place:
        assert isinstance(await place.fails(), QuotaExceeded)
        await place.app.oversight.set_quota(scope="org", subject="rich", unit="tokens", limit=10**9, window="day")
        assert (await place.generate(org="rich")).completion.text


async def test_a_dollar_quota_needs_a_price(tmp_path: Path) -> None:
    async with generating(tmp_path, COST_QUOTA_USD="1") as place:
        answer = await place.generate(provider="openai")
        unknown = await place.fails(provider="openai", model="nobody-knows-this")

    assert answer.paid.nusd
    assert isinstance(unknown, NoRoute)
    assert "prices.toml" in unknown.message


async def test_a_rate_paces_and_then_refuses(tmp_path: Path) -> None:
    async with generating(tmp_path, REQUESTS_PER_MINUTE="0") as place:
        assert isinstance(await place.fails(), RateExceeded)


async def test_requests_wait_for_their_turn_by_priority(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_CONCURRENT_REQUESTS="1") as place:
        first = asyncio.create_task(place.generate("First.", rehearse={"hold": True}))
        await place.api.wait_for()
        turnstile = (await place.opened()).turnstile
        low = asyncio.create_task(place.generate("Low."))
        await until(lambda: turnstile.waiting == 1)
        high = asyncio.create_task(place.generate("High.", priority=5))
        await until(lambda: turnstile.waiting == 2)
        place.api.release()
        await asyncio.gather(first, low, high)

    assert [request.prompt.split(".")[0] for request in place.asked()] == ["First", "High", "Low"]


async def test_names_nobody_knows_get_a_hint(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        with pytest.raises(InvalidRequest, match="openai"):
            place.ask(provider="opnai")
        missing = await place.fails(provider="openai", model="gpt-nope", rehearse={"fault": "404"})

    assert missing.code == "model_not_found"
    assert missing.call_id.startswith("g-")


async def test_no_key_names_the_variable(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        place.caller = place.caller.__class__(cwd=str(tmp_path), submitter="uid:0")
        refused = await place.fails(provider="grok")

    assert isinstance(refused, NoRoute)
    assert "XAI_API_KEY" in refused.message


async def test_keys_of_the_users_own_file_serve_who_brings_none(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        place.caller = place.caller.__class__(cwd=str(tmp_path), submitter="uid:0")
        (tmp_path / "jobs" / ".env").write_text("XAI_API_KEY=sk-rehearsal-2\n")
        answer = await place.generate(provider="grok")

    assert answer.completion.text
    assert [request.token for request in place.asked()] == ["key-2"]


async def test_all_who_ask_at_once_find_the_keys_of_the_users_own_file(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        place.caller = place.caller.__class__(cwd=str(tmp_path), submitter="uid:0")
        (tmp_path / "jobs" / ".env").write_text("XAI_API_KEY=sk-rehearsal-2\n")
        answers = await asyncio.gather(*(place.generate(f"Question {n}.", provider="grok") for n in range(5)))

    assert all(answer.completion.text for answer in answers)


async def test_a_prompt_beyond_the_context_is_not_sent(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        refused = await place.fails("word " * 1_500_000, provider="claude")

    assert isinstance(refused, NoRoute | ContextTooLong)
    assert "context" in refused.message
    assert place.asked() == []


async def test_an_answer_that_never_comes_ends_in_time(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        late = await place.fails(rehearse={"fault": "silence"}, timeout_s=1)

    assert isinstance(late, ProviderTimeout)
    assert late.call_id


async def test_unknown_usage_is_estimated_never_nothing(tmp_path: Path) -> None:
    async with generating(tmp_path, TOKEN_QUOTA="100000") as place:
        answer: Answer = await place.generate(
            "Tell me.", provider="openai", rehearse={"fault": "no_usage", "reply_kb": 2}
        )
        (quota,) = (await place.settled()).values()

    assert answer.completion.tokens.provenance is Provenance.ESTIMATED
    assert answer.completion.tokens.output > 100
    assert quota["used"] == answer.completion.tokens.total


async def test_a_refreshed_question_falls_back_on_what_was_kept(tmp_path: Path) -> None:
    failing = Script(rules=(Rule(action=Action(fault=Fault.SERVER_ERROR), overall=2),))
    async with generating(tmp_path, script=failing, MAX_RETRIES="0") as place:
        kept = await place.generate("Old.")
        again = await place.generate("Old.", cache="refresh")
        anew = await place.generate("Old.", cache="refresh")

    assert (kept.cached, again.cached, anew.cached) == ("", "stale", "")
    assert ("attempt", "provider_unavailable") in shown(again)
    assert again.completion == kept.completion


async def test_a_refreshed_question_falls_back_on_what_was_kept_while_its_circuit_is_open(tmp_path: Path) -> None:
    async with generating(tmp_path, MAX_RETRIES="0", CIRCUIT_FAILURE_THRESHOLD="1") as place:
        kept = await place.generate("Old.")
        await place.fails("Broken.", rehearse={"fault": "500"})
        again = await place.generate("Old.", cache="refresh")

    assert again.cached == "stale"
    assert again.completion == kept.completion
    assert len(place.asked()) == 2


@pytest.mark.parametrize("provider", ["openai", "claude", "gemini", "grok"])
async def test_a_key_that_is_refused_in_any_words_is_left_alone(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path) as place:
        first = await place.fails("One.", provider=provider, rehearse={"fault": "bad_key"})
        second = await place.fails("Two.", provider=provider)
        (key,) = cast("list[dict[str, str]]", (await place.app.oversight.routes())["keys"])

    assert first.code == "authentication_failed"
    assert isinstance(second, NoRoute)
    assert key["dead"]
    assert len(place.asked()) == 1


async def test_a_key_without_rights_to_a_model_rests_for_that_model_only(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        first = await place.fails("One.", model="claude-a", rehearse={"fault": "403"})
        second = await place.fails("Two.", model="claude-a")
        other = await place.generate("Three.", model="claude-b")

    assert first.code == "authentication_failed"
    assert isinstance(second, NoRoute)
    assert other.completion.text
    assert len(place.asked()) == 2


async def test_whole_answers_that_come_late_open_the_circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "SLOW_SHARE", 0.02)  # late is after 1.2 s, and a time-out far away
    async with generating(tmp_path, REQUEST_TIMEOUT="60", MAX_CONCURRENT_REQUESTS="50") as place:
        await place.generate("Warm.", max_tokens=1)
        late = {"max_tokens": 1, "rehearse": {"delay_s": 1.75}}
        await asyncio.gather(*(place.generate(f"Question {n}.", **late) for n in range(20)))
        states = await circuits(place)

    assert states == {"claude": "open"}
