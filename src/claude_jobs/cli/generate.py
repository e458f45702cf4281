"""`generate`: one question to a model, its answer on stdout as it comes, what it cost on stderr."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.reading import prompt_of
from claude_jobs.cli.spawn import rehearsal_options, schema_of, site
from claude_jobs.errors import ClaudeJobsError

MAX_IMAGES_BYTES = 20 << 20
"""All together, as files: one line to the worker carries them, a third longer in base64."""
_LATE_S = 30.0
"""How much later than asked for the worker may say that the time is over."""

F = TypeVar("F", bound=Callable[..., Any])
View = dict[str, Any]


def provider_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: providers and their aliases."""
    from claude_jobs.policy import providers

    known = (*providers.NAMES, providers.CLAUDE_CLI, *providers.ALIASES)
    return [name for name in known if name.startswith(incomplete)]


_OPTIONS = (
    click.option(
        "--provider",
        default="",
        shell_complete=provider_names,
        help="openai, claude, gemini, llama, grok, qwen or claude-cli. Default: the model's own, else claude-cli.",
    ),
    click.option(
        "--model",
        default="",
        help="Its name, also as PROVIDER/MODEL. Default: the provider's. See `claude-jobs models`.",
    ),
    click.option("--system", default="", help="System prompt."),
    click.option(
        "--fallback",
        "fallbacks",
        multiple=True,
        metavar="PROVIDER[/MODEL]",
        shell_complete=provider_names,
        help="Ask this one when those before it cannot answer. May be repeated.",
    ),
    click.option("--temperature", type=click.FloatRange(0, 2), help="Above 0.7 answers are not kept."),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. Default: MAX_TOKENS."),
    click.option(
        "--schema",
        "--output-schema",
        "output_schema",
        callback=schema_of,
        metavar="FILE|JSON",
        help="JSON Schema of the answer; it is JSON then.",
    ),
    click.option("--effort", type=click.Choice(["none", "low", "medium", "high"]), help="How much it may think."),
    click.option("--org", default="", help="Who is billed, for quotas and `claude-jobs usage`."),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True, max=86_400),
        metavar="SECONDS",
        help="For everything, retries and fallbacks included.",
    ),
)


def _asking(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("prompt", required=False)
@click.option("--file", "-f", metavar="FILE", help="Read the prompt from a file.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A picture to look at (PNG, JPEG, GIF, WebP). May be repeated.",
)
@_asking
@click.option("--no-cache", is_flag=True, help="Neither read nor keep an answer.")
@click.option("--refresh", is_flag=True, help="Ask anew, and keep the answer.")
@click.option("--stream/--no-stream", default=None, help="Print it as it comes. Default: to a terminal.")
@rehearsal_options
@output.json_option
def generate(
    prompt: str | None,
    file: str | None,
    images: tuple[Path, ...],
    no_cache: bool,
    refresh: bool,
    stream: bool | None,
    rehearsal: bool,
    rehearsal_script: Path | None,
    as_json: bool,
    **options: object,
) -> int:
    """Ask a model one question and print its answer.

    PROMPT is text, `-` for stdin, or @FILE. No files are worked on; `spawn` is for that. Ctrl-C ends the call; what was
    used until then is billed. With --json --stream: one JSON object a line, the answer as the last.
    """
    if no_cache and refresh:
        raise click.UsageError("--no-cache keeps nothing, --refresh does. Say one of them.")
    fields = {
        **{name: value for name, value in options.items() if value is not None and value not in ("", ())},
        **question(prompt_of(prompt, file), images),
        "cache": "off" if no_cache else "refresh" if refresh else "use",
    }
    is_shown = (output.is_terminal() and not as_json) if stream is None else stream
    with site(rehearsal=rehearsal, script=rehearsal_script) as environ, Connection(environ) as worker:
        return ask(worker, fields, is_shown=is_shown, as_json=as_json, is_kept=environ is None)


def question(prompt: str, images: Sequence[Path]) -> dict[str, object]:
    """The request's fields that say what is asked.

    Raises:
        click.UsageError: A file that is no picture or cannot be read, or too much of them.
    """
    if not images:
        return {"prompt": prompt}
    parts: list[dict[str, str]] = []
    left = MAX_IMAGES_BYTES
    for path in images:
        content = _picture(path)
        left -= len(content)
        if left < 0:
            raise click.UsageError(f"The images are larger than {MAX_IMAGES_BYTES >> 20} MB together. Scale them down.")
        parts.append(_image_part(path, content))
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]}


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"Cannot read {str(path)!r}: {error.strerror}.") from error


