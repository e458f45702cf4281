"""Errors on the socket: each comes out as it went in, of its class and with all its fields."""

from __future__ import annotations

import json

import pytest

from claude_jobs import errors
from claude_jobs.errors import (
    BadResponse,
    ClaudeJobsError,
    NoRoute,
    ProviderError,
    QueueFull,
    QuotaExceeded,
    RateExceeded,
    RateLimited,
    RecursionRefused,
)
from claude_jobs.rpc.fault import from_fault, to_fault

PROVIDER_ERRORS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ProviderError)]
ERRORS: list[ClaudeJobsError] = [
    *(kind("m", provider="openai", model="gpt", status=418, retry_after_s=1.5) for kind in PROVIDER_ERRORS),
    BadResponse("m", provider="qwen"),
    QuotaExceeded("m", counter="c", limit=1, used=2, asked=3, resets_ms=4, retry_after_s=5.5),
    RateExceeded("m", counter="c", limit=0, retry_after_s=0.0),
    NoRoute("m", tried=("a", "b"), retryable=True, retry_after_s=2.0),
    NoRoute("m"),
    RecursionRefused("m", limit="depth", value=3, chain=("j-1", "j-2")),
    QueueFull(limit=1, queued=1, asked=2),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_out_as_it_went_in(error: ClaudeJobsError) -> None:
    error.call_id = "g-1"
    again = from_fault(json.loads(json.dumps(to_fault(error))))

    assert type(again) is type(error)
    assert vars(again) == {**vars(error), "code": error.code, "retryable": error.retryable}


def test_what_an_instance_says_otherwise_than_its_class_arrives() -> None:
    error = RateLimited("m", provider="openai")
    error.is_exhausted = True
    error.retryable = False
    again = from_fault(json.loads(json.dumps(to_fault(error))))

    assert isinstance(again, RateLimited)
    assert (again.is_exhausted, again.retryable) == (True, False)


def test_what_an_older_worker_does_not_tell_has_its_default() -> None:
    error = from_fault({"code": "rate_limited", "message": "m", "retryable": True})

    assert isinstance(error, RateLimited)
    assert (error.model, error.status, error.retry_after_s) == ("", None, None)


def test_a_name_that_is_none_of_an_error_is_not_set() -> None:
    error = from_fault({"code": "no_route", "message": "m", "__class__": "x", "with_traceback": 1, "a b": 2})

    assert isinstance(error, NoRoute)
    assert callable(error.with_traceback)
