"""Whether an answer satisfies its schema: looked at by us, whatever the CLI says.

A schema may hold patterns, or refer to itself: then a check may take for ever, and a regular expression of Python lets nothing
else run meanwhile, no thread and no event loop (it keeps the interpreter's lock). Such a check has a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from claude_jobs.domain.job import Failure
from claude_jobs.errors import SpawnFailed
from claude_jobs.runner import errand
from claude_jobs.runner.order import Order
from claude_jobs.runner.review import Complaint
from claude_jobs.runner.schema import Schema, compiled
from claude_jobs.runner.stream import MAX_TEXT_CHARS, Result, phrase

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

MAX_ERRORS = 10
MAX_LIGHT_WORK = 2_000_000
"""Weight of the schema times characters of the answer that are checked in our own process: well below a second."""
CHECK_S = 20.0
_MAX_MESSAGE_CHARS = 300
_MAX_REPLY_BYTES = 64 * 1024
_CHILD = (
    "import json, sys; asked = json.load(sys.stdin); sys.path[:] = asked['path']; "
    "from claude_jobs.runner.structured import answer; answer(asked)"
)


class StructuredOutput:
    """A Reviewer."""

    def __init__(self, order: Order) -> None:
        """
        Raises:
            InvalidRequest: As `check_schema`.
        """
        self._order = order
        self._schema = compiled(order.spec.output_schema)

    async def review(self, result: Result) -> Complaint | None:
        """Whether there is structured output, and whether it is what the schema asks for."""
        if not result.structured:
            return Complaint(
                failure=Failure.NO_STRUCTURED_OUTPUT,
                message="It gave no structured output, though it was reminded.",
                advice="You have not called the StructuredOutput tool. Call it with your complete answer: nothing else of it is read.",
            )
        if len(result.structured) >= MAX_TEXT_CHARS:
            return _invalid([f"It is longer than {MAX_TEXT_CHARS:,} characters."])
        try:
            errors = await self._errors(result.structured)
        except TimeoutError:
            message = f"To check its answer by output_schema took longer than {CHECK_S:g} s. Use simpler patterns."
            return Complaint(failure=Failure.INVALID_OUTPUT, message=message)
        except SpawnFailed as error:
            return Complaint(failure=Failure.CLI_ERROR, message=error.message)
        return _invalid(errors) if errors else None

    async def _errors(self, answer: str) -> list[str]:
        if self._schema.weight * len(answer) <= MAX_LIGHT_WORK:
            return await asyncio.to_thread(errors_of, self._schema, answer)
        asked = {"path": sys.path, "schema": self._order.spec.output_schema, "answer": answer}
        done = await errand.run(
            (sys.executable, "-I", "-c", _CHILD),
            cwd="/",
            env={"PATH": os.defpath, **errand.mark(self._order)},
            timeout_s=CHECK_S,
            max_bytes=_MAX_REPLY_BYTES,
            stdin=json.dumps(asked).encode(),
        )
        if done.exit_code is None:
            raise TimeoutError
        if not done.is_well:
            raise SpawnFailed(
                f"The check of the answer by output_schema failed: {phrase(done.errors)}", path=sys.executable
            )
        return json.loads(done.output)


def _invalid(errors: list[str]) -> Complaint:
    listed = "\n".join(f"- {error}" for error in errors)
    return Complaint(
        failure=Failure.INVALID_OUTPUT,
        message=f"Its answer does not satisfy output_schema: {phrase(errors[0])}",
        advice=(
            f"Your structured output does not satisfy the schema that was asked for:\n{listed}\n"
            "Correct this, and call the StructuredOutput tool once more with the complete answer."
        ),
    )


def errors_of(schema: Schema, answer: str) -> list[str]:
    """What is wrong with `answer` (JSON text), each with its place; at most MAX_ERRORS."""
    import jsonschema

    try:
        value: object = json.loads(answer)
    except ValueError as error:
        return [f"It is not JSON: {error}."]
    validator = getattr(jsonschema, schema.dialect)(schema.document)
    try:
        return [_said(error) for error in islice(validator.iter_errors(value), MAX_ERRORS)]
    except RecursionError:
        return ["It is nested too deeply to be checked."]


def _said(error: ValidationError) -> str:
    """The deepest cause: that nothing of `anyOf` fits helps nobody."""
    from jsonschema import exceptions

    error = cast("Any", exceptions).best_match([error]) or error
    message = error.message
    if len(message) > _MAX_MESSAGE_CHARS:  # it quotes the whole value
        message = f"…{message[-_MAX_MESSAGE_CHARS:]}"
    return f"At {error.json_path}: {message}"


def answer(asked: Mapping[str, Any]) -> None:
    """Entry of the process of its own: the errors as JSON on stdout."""
    sys.stdout.write(json.dumps(errors_of(compiled(asked["schema"]), asked["answer"])))
