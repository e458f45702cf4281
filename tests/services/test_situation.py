"""When a job of the queue will start, told with the limits that hold: pure, everything comes in as an Outlook."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from stores.builders import NOW, Desk, batch, item

from claude_jobs.domain.job import Job
from claude_jobs.domain.token import TokenKind, TokenState
from claude_jobs.policy import estimate
from claude_jobs.policy.eta import Place
from claude_jobs.services.situation import Outlook, placed
from claude_jobs.stores.base import Limits
from claude_jobs.stores.memory import MemoryStore

TOKENS = {name: TokenState(fingerprint=name, name=name, kind=TokenKind.OAUTH) for name in ("aaa", "bbb")}
LIMITS = Limits(per_token=8, at_depth=8)


def queued(**request: Any) -> Job:
    store = MemoryStore()
    Desk(store).know()
    (receipt,) = store.submit(batch(item(), **request))
    return receipt.job


def eta_s(place: Place, **outlook: Any) -> tuple[int, float | None]:
    job = queued()
    fields: dict[str, Any] = {"states": TOKENS, "held": frozenset(TOKENS), "slots": 16, "limits": LIMITS} | outlook
    times = {estimate.kind(job.spec): (8_000,)}
    found = placed(job, Outlook(now_ms=NOW, places={job.id: place}, run_times=times, **fields))
    return found.ahead, found.eta_s


@pytest.mark.parametrize(
    ("outlook", "expected"),
    [
        ({}, 8.0),
        ({"slots": 4}, 16.0),
        ({"limits": replace(LIMITS, at_depth=2)}, 32.0),
        ({"limits": replace(LIMITS, at_depth=None)}, 4.0),
        ({"limits": replace(LIMITS, per_token=1)}, 32.0),
        ({"limits": replace(LIMITS, running=1)}, 64.0),
        ({"held": frozenset({"aaa"}), "limits": replace(LIMITS, at_depth=None)}, 8.0),
        (
            {
                "states": {**TOKENS, "bbb": replace(TOKENS["bbb"], cooldowns={"": NOW + 1})},
                "limits": Limits(per_token=8),
            },
            8.0,
        ),
    ],
)
def test_the_narrowest_limit_decides_when_a_job_starts(outlook: dict[str, Any], expected: float) -> None:
    assert eta_s(Place(ahead=7), **outlook) == (7, expected)


def test_a_job_of_a_capped_batch_waits_in_its_own_lane() -> None:
    assert eta_s(Place(ahead=0, in_batch=7, max_parallel=1)) == (7, 64.0)
