"""Hedging: a late first attempt gets a second one elsewhere, seldom, only where that is well, and both are paid for."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from support_generation import KEYS, Place, generating, shown

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import ProviderUnavailable
from claude_jobs.policy.attempts import RetryBudget
from claude_jobs.policy.routing import ENOUGH_SEEN, HEDGE_SHARE, HEDGE_STOCK, late_after_s
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script

SLOW = "Slow."
ASIDE: dict[str, Any] = {"provider": "openai", "fallbacks": ["claude"], "hedge": True}
HELD = Script(rules=(Rule(prompt=SLOW, provider="openai", action=Action(hold=True)),))
PATIENT: dict[str, Any] = {"REQUEST_TIMEOUT": "120", "MAX_RETRIES": "0"}


async def warm(place: Place, provider: str = "openai", *, is_stream: bool = False) -> None:
    """Answers enough to know when one is late."""
    for n in range(2 * ENOUGH_SEEN):
        fields: dict[str, Any] = {"provider": provider, "cache": "off"}
        await (streamed(place, f"Warm {n}.", **fields) if is_stream else place.generate(f"Warm {n}.", **fields))


async def streamed(place: Place, prompt: str = SLOW, **fields: Any) -> Answer:
    async with aclosing(place.app.generation.stream(place.ask(prompt, **fields))) as events:
        async for event in events:
            if isinstance(event, Answer):
                return event
    raise AssertionError("no answer")


async def asked(place: Place, *, is_stream: bool = False, **fields: Any) -> Answer:
    if is_stream:
        return await streamed(place, **{**ASIDE, **fields})
    return await place.generate(SLOW, **{**ASIDE, **fields})


def hedges(answer: Answer) -> list[str]:
    return [outcome for what, outcome in shown(answer) if what == "hedge"]


def test_late_is_what_few_answers_were() -> None:
    few = [0.1] * (ENOUGH_SEEN - 1)

    assert late_after_s(few, 30) == 7.5
    assert late_after_s([*few, 0.1], 30) == 0.1
    assert late_after_s([n / 100 for n in range(100, 0, -1)], 30) == 0.95


def test_of_many_calls_few_have_a_second_attempt() -> None:
    budget = RetryBudget(left=HEDGE_STOCK, share=HEDGE_SHARE, most=HEDGE_STOCK)
    taken = 0
    for _ in range(10_000):
        budget.call()
        taken += budget.take()

    assert taken <= 10_000 * HEDGE_SHARE + HEDGE_STOCK


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_late_provider_is_overtaken_and_both_are_paid(tmp_path: Path, is_stream: bool) -> None:
    async with generating(tmp_path, script=HELD, TOKEN_QUOTA="1000000", **PATIENT) as place:
        await warm(place, is_stream=is_stream)
        (before,) = (await place.settled()).values()
        answer = await asked(place, is_stream=is_stream)
        opened = await place.opened()
        await opened.till.leases.idle()
        (after,) = (await place.settled()).values()
        view = await place.app.oversight.explain(answer.id)

    steps = [step for step in shown(answer) if step[0] in ("hedge", "attempt", "fallback")]
    assert answer.route.provider == "claude"
    assert steps == [("hedge", "started"), ("attempt", "cancelled"), ("hedge", "won"), ("attempt", "ok")]
    assert [request.provider for request in place.asked(SLOW)] == ["openai", "claude"]
    costs = [step.cost.nusd for step in answer.steps if step.cost is not None]
    assert len(costs) == 2
    assert answer.paid.nusd == view["cost_nusd"] == sum(cost or 0 for cost in costs)
    assert all(costs)
    assert after["held"] == 0
    assert after["used"] - before["used"] > answer.completion.tokens.total


@pytest.mark.parametrize("provider", [*KEYS, "llama"])
async def test_a_hedged_stream_goes_on_where_it_began(tmp_path: Path, provider: str) -> None:
    async with generating(tmp_path, **PATIENT) as place:
        answer = await streamed(
            place, "Hello.", provider=provider, fallbacks=["claude"], hedge=True, rehearse={"chunks": 20}
        )

    assert answer.route.provider == provider
    assert hedges(answer) == []
    assert answer.completion.text.startswith("Rehearsed: Hello.")


async def test_another_key_is_asked_before_another_provider(tmp_path: Path) -> None:
    once = Script(rules=(Rule(prompt=SLOW, times=1, action=Action(hold=True)),))
    async with generating(tmp_path, script=once, numbers=(1, 2), **PATIENT) as place:
        for _ in range(3):
            await warm(place)
        answer = await asked(place)

    assert hedges(answer) == ["started", "won"]
    assert [request.provider for request in place.asked(SLOW)] == ["openai", "openai"]
    assert {request.token for request in place.asked(SLOW)} == {"key-1", "key-2"}


async def test_nobody_is_hedged_who_did_not_ask(tmp_path: Path) -> None:
    async with generating(tmp_path, script=HELD, **PATIENT) as place:
        await warm(place)
        waiting = asyncio.create_task(asked(place, hedge=False))
        await place.api.wait_for(lambda request: request.prompt.startswith(SLOW), timeout_s=60)
        await asyncio.sleep(0.5)
        place.api.release()
        answer = await waiting

    assert answer.route.provider == "openai"
    assert hedges(answer) == []
    assert len(place.asked(SLOW)) == 1


async def denied(place: Place, **fields: Any) -> Answer:
    """The answer to a late question that got no second attempt."""
    known = len(place.asked(SLOW))
    waiting = asyncio.create_task(asked(place, cache="off", **fields))
    await place.api.wait_for(count=len(place.api.requests) + 1, timeout_s=60)
    await asyncio.sleep(2)  # many times what the others took
    place.api.release()
    answer = await waiting
    assert len(place.asked(SLOW)) == known + 1
    assert hedges(answer) == ["denied"]
    return answer


def reason(answer: Answer) -> str:
    return next(step.why for step in answer.steps if step.what == "hedge")


async def test_few_calls_are_hedged(tmp_path: Path) -> None:
    async with generating(tmp_path, script=HELD, **PATIENT) as place:
        await warm(place)
        won = [await asked(place, cache="off") for _ in range(int(HEDGE_STOCK))]
        answer = await denied(place)

    assert [hedges(each) for each in won] == [["started", "won"]] * int(HEDGE_STOCK)
    assert "as many calls" in reason(answer)


async def test_a_full_house_has_no_second_attempts(tmp_path: Path) -> None:
    async with generating(tmp_path, script=HELD, MAX_CONCURRENT_REQUESTS="1", **PATIENT) as place:
        await warm(place)
        answer = await denied(place)

    assert "turn" in reason(answer)


@pytest.mark.parametrize(
    ("fault", "recovery_s", "why"),
    [
        ({"fault": "500"}, "3600", "circuit is open"),
        ({"fault": "500"}, "0.001", "circuit is not closed"),
        ({"fault": "429", "retry_after_s": 600}, "30", "waits for a limit"),
    ],
)
async def test_a_route_under_strain_is_left_alone(
    tmp_path: Path, fault: dict[str, object], recovery_s: str, why: str
) -> None:
    settings: dict[str, Any] = {"CIRCUIT_FAILURE_THRESHOLD": "1", "CIRCUIT_RECOVERY_TIMEOUT": recovery_s, **PATIENT}
    async with generating(tmp_path, script=HELD, TOKEN_QUOTA="1000000", **settings) as place:
        await warm(place)
        await place.fails("Broken.", provider="claude", rehearse=fault, timeout_s=20)
        answer = await denied(place)
        (quota,) = (await place.settled()).values()
        if "not closed" in why:
            assert (await place.generate("Well again?", provider="claude")).completion.text

    assert why in reason(answer)
    assert quota["held"] == 0


async def test_if_both_fail_the_first_ones_error_decides(tmp_path: Path) -> None:
    failing = Script(
        rules=(
            Rule(prompt=SLOW, provider="openai", action=Action(hold=True, fault=Fault.SERVER_ERROR)),
            Rule(prompt=SLOW, provider="claude", action=Action(fault=Fault.PROMPT_TOO_LONG)),
        )
    )
    async with generating(tmp_path, script=failing, **PATIENT) as place:
        await warm(place)
        waiting = asyncio.create_task(place.fails(SLOW, provider="openai", fallbacks=["claude"], hedge=True))
        await place.api.wait_for(lambda request: request.provider == "claude", timeout_s=60)
        place.api.release()
        error = await waiting
        steps = await place.steps(error.call_id)

    assert ("hedge", "started") in steps
    assert ("attempt", "provider_unavailable") in steps
    assert steps.count(("attempt", "context_too_long")) >= 1
    assert not isinstance(error, ProviderUnavailable)  # the chain went on to the fallback itself


async def test_who_leaves_ends_both_and_pays_for_both(tmp_path: Path) -> None:
    both = Script(rules=(Rule(prompt=SLOW, action=Action(hold=True)),))
    async with generating(tmp_path, script=both, TOKEN_QUOTA="1000000", **PATIENT) as place:
        await warm(place)
        waiting = asyncio.create_task(asked(place, cache="off"))
        await place.api.wait_for(lambda request: request.provider == "claude", timeout_s=60)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()
        (call,) = await place.app.oversight.calls(limit=1, org="")
        steps = await place.steps(str(call["id"]))

    assert quota["held"] == 0
    assert call["outcome"] == "cancelled"
    assert steps.count(("attempt", "cancelled")) == 2


async def test_whoever_begins_first_answers_and_the_other_one_ends(tmp_path: Path) -> None:
    both = Script(rules=(Rule(prompt=SLOW, action=Action(hold=True)),))
    async with generating(tmp_path, script=both, TOKEN_QUOTA="1000000", **PATIENT) as place:
        await warm(place)
        waiting = asyncio.create_task(asked(place))
        await place.api.wait_for(lambda request: request.provider == "claude", timeout_s=60)
        place.api.release()
        answer = await waiting
        await (await place.opened()).till.leases.idle()
        (quota,) = (await place.settled()).values()

    assert hedges(answer) in (["started", "won"], ["started", "lost"])
    assert [outcome for what, outcome in shown(answer) if what == "attempt"] == ["cancelled", "ok"]
    assert quota["held"] == 0