def _image_part(path: Path, content: bytes) -> dict[str, str]:
    import base64

    from claude_jobs.policy.pictures import media_type

    kind = media_type(content)
    if not kind:
        raise click.UsageError(f"{str(path)!r} is no PNG, JPEG, GIF or WebP picture. Convert it.")
    return {"type": "image", "media_type": kind, "data": base64.b64encode(content).decode("ascii")}


def ask(
    worker: Connection, fields: Mapping[str, object], *, is_shown: bool, as_json: bool, is_kept: bool = True
) -> int:
    """Ask, print, and say what it was; the exit code.

    Args:
        is_shown: Print the answer as it comes.
        is_kept: Whether the record of the call can be looked at later.
    """
    timeout_s = fields.get("timeout_s")
    printer = _Printer(as_json=as_json)
    method, more = ("stream_generate", {"cache_stream": True}) if is_shown else ("generate", {})
    try:
        # Never asked twice: the first time may be billed.
        answer: View = worker.call(
            method,
            {**fields, **more},
            on_event=printer.show,
            again=False,
            timeout_s=timeout_s + _LATE_S if isinstance(timeout_s, float) else None,
        )
    except KeyboardInterrupt:
        printer.end()
        output.note("Ended. What the model had used by then is billed.")
        raise
    except ClaudeJobsError as error:
        printer.end()
        if error.call_id and is_kept:
            error.message += f" What was tried: claude-jobs explain {error.call_id}"
        raise
    printer.answer(answer, is_line=is_shown)
    if not as_json:
        for line in remarks(answer):
            output.note(output.safe(line))
        output.note(output.safe(footer(answer, is_kept=is_kept)))
    return exits.FAILED if answer["finish_reason"] == "content_filter" else exits.OK


class _Printer:
    """Prints an answer as it comes; what is left of it at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last = ""

    def show(self, delta: View) -> None:
        """One piece. Only text is for people; a program gets all."""
        if self._as_json:
            output.emit_line(delta)
        elif delta["type"] == "text" and delta["text"]:
            output.piece(delta["text"])
            self._last = delta["text"]

    def answer(self, answer: View, *, is_line: bool) -> None:
        """The whole of it, if it has not been shown."""
        if self._as_json:
            (output.emit_line if is_line else output.emit)({"type": "answer", **answer} if is_line else answer)
        elif self._last:
            self.end()
        elif answer["text"]:
            output.piece(answer["text"])
            self._last = answer["text"]
            self.end()

    def end(self) -> None:
        """Go to a new line."""
        if self._last and not self._last.endswith("\n"):
            output.piece("\n")
        self._last = ""


def remarks(answer: View) -> list[str]:
    """What of the request was changed, quotas that are nearly used up, an answer that is not whole."""
    quotas = [step["why"] for step in answer["explain"] if (step["what"], step["outcome"]) == ("quota", "warning")]
    lines = [f"Note: {warning}" for warning in (*answer["warnings"], *quotas)]
    ends = {
        "length": "Note: The answer was cut at its longest length. Raise --max-tokens.",
        "content_filter": "Note: The provider's filter ended the answer.",
    }
    return [*lines, ends[answer["finish_reason"]]] if answer["finish_reason"] in ends else lines


def footer(answer: View, *, is_kept: bool = True) -> str:
    """What answered, in which time, with how many tokens, for what."""
    usage = answer["usage"]
    read = usage["input_tokens"] + usage["cache_read_tokens"] + usage["cache_write_tokens"]
    tokens = f"{read} + {usage['output_tokens']} tokens"
    parts = [
        f"{answer['provider']}/{answer['model']} in {output.duration(answer['timings']['total_ms'] / 1000)}",
        tokens if usage["provenance"] == "reported" else f"{tokens} ({usage['provenance']})",
        output.price(answer),
    ]
    if answer["cached"]:
        parts.append(_CACHED[answer["cached"]].format(age=output.duration(answer["age_s"])))
    if answer["job_id"]:
        parts.append(f"job {answer['job_id']}")
    parts.append(f"claude-jobs explain {answer['id']}" if is_kept else f"call {answer['id']}")
    return " · ".join(parts)


_CACHED = {
    "hit": "from the cache, {age} old",
    "stale": "from the cache, {age} old and due",
    "coalesced": "shared with the same question",
}
