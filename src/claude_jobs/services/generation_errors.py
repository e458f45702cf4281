"""Errors of a call as text in the store, for those who waited for the same answer in another process."""

from __future__ import annotations

import hashlib
import json
from typing import cast

from claude_jobs import errors
from claude_jobs.domain.generation import Route
from claude_jobs.errors import ClaudeJobsError, ProviderUnavailable

_PLAIN = (str, int, float, bool, type(None))


Means = tuple[tuple[tuple[Route, ...], ...], float | None]
"""What a call has to find an answer with: its routes and its time. Others may find one where it did not."""


def told(error: ClaudeJobsError, means: Means | None) -> str:
    """The error as JSON: its class, its fields that are plain values, and who it is for."""
    fields = {name: value for name, value in vars(error).items() if isinstance(value, _PLAIN) and name != "call_id"}
    return json.dumps({"class": type(error).__name__, "fields": fields, "means": _mark(means)})


def is_for(text: str, means: Means) -> bool:
    """Whether a call with these means would have ended the same."""
    try:
        said = cast("dict[str, object]", json.loads(text))
        return said.get("means", "") == _mark(means)
    except (ValueError, AttributeError):
        return True


def _mark(means: Means | None) -> str:
    return hashlib.sha256(repr(means).encode()).hexdigest()[:16]


def revived(text: str) -> ClaudeJobsError:
    """The error again. What cannot be read is told as a provider that failed."""
    try:
        said = cast("dict[str, object]", json.loads(text))
        kind = getattr(errors, str(said["class"]), None)
        fields = cast("dict[str, object]", said["fields"])
    except (ValueError, KeyError, TypeError):
        return ProviderUnavailable("The call that was waited for failed in another process.", provider="")
    if not (isinstance(kind, type) and issubclass(kind, ClaudeJobsError)):
        return ProviderUnavailable(str(fields.get("message", "")), provider=str(fields.get("provider", "")))
    error = kind.__new__(kind, str(fields.get("message", "")))
    Exception.__init__(error, str(fields.get("message", "")))
    for name, value in fields.items():
        setattr(error, name, value)
    return error
