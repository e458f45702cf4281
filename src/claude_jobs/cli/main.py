"""The command `claude-jobs`: its subcommands by name, each loaded when it is used, and what becomes of an error."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import cast

import click

from claude_jobs import __version__
from claude_jobs.cli import exits
from claude_jobs.errors import ClaudeJobsError

_COMMANDS = {
    "spawn": "spawn",
    "batch": "batch",
    "ps": "jobs",
    "status": "jobs",
    "logs": "logs",
    "result": "jobs",
    "cancel": "jobs",
    "retry": "retry",
    "worktrees": "worktrees",
    "tokens": "tokens",
    "generate": "generate",
    "models": "models",
    "explain": "explain",
    "usage": "usage",
    "quota": "quota",
    "cache": "cache",
    "routes": "routes",
    "doctor": "doctor",
    "install": "install",
    "demo": "demo",
    "worker": "worker",
    "serve": "serve",
    "url": "serve",
    "token": "serve",
    "mcp": "serve",
    "completion": "completion",
}
"""Command -> the file of this package that holds it, in the order of the help."""

_MESSAGE_CHARS = 2_000


class LazyGroup(click.Group):
    """Imports a command's file when the command is asked for: `claude-jobs ps` does not pay for `demo`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"claude_jobs.cli.{_COMMANDS[cmd_name]}")
        return cast("click.Command", getattr(module, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS:
            ctx.fail(_unknown(args[0]))
        return super().resolve_command(ctx, args)


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _COMMANDS, n=1)
    return f"No command {name!r}." + (f" Did you mean {near[0]!r}?" if near else " `claude-jobs --help` lists them.")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="claude-jobs", message="%(prog)s %(version)s")
def cli() -> None:
    """Run many Claude jobs durably: queue them, watch them, read what came out.

    Jobs run in a background worker that is started when it is needed; they outlive this shell.

    \b
    Exit codes: 0 fine, 1 a job or call failed (or a check found a problem), 2 wrong usage, 3 refused,
    4 no worker or no store, 5 cancelled or expired, 6 not finished yet, 130 interrupted.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Never raises."""
    arguments = None if argv is None else list(argv)
    try:
        result: object = cli.main(args=arguments, prog_name="claude-jobs", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else exits.OK
    except click.UsageError as error:
        return _failed(_usage(error), exits.USAGE)
    except click.ClickException as error:
        return _failed(error.format_message(), exits.USAGE)
    except click.Abort:
        return exits.INTERRUPTED
    except ClaudeJobsError as error:
        return _failed(error.message, exits.of_error(error))
    except BrokenPipeError:
        # Whoever read us has gone; stdout is pointed elsewhere so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:  # the boundary of the process: one line for people, the rest on request
        if os.environ.get("CLAUDE_JOBS_LOG_LEVEL") == "debug":
            raise
        detail = " ".join(str(error).split())[:300]
        advice = "CLAUDE_JOBS_LOG_LEVEL=debug shows where; `claude-jobs doctor` looks for causes."
        return _failed(f"{type(error).__name__}: {detail}. {advice}", exits.FAILED)


def _usage(error: click.UsageError) -> str:
    where = error.ctx.command_path if error.ctx else "claude-jobs"
    message = error.format_message()
    return message if "--help" in message else f"{message} See `{where} --help`."


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"claude-jobs: {' '.join(message.split())[:_MESSAGE_CHARS]}\n")
    return code
