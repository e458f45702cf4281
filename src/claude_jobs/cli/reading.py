"""Text from outside: an argument, stdin or a file. Bad bytes are replaced, and that is said."""

from __future__ import annotations

import sys

import click

from claude_jobs.cli import output
from claude_jobs.runner.paths import expanded


def read(source: str) -> str:
    """The text of a file, or of stdin for `-`.

    Raises:
        click.UsageError: It cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read() if source == "-" else expanded(source).read_bytes()
    except OSError as error:
        raise click.UsageError(f"Cannot read {source!r}: {error.strerror}. Name a readable file, or `-`.") from error
    return decode(raw, "stdin" if source == "-" else source)


def decode(raw: bytes, name: str) -> str:
    """UTF-8 text; what is not UTF-8 becomes U+FFFD, with a note."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        decoded = raw.decode("utf-8-sig", "replace")
        output.note(f"claude-jobs: {name} is not UTF-8 (byte {error.start}); bad bytes were replaced.")
        return decoded


def prompt_of(argument: str | None, file: str | None) -> str:
    """The prompt that the command line names.

    Raises:
        click.UsageError: It names none, or two.
    """
    if argument is not None and file is not None:
        raise click.UsageError("Give the prompt as an argument or with --file, not both.")
    if file is not None:
        return read(file)
    if argument is None:
        raise click.UsageError("No prompt. Give it as an argument, `-` for stdin, or @FILE.")
    if argument == "-":
        return read("-")
    if argument.startswith("@") and not any(char.isspace() for char in argument):
        return read(argument[1:])
    return argument
