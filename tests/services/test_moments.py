"""Moments as people and models write them, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.errors import InvalidRequest
from claude_jobs.services.moments import MAX_AHEAD_S, parse_moment, parse_past

NOW = 1_795_000_000_123


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets this process's zone with `setenv("TZ", …)` and `time.tzset()`; it is as before at the end."""
    with monkeypatch.context() as patch:
        yield patch
    time.tzset()


def utc_ms(*when: int) -> int:
    return round(datetime(*when, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("value", "after_s"),
    [
        ("30m", 1_800),
        ("2h", 7_200),
        ("+45s", 45),
        ("1d12h", 129_600),
        ("1w", 604_800),
        (" 1H 30M ", 5_400),
        ("1.5h", 5_400),
        ("0s", 0),
        ("90", 90),
        ("+90", 90),
        (90, 90),
        (0, 0),
        (0.25, 0.25),
    ],
)
def test_a_time_from_now(value: str | float, after_s: float) -> None:
    assert parse_moment(value, NOW, "deadline") == NOW + round(after_s * 1000)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-22T10:00Z",
        "2026-11-22t10:00:00z",
        "2026-11-22 11:00+01:00",
        "20261122T100000Z",
        "2026-11-22T10:00:00.000Z",
        "2026-11-21T20:00-14:00",
        "2026-W47-7T10:00Z",
    ],
)
def test_a_point_in_time_with_its_zone(value: str) -> None:
    assert parse_moment(value, NOW, "not_before") == utc_ms(2026, 11, 22, 10)


@pytest.mark.parametrize(
    ("zone", "value", "expected"),
    [
        ("UTC", "2026-11-22T10:00", utc_ms(2026, 11, 22, 10)),
        ("Asia/Kathmandu", "2026-11-22 10:00", utc_ms(2026, 11, 22, 4, 15)),
        ("America/New_York", "2026-11-22", utc_ms(2026, 11, 22, 5)),
        ("Pacific/Kiritimati", "2026-11-22T00:00", utc_ms(2026, 11, 21, 10)),
        # Clocks go back at 03:00: 02:30 comes twice, the first is meant.
        ("Europe/Berlin", "2027-10-31T02:30", utc_ms(2027, 10, 31, 0, 30)),
        ("Europe/Berlin", "2027-10-31T03:30", utc_ms(2027, 10, 31, 2, 30)),
        # They go forward at 02:00: there is no 02:30; it lies half an hour after the change.
        ("Europe/Berlin", "2027-03-28T02:30", utc_ms(2027, 3, 28, 1, 30)),
        ("Australia/Lord_Howe", "2027-10-03T02:15", utc_ms(2027, 10, 2, 15, 45)),
    ],
)
def test_a_local_time_in_the_callers_zone_and_in_this_machines(
    local: pytest.MonkeyPatch, zone: str, value: str, expected: int
) -> None:
    local.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    asked = parse_moment(value, NOW, "deadline", zone=zone)
    local.setenv("TZ", zone)
    time.tzset()

    assert (asked, parse_moment(value, NOW, "deadline")) == (expected, expected)


@pytest.mark.parametrize("zone", ["Nowhere/At_All", "EST5EDT4,M3.2.0,M11.1.0", "../../etc/passwd", "\0", ":"])
def test_an_unknown_zone_means_this_machines(local: pytest.MonkeyPatch, zone: str) -> None:
    local.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    assert parse_moment("2026-11-22T10:00", NOW, "deadline", zone=zone) == utc_ms(2026, 11, 22, 1)


def test_a_day_of_the_change_is_longer_in_hours_but_not_from_now(local: pytest.MonkeyPatch) -> None:
    local.setenv("TZ", "Europe/Berlin")
    time.tzset()
    eve_ms = utc_ms(2027, 10, 30, 12)

    assert parse_moment("1d", eve_ms, "deadline") == eve_ms + 86_400_000


def test_the_past_is_told_not_refused() -> None:
    assert parse_moment("1999-12-31T23:59:59Z", NOW, "not_before") == utc_ms(1999, 12, 31, 23, 59, 59)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "   ",
        "tomorrow",
        "10:00",
        "-5m",
        -1,
        "30 minutes",
        "m30",
        "1h1d",
        "1h2h",
        "h",
        "+",
        "1e3",
        "0x10",
        "٣٠m",  # digits, but not ours
        "2026-02-30T10:00Z",
        "2026-11-22T25:00Z",
        "2026-11-22T10:00+99:00",
        "2026-11-22T10:00Q",
        "99999-01-01T00:00Z",
        "\ud800",
        "1" * 1_000,
        "1" * 60,
        "9" * 50 + "w",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59",
        10**400,
        -(10**400),
        1_795_248_971,  # an epoch time
        float("nan"),
        float("inf"),
        True,
    ],
)
def test_what_is_no_moment_is_refused_with_examples(value: str | float) -> None:
    with pytest.raises(InvalidRequest, match=r"(?s)^deadline=.*2026-11-22T10:00Z") as refused:
        parse_moment(value, NOW, "deadline")

    assert refused.value.field == "deadline"
    assert len(refused.value.message) < 300


def test_a_number_that_cannot_even_be_written_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="ten years"):
        parse_moment(10**5_000, NOW, "deadline")


@given(st.text(max_size=80) | st.integers() | st.floats(allow_nan=True, allow_infinity=True))
def test_anything_is_a_moment_or_refused(value: str | float) -> None:
    try:
        at_ms = parse_moment(value, NOW, "deadline")
    except InvalidRequest:
        return
    assert at_ms <= NOW + MAX_AHEAD_S * 1000


@given(st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2036, 1, 1), timezones=st.timezones()))
def test_what_isoformat_writes_is_read_back(moment: datetime) -> None:
    at_ms = parse_moment(moment.isoformat(), NOW, "deadline")

    assert abs(at_ms - moment.timestamp() * 1000) < 1


def test_a_span_may_be_how_long_ago() -> None:
    assert parse_past("1d12h", NOW, "since") == NOW - 129_600_000
    assert parse_past(90, NOW, "since") == NOW - 90_000
    assert parse_past("2026-11-01T00:00Z", NOW, "since") == utc_ms(2026, 11, 1)
    with pytest.raises(InvalidRequest, match="since='yesterday' is no time"):
        parse_past("yesterday", NOW, "since")
