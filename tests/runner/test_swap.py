"""A limit in the middle of an attempt, and a claude that ends before it could go on with another token."""

from __future__ import annotations

from pathlib import Path

import pytest
from runner.support import Told, oauth, order, stand_in

from claude_jobs.domain.job import Failure
from claude_jobs.runner.claude_cli import ClaudeCli

LIMIT = """
say(type="rate_limit_event", rate_limit_info={"status": "rejected", "rateLimitType": "five_hour", "resetsAt": 4000000000})
result("You've hit your 5-hour limit", is_error=True, api_error_status=429, api_error="usage_limit_reached")
"""


@pytest.mark.parametrize("ending", ["sys.exit(0)", "sys.stdin.readline(); sys.exit(0)", "time.sleep(0.1); sys.exit(1)"])
async def test_a_claude_that_ends_while_its_token_is_exchanged_costs_the_job_no_attempt(
    tmp_path: Path, ending: str
) -> None:
    told = Told(spares=[oauth(2)])
    cli = ClaudeCli(stand_in(tmp_path, LIMIT + ending))
    outcome = await cli.start(order(tmp_path), told).outcome()

    was_asked = bool(told.limits)
    assert outcome.failure is (Failure.INTERRUPTED if was_asked else Failure.USAGE_LIMIT)
