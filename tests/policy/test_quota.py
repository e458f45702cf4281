"""Windows, limits and warnings, for any amounts and times."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.quota import (
    LONGEST_WINDOW_S,
    Quota,
    QuotaUse,
    Scope,
    Unit,
    bounds,
    fits,
    parse_window,
    retry_at,
    speak,
    warning,
)

windows = st.sampled_from(("1", "60", "3600", "86400", "hour", "day", "week", "month"))
times = st.integers(0, 4_000_000_000_000)
amounts = st.integers(0, 10**12)


def at(text: str) -> int:
    """Epoch milliseconds of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def using(limit: int, used: int, held: int = 0, unit: Unit = Unit.TOKENS) -> QuotaUse:
    one = Quota(scope=Scope.ORG, subject="acme", unit=unit, limit=limit, window="3600")
    return QuotaUse(quota=one, used=used, held=held, starts_ms=0, resets_ms=3_600_000)


@given(windows, times)
def test_every_time_is_in_one_window_and_its_reset_begins_the_next(window: str, now_ms: int) -> None:
    starts_ms, resets_ms = bounds(window, now_ms)

    assert starts_ms <= now_ms < resets_ms
    assert bounds(window, starts_ms) == bounds(window, resets_ms - 1) == (starts_ms, resets_ms)
    assert bounds(window, resets_ms)[0] == resets_ms


@given(st.integers(1, LONGEST_WINDOW_S), times)
def test_seconds_are_anchored_at_the_epoch(seconds: int, now_ms: int) -> None:
    starts_ms, resets_ms = bounds(str(seconds), now_ms)

    assert starts_ms % (seconds * 1_000) == 0
    assert resets_ms - starts_ms == seconds * 1_000


@pytest.mark.parametrize(
    ("window", "starts", "resets"),
    [
        ("hour", "2028-02-29T13:00", "2028-02-29T14:00"),
        ("day", "2028-02-29T00:00", "2028-03-01T00:00"),
        ("week", "2028-02-28T00:00", "2028-03-06T00:00"),
        ("month", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("3600", "2028-02-29T13:00", "2028-02-29T14:00"),
    ],
)
def test_calendar_periods_are_those_of_utc(window: str, starts: str, resets: str) -> None:
    assert bounds(window, at("2028-02-29T13:37:42")) == (at(starts), at(resets))


def test_a_year_ends_with_december() -> None:
    assert bounds("month", at("2026-12-31T23:59:59")) == (at("2026-12-01"), at("2027-01-01"))


@pytest.mark.parametrize(("text", "window"), [("3600", "3600"), (" 0060 ", "60"), ("Day", "day"), ("month", "month")])
def test_a_window_has_one_spelling(text: str, window: str) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "1h", "year", "\u0663", "9" * 40, str(LONGEST_WINDOW_S + 1)])
def test_what_is_no_window_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match="hour, day, week, month") as refused:
        parse_window(text)
    with pytest.raises(InvalidRequest):
        bounds(text, 0)

    assert refused.value.field == "window"


@given(amounts, amounts, amounts, amounts)
def test_what_fits_never_passes_the_limit(limit: int, used: int, held: int, amount: int) -> None:
    assert fits(limit, used, held, amount) == (limit > 0 and used + held + amount <= limit)


@given(amounts)
def test_a_limit_of_zero_lets_nothing_pass(amount: int) -> None:
    assert not fits(0, 0, 0, amount)
    assert retry_at(0, amount, 9) == 0


@given(st.integers(1, 10**9), st.integers(0, 2 * 10**9))
def test_waiting_for_the_reset_helps_what_fits_an_empty_window(limit: int, amount: int) -> None:
    assert retry_at(limit, amount, 9) == (9 if fits(limit, 0, 0, amount) else 0)


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_warnings_begin_at_80_and_95_percent(limit: int, used: int, held: int, amount: int) -> None:
    said = warning(using(limit, used, held), amount)

    assert bool(said) == (used + held + amount >= limit * 0.8)


@pytest.mark.parametrize(
    ("used", "said"), [(79, ""), (80, "at 80 %"), (94, "at 94 %"), (95, "at 95 %"), (100, "at 100 %")]
)
def test_a_warning_says_how_far_it_is(used: int, said: str) -> None:
    assert said in warning(using(100, used - 1), 1)


def test_a_warning_is_speakable() -> None:
    assert warning(using(2 * 10**9, 10**9, unit=Unit.NUSD), 7 * 10**8) == (
        "Quota of org acme, dollars per 3600 s: at 85 % ($1.7000 of $2.0000). It resets at 1970-01-01 01:00:00 UTC."
    )
    assert "1,900 tokens of 2,000 tokens" in warning(using(2_000, 1_000), 900)


@pytest.mark.parametrize(
    ("scope", "subject", "window", "said"),
    [
        (Scope.ORG, "acme", "3600", "org acme, tokens per 3600 s"),
        (Scope.MODEL, "openai/gpt", "month", "model openai/gpt, tokens per month"),
        (Scope.KEY, "", "day", "key (each), tokens per day"),
        (Scope.CLI, "acme", "week", "CLI jobs of org acme, tokens per week"),
    ],
)
def test_a_quota_is_named_for_people(scope: Scope, subject: str, window: str, said: str) -> None:
    one = Quota(scope=scope, subject=subject, unit=Unit.TOKENS, limit=1, window=window)

    assert speak(one) == said


def test_a_lower_limit_keeps_the_counter() -> None:
    ids = {
        Quota(scope=Scope.ORG, subject="a", unit=Unit.TOKENS, limit=limit, window="day").id for limit in (1, 100, 10**6)
    }

    assert len(ids) == 1
