"""The acceptance check: a shell command that must end with 0 in the job's directory after its answer."""

from __future__ import annotations

import re

from claude_jobs.domain.job import Failure
from claude_jobs.errors import SpawnFailed
from claude_jobs.runner import errand
from claude_jobs.runner.order import Order
from claude_jobs.runner.review import Complaint
from claude_jobs.runner.stream import Result, phrase

MAX_OUTPUT_BYTES = 8 * 1024
_MAX_TAIL_CHARS = 400
_BOTH_STREAMS = 'exec sh -c "$1" 2>&1'
"""The command as an argument of its own: nothing of it is read twice, and its errors stand where they happened."""


class Acceptance:
    """A Reviewer. The command gets no secret, and no word of the answer."""

    def __init__(self, order: Order) -> None:
        self._order = order

    async def review(self, result: Result) -> Complaint | None:
        """Run the command. Cancelled, it is killed with all that it started."""
        spec = self._order.spec
        try:
            done = await errand.run(
                ("sh", "-c", _BOTH_STREAMS, "sh", spec.accept),
                cwd=spec.cwd,
                env=errand.environment(self._order),
                timeout_s=spec.accept_timeout_s,
                max_bytes=MAX_OUTPUT_BYTES,
                keeps_end=True,
            )
        except SpawnFailed as error:
            return self._complaint("could not be started", error.message, is_cut=False)
        if done.is_well:
            return None
        return self._complaint(_how(done.exit_code, spec.accept_timeout_s), done.output, is_cut=done.is_cut)

    def _complaint(self, how: str, output: str, *, is_cut: bool) -> Complaint:
        command = self._order.spec.accept
        tail = " ".join(output.split())[-_MAX_TAIL_CHARS:]
        said = f" It said last: {tail}" if tail else " It said nothing."
        return Complaint(
            failure=Failure.NOT_ACCEPTED,
            message=f"Its acceptance check {phrase(command)!r} {how}.{said}",
            advice=_advice(command, how, output, is_cut=is_cut),
        )


def _how(exit_code: int | None, timeout_s: float) -> str:
    if exit_code is None:
        return f"took longer than {timeout_s:g} s and was stopped"
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"failed with exit status {exit_code}"


def _advice(command: str, how: str, output: str, *, is_cut: bool) -> str:
    told = f"Its output{' (the end of it)' if is_cut else ''}:\n{_fenced(output)}" if output.strip() else "No output."
    return (
        f"Your work was checked with a command, which {how}. The command:\n{_fenced(command)}\n{told}\n"
        "Put right what it shows. When you end your turn it is run once more, for the last time."
    )


def _fenced(text: str) -> str:
    """As a block that nothing in `text` can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.strip(chr(10))}\n{fence}"
