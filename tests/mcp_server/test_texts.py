"""The words of text answers."""

from __future__ import annotations

from typing import Any

import pytest

from claude_jobs.mcp_server.tools.texts import answer, facts
from claude_jobs.services.views import ResultView


def view(**fields: Any) -> ResultView:
    known: dict[str, Any] = {"job_id": "j-a", "state": "succeeded", "model": "m", "elapsed_s": 1.0, "note": "done"}
    return ResultView(**{**known, **fields})


def test_an_answer_with_a_schema_is_its_json() -> None:
    assert answer(view(text="Here you are: …", structured={"city": "Zürich"})) == '{"city": "Zürich"}'
    assert answer(view(text="long", structured=None)) == "long"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"denied": ("Bash",)}, ", denied: Bash"),
        ({"accepted": True}, ", its check passed"),
        ({"accepted": False, "corrections": 1}, ", its check failed, sent back once"),
        ({"corrections": 2}, ", sent back 2 times"),
        ({"worktree": "/t/j-a"}, ', changes kept in /t/j-a, the diff is in detail="full"'),
    ],
)
def test_what_else_there_is_to_know(fields: dict[str, Any], said: str) -> None:
    assert facts(view(**fields)) == said
