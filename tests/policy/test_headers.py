"""What headers say of waiting and limits: every dialect, and no text that breaks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from claude_jobs.domain.generation import RateHeaders
from claude_jobs.policy.headers import LONGEST_S, rate_headers, retry_after_s

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()

NAMES = (
    "retry-after",
    "Retry-After",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    *(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")),
    *(
        f"anthropic-ratelimit-{kind}-{what}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)


def _http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


def _rfc3339(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "9"}, 9.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "99999999"}, LONGEST_S),
        ({"retry-after": _http_date(40)}, 40.0),
        ({"retry-after": _http_date(-40)}, 0.0),
        ({"retry-after": "Sat Nov 21 12:00:25 2026"}, 25.0),
        ({"retry-after": "Saturday, 21-Nov-26 12:01:00 GMT"}, 60.0),
        ({"retry-after": str(NOW_S + 30)}, 30.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"X-MS-Retry-After-MS": "250"}, 0.25),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3_723.5),
        ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "1m"}, 60.0),
        ({"x-ratelimit-reset-tokens": "60"}, 60.0),
        ({"x-ratelimit-reset-tokens": str(int(NOW_S) + 12)}, 12.0),
        ({"x-ratelimit-reset-tokens": str((int(NOW_S) + 12) * 1_000)}, 12.0),
        ({"anthropic-ratelimit-tokens-reset": _rfc3339(17)}, 17.0),
        ({"anthropic-ratelimit-output-tokens-reset": _rfc3339(17)}, 17.0),
        ({"anthropic-ratelimit-requests-reset": "2026-11-21T13:00:20+01:00"}, 20.0),
        ({"retry-after": "3", "anthropic-ratelimit-tokens-reset": _rfc3339(17)}, 3.0),
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "٣"}, None),
        ({"x-ratelimit-reset-tokens": "5x"}, None),
        ({"content-type": "text/html"}, None),
    ],
)
def test_every_dialect_of_waiting(headers: dict[str, str], expected: float | None) -> None:
    said = retry_after_s(headers, NOW_S)

    assert said == (None if expected is None else pytest.approx(expected))


def test_only_the_limit_that_is_used_up_makes_one_wait() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "50",
        "x-ratelimit-reset-requests": "2m",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "3s",
    }

    assert retry_after_s(headers, NOW_S) == 3.0


def test_googles_word_is_in_the_body() -> None:
    details: list[object] = [
        "nonsense",
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"},
    ]

    assert retry_after_s({}, NOW_S, details) == 7.5
    assert retry_after_s({"retry-after": "2"}, NOW_S, details) == 2.0
    assert retry_after_s({}, NOW_S, [{"retryDelay": 7}, {"retryDelay": "a while"}]) is None


def test_limits_as_openai_and_those_like_it_announce_them() -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "500",
        "X-RateLimit-Remaining-Requests": "499",
        "X-RateLimit-Reset-Requests": "120ms",
        "X-RateLimit-Limit-Tokens": "30000",
        "X-RateLimit-Remaining-Tokens": "-5",
        "X-RateLimit-Reset-Tokens": "6m0s",
    }

    expected = RateHeaders(
        requests_limit=500,
        requests_left=499,
        requests_reset_s=pytest.approx(0.12),  # pyright: ignore[reportArgumentType]
        tokens_limit=30_000,
        tokens_left=0,
        tokens_reset_s=360.0,
    )
    assert rate_headers(headers, NOW_S) == expected


def test_limits_as_anthropic_announces_them() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": _rfc3339(1),
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "39000",
        "anthropic-ratelimit-input-tokens-reset": _rfc3339(4),
    }

    expected = RateHeaders(
        requests_limit=50,
        requests_left=49,
        requests_reset_s=1.0,
        tokens_limit=40_000,
        tokens_left=39_000,
        tokens_reset_s=4.0,
    )
    assert rate_headers(headers, NOW_S) == expected
    tightest = {"anthropic-ratelimit-tokens-limit": "8000", "anthropic-ratelimit-tokens-remaining": "10"}
    found = rate_headers({**headers, **tightest}, NOW_S)
    assert found is not None
    assert (found.tokens_limit, found.tokens_left, found.tokens_reset_s) == (8_000, 10, None)


def test_a_part_of_the_limits_is_better_than_none() -> None:
    assert rate_headers({"x-ratelimit-remaining-requests": "3"}, NOW_S) == RateHeaders(requests_left=3)
    assert rate_headers({"x-ratelimit-limit-tokens": "lots"}, NOW_S) is None
    assert rate_headers({"content-type": "application/json"}, NOW_S) is None


texts = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[A-Za-z]{3}, [0-9]{1,4} [A-Za-z]{3} [0-9]{1,5} [0-9:]{1,9} [A-Z+\-0-9]{1,6}"),
    st.from_regex(r"[0-9]{1,5}-[0-9]{1,3}-[0-9]{1,3}T[0-9:.]{1,20}[Z+\-0-9:]{0,9}"),
    st.from_regex(r"-?[0-9.]{1,40}(ms|s|m|h|d|ns|us)?([0-9.]{1,20}(ms|s))?"),
    st.integers().map(str),
    st.floats().map(str),
    st.datetimes().map(lambda at: at.isoformat()),
    st.datetimes().map(format_datetime),
)


@given(
    headers=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=20), texts, max_size=8),
    details=st.lists(st.none() | st.text(max_size=3) | st.dictionaries(st.just("retryDelay"), texts), max_size=3),
    now_s=st.floats(0, 4e9),
)
@example(headers={"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, details=[], now_s=0.0)
@example(headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, details=[], now_s=0.0)
@example(headers={"retry-after": " ,"}, details=[], now_s=0.0)
@example(headers={"x-ratelimit-reset-tokens": "9" * 18 + "h"}, details=[], now_s=0.0)
@example(headers={"x-ratelimit-limit-tokens": "9" * 5_000}, details=[], now_s=0.0)
def test_no_header_text_breaks_it(headers: dict[str, str], details: list[object], now_s: float) -> None:
    waiting = retry_after_s(headers, now_s, details)
    limits = rate_headers(headers, now_s)

    assert waiting is None or 0.0 <= waiting <= LONGEST_S
    if limits is not None:
        resets = (limits.requests_reset_s, limits.tokens_reset_s)
        amounts = (limits.requests_limit, limits.requests_left, limits.tokens_limit, limits.tokens_left)
        assert all(reset is None or 0.0 <= reset <= LONGEST_S for reset in resets)
        assert all(amount is None or 0 <= amount < 10**18 for amount in amounts)


@given(seconds=st.integers(0, 86_400))
def test_seconds_dates_and_durations_say_the_same(seconds: int) -> None:
    hours, rest = divmod(seconds, 3_600)
    duration = f"{hours}h{rest // 60}m{rest % 60}s"

    assert retry_after_s({"retry-after": str(seconds)}, NOW_S) == seconds
    assert retry_after_s({"retry-after": _http_date(seconds)}, NOW_S) == seconds
    assert retry_after_s({"x-ratelimit-reset-tokens": duration}, NOW_S) == pytest.approx(seconds)
    assert retry_after_s({"anthropic-ratelimit-requests-reset": _rfc3339(seconds)}, NOW_S) == seconds
