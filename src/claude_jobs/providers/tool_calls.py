"""Arguments of tool calls as models write them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from claude_jobs.domain.generation import FinishReason, ToolResult


def arguments_of(text: str, finish: FinishReason) -> Mapping[str, object] | None:
    """The arguments of one call; None if the answer was cut off before they were complete.

    Raises:
        ValueError: They are no JSON object.
    """
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        if finish is FinishReason.LENGTH:
            return None
        raise
    if not isinstance(arguments, dict):
        raise ValueError("arguments are no object")
    return cast("dict[str, object]", arguments)


def result_text(result: ToolResult) -> str:
    """A tool's result for an API that knows no failed ones."""
    return f"Error: {result.text}" if result.is_error else result.text
