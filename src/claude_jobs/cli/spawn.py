"""`spawn`: one job, left running or followed to its end. The options of a job live here too."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from claude_jobs.cli import output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.documents import mapping
from claude_jobs.cli.reading import prompt_of, read
from claude_jobs.cli.waiting import show_result, wait_for

F = TypeVar("F", bound=Callable[..., Any])


def schema_of(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, object] | None:
    """A JSON Schema from the command line, as text or from a file."""
    if not value:
        return None
    text = value if value.lstrip()[:1] in ("{", "[") else read(value)
    try:
        schema = mapping(json.loads(text))
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}. Give a file, or an object as text.") from error
    if schema is None:
        raise click.BadParameter('a JSON Schema is an object, as {"type": "object"}.')
    return schema


_JOB_OPTIONS = (
    click.option("--model", default="", help="Model name or alias."),
    click.option("--cwd", default="", help="Directory the job works in. Default: this one."),
    click.option("--system", default="", help="Text appended to the system prompt."),
    click.option(
        "--tools",
        "tools",
        multiple=True,
        metavar="TOOL",
        help="Tool or rule, as 'Read' or 'Bash(git *)'. Repeat; '' for none.",
    ),
    click.option("--permission-mode", type=click.Choice(["acceptEdits", "dontAsk", "plan", "bypassPermissions"])),
    click.option(
        "--project",
        type=click.Choice(["none", "instructions", "full"]),
        help="What of the directory's own Claude files counts.",
    ),
    click.option("--effort", type=click.Choice(["low", "medium", "high", "xhigh", "max"]), help="Reasoning effort."),
    click.option(
        "--max-cost",
        "max_cost_usd",
        type=click.FloatRange(min=0, min_open=True),
        metavar="DOLLARS",
        help="Budget of the whole job.",
    ),
    click.option("--priority", type=int, default=0, help="Each level is worth a minute in the queue."),
    click.option(
        "--label", "label_list", multiple=True, metavar="LABEL", help="For finding it again. May be repeated."
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Longest running time of an attempt.",
    ),
    click.option("--max-attempts", type=click.IntRange(min=1), help="Attempts in all; a usage limit is not one."),
    click.option("--strict", is_flag=True, help="A denied tool makes the job fail."),
    click.option(
        "--fresh/--shared",
        default=None,
        help="A claude process of its own, or one that takes job after job. Default: shared if it has no tools.",
    ),
    click.option("--org", default="", help="Who is billed, for your own accounting."),
    click.option(
        "--deadline", default="", metavar="MOMENT", help="Expire it if it has not ended by then: 2h, 2026-11-22T10:00Z."
    ),
    click.option("--not-before", default="", metavar="MOMENT", help="Start it then at the earliest."),
    click.option(
        "--output-schema",
        callback=schema_of,
        metavar="FILE|JSON",
        help="JSON Schema that the answer must satisfy; the answer is JSON then.",
    ),
    click.option("--worktree", is_flag=True, help="Work in a git worktree of its own; kept if it holds changes."),
    click.option(
        "--accept", default="", metavar="COMMAND", help="Shell command that must succeed when the job is done."
    ),
    click.option(
        "--accept-timeout",
        "accept_timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long that command may take.",
    ),
    click.option("--nest/--no-nest", default=None, help="Whether it may spawn jobs. Default: if its tools allow it."),
)


_THREE_WAY = ("fresh", "nest")
"""Flags for which "no" is an answer, and not the same as none."""


def job_options(command: F) -> F:
    """Everything that can be asked of a job but its prompt and key."""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


def rehearsal_options(command: F) -> F:
    """`--rehearsal` and its script."""
    command = click.option(
        "--rehearsal-script",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="What the rehearsal plays (JSON); implies --rehearsal.",
    )(command)
    return click.option("--rehearsal", is_flag=True, help="Play it with fake tokens, a home of its own and no cost.")(
        command
    )


def request_fields(options: Mapping[str, object]) -> dict[str, object]:
    """The fields of a request out of the options that were given; what was not given is left to the worker."""
    fields = {name: value for name, value in options.items() if value not in (None, "", False, 0, ())}
    fields |= {name: False for name in _THREE_WAY if options.get(name) is False}
    labels = cast("Sequence[str]", fields.pop("label_list", ()))
    if "tools" in fields:
        fields["tools"] = [tool for tool in cast("Sequence[str]", fields["tools"]) if tool]
    if labels:
        fields |= {"label": labels[0], "labels": list(labels[1:])}
    return fields


@click.command()
@click.argument("prompt", required=False)
@click.option("--file", "-f", metavar="FILE", help="Read the prompt from a file.")
@job_options
@click.option("--depends-on", multiple=True, metavar="ID", help="Run it after this job. May be repeated.")
@click.option("--needs", type=click.Choice(["all", "any"]), help="How many of them must come first. Default: all.")
@click.option("--on", type=click.Choice(["success", "end"]), help="What they must come to. Default: success.")
@click.option("--resume", default="", metavar="ID", help="Go on with the session of this job, which has ended.")
@click.option("--fork", is_flag=True, help="With --resume: in a copy of that session.")
@click.option("--key", default="", help="Idempotency key: the same key never makes a second job.")
@click.option("--wait/--detach", default=False, help="Follow it to its end and print the answer.")
@rehearsal_options
@output.json_option
def spawn(
    prompt: str | None,
    file: str | None,
    key: str,
    wait: bool,
    rehearsal: bool,
    rehearsal_script: Path | None,
    as_json: bool,
    **options: object,
) -> int:
    """Hand one job to the queue.

    PROMPT is the task: text, `-` for stdin, or @FILE. Put `--` before one that begins with a dash:
    claude-jobs spawn --wait -- "-v means what?"
    """
    item = {"prompt": prompt_of(prompt, file), **request_fields(options), "key": key or own_key()}
    with site(rehearsal=rehearsal, script=rehearsal_script) as environ, Connection(environ) as worker:
        answer = worker.call("submit", {"items": [item]})
        job = answer["jobs"][0]
        known = "" if job["is_new"] else " (already known by its key)"
        output.note(f"Job {job['job_id']} is {job['state']}{known}; paid by {answer['payer']}.")
        if wait or environ is not None:
            return show_result(wait_for(worker, job["job_id"]), as_json=as_json)
    if as_json:
        output.emit({**job, "payer": answer["payer"]})
    else:
        output.text(job["job_id"])
    return 0


def own_key() -> str:
    """A key for a job that has none: should the worker go away in mid-submit, asking again makes no second job."""
    return f"shell:{uuid.uuid4().hex}"


@contextlib.contextmanager
def site(*, rehearsal: bool, script: Path | None) -> Generator[dict[str, str] | None]:
    """The environment of a rehearsal while it lasts, None for the real one."""
    if not rehearsal and script is None:
        yield None
        return
    from claude_jobs.cli.rehearse import rehearsed  # only a rehearsal pays for it

    with rehearsed(script) as stage:
        output.note(f"Rehearsal: {len(stage.secrets)} fake tokens, no cost; everything is removed at the end.")
        yield stage.environ
