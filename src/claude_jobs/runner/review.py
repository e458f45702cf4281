"""What a clean answer must pass before it counts: reviewers, each with the right to send it back once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from claude_jobs.domain.job import Failure
from claude_jobs.runner.stream import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Why an answer does not count.

    Attributes:
        failure: What the attempt has come to if it stays so.
        message: For people, one line.
        advice: For the model: what is wrong, precisely, and what to do. "" if it can do nothing about it.
    """

    failure: Failure
    message: str
    advice: str = ""


class Reviewer(Protocol):
    """Looks at an answer."""

    async def review(self, result: Result) -> Complaint | None:
        """None if there is nothing to complain about."""
        ...


class Review:
    """Where one attempt's answer stands with its reviewers.

    Attributes:
        corrections: Times it was sent back.
        passed: Whether the last answer that was looked at passed all of them.
        complaint: The last one, None if the last answer passed.
    """

    def __init__(self, reviewers: Sequence[Reviewer]) -> None:
        self._reviewers = reviewers
        self._has_sent_back: set[int] = set()
        self._complainer = 0
        self.corrections = 0
        self.passed = not reviewers
        self.complaint: Complaint | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody wants to look."""
        return bool(self._reviewers)

    async def look(self, result: Result) -> None:
        """Let them look, one after another, up to the first complaint."""
        self.passed, self.complaint = False, None
        for number, reviewer in enumerate(self._reviewers):
            complaint = await reviewer.review(result)
            if complaint is not None:
                self._complainer, self.complaint = number, complaint
                return
        self.passed = True

    @property
    def may_send_back(self) -> bool:
        """Whether the model can do something about the complaint, and was not told to by the same reviewer before."""
        return (
            self.complaint is not None and self.complaint.advice != "" and self._complainer not in self._has_sent_back
        )

    def send_back(self) -> str:
        """Note that the answer goes back, and give what to tell the model."""
        assert self.complaint is not None, "nothing to correct"
        self._has_sent_back.add(self._complainer)
        self.corrections += 1
        return self.complaint.advice
