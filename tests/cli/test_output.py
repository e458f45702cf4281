import json

import pytest

from claude_jobs.cli import exits, output
from claude_jobs.cli.logs import line
from claude_jobs.cli.tokens import row
from claude_jobs.errors import (
    ClaudeJobsError,
    ClaudeNotFound,
    InvalidRequest,
    JobNotFound,
    NoTokenAvailable,
    QueueFull,
    StoreUnavailable,
    WorkerLost,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x", field="model"), 2),
        (JobNotFound("j-1"), 2),
        (QueueFull(limit=1, queued=1, asked=1), 3),
        (NoTokenAvailable("x"), 3),
        (StoreUnavailable("x", path="/x"), 4),
        (WorkerLost("x"), 4),
        (ClaudeNotFound(), 1),
    ],
)
def test_each_error_has_its_exit_code(error: ClaudeJobsError, code: int) -> None:
    assert exits.of_error(error) == code


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["succeeded", "succeeded"], 0),
        (["succeeded", "failed", "cancelled"], 1),
        (["succeeded", "expired"], 5),
        (["succeeded", "running"], 6),
        ([], 0),
    ],
)
def test_the_worst_state_decides_the_exit_code(states: list[str], code: int) -> None:
    assert exits.of_states(states) == code


def test_plain_table_is_aligned_and_free_of_control_characters() -> None:
    lines = output.plain(
        [{"id": "j-1", "note": "a\x1b[31mb\nc"}, {"id": "j-22", "note": None}], {"id": "JOB", "note": "NOTE"}
    )

    assert lines == ["JOB   NOTE", "j-1   a [31mb c", "j-22"]


def test_empty_table_says_so_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([], {"id": "JOB"}, empty="Nothing here.")
    said = capsys.readouterr()

    assert (said.out, said.err) == ("", "Nothing here.\n")


def test_json_keeps_other_alphabets(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"text": "größer → 大"})
    said = capsys.readouterr().out

    assert "größer → 大" in said
    assert json.loads(said) == {"text": "größer → 大"}


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0 s"), (42.4, "42 s"), (600, "10 min"), (9_000, "2.5 h")])
def test_durations_are_short(seconds: float, said: str) -> None:
    assert output.duration(seconds) == said


def test_event_line_has_kind_and_facts() -> None:
    event = {"seq": 1, "job_id": "j-1", "epoch": 1, "at": "2026-11-21T10:00:00.123+00:00", "kind": "retry"}
    said = line({**event, "failure": "overloaded", "message": "try\nagain", "cost_nusd": 1_500_000, "reason": ""})

    assert "retry" in said
    assert "failure=overloaded" in said
    assert "cost_nusd=0.0015$" in said
    assert "\n" not in said


def test_token_row_shows_windows_as_percent() -> None:
    shown = row({"utilization": {"five_hour": 0.5, "seven_day_opus": 0.25}, "cost_usd": 0.0})

    assert shown["used"] == "5h 50% seven_day_opus 25%"
