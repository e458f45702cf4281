"""Retries are a share of the calls: an outage is not answered with a storm."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_generation import generating

from claude_jobs.policy.attempts import BUDGET_MOST, BUDGET_SHARE
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script


def failing(fault: Fault) -> Script:
    return Script(rules=(Rule(action=Action(fault=fault, retry_after_s=0.05)),))


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RATE_LIMIT])
async def test_a_provider_that_always_fails_is_asked_again_for_a_share_of_the_calls(
    tmp_path: Path, fault: Fault
) -> None:
    calls = 30
    async with generating(tmp_path, script=failing(fault), MAX_RETRIES="1", CIRCUIT_FAILURE_THRESHOLD="1000") as place:
        for n in range(calls):
            await place.fails(provider="openai", model=f"gpt-{n}")  # each has a circuit of its own
        retries = len(place.asked()) - calls

    assert BUDGET_MOST <= retries <= BUDGET_MOST + BUDGET_SHARE * calls


async def test_a_limit_that_asks_for_no_wait_is_tried_again(tmp_path: Path) -> None:
    async with generating(tmp_path) as place:
        answer = await place.generate(provider="openai", rehearse={"fault": "429", "retry_after_s": 0, "times": 1})

    assert answer.completion.text
    assert [request.status for request in place.asked()] == [429, 200]
