"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is: nothing, worth knowing, jobs will not run well."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` says what to do about it, "" where there is nothing to do."""

    name: str
    status: Status
    message: str
    remedy: str = ""


def ok(name: str, message: str) -> Check:
    """All is well."""
    return Check(name, Status.OK, message)


def noted(name: str, message: str, remedy: str = "") -> Check:
    """Worth knowing."""
    return Check(name, Status.NOTE, message, remedy)


def problem(name: str, message: str, remedy: str) -> Check:
    """Something is wrong."""
    return Check(name, Status.PROBLEM, message, remedy)
