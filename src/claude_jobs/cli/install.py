"""`install`: registers the MCP server with Claude Code for the user, through Claude Code's own command."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.installation import SERVER, Entry, own_command, registered
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.runner.environment import capture
from claude_jobs.runner.executable import find_claude

_CLAUDE_S = 60.0


@click.command()
@click.option("--print", "only_print", is_flag=True, help="Show what would be run, and change nothing.")
def install(only_print: bool) -> int:
    """Register with Claude Code, for all your projects."""
    claude = find_claude(os.environ.get("CLAUDE_JOBS_CLI"), os.environ.get("PATH", os.defpath))
    wanted = Entry(str(own_command()), ("mcp",))
    found = registered(os.environ)
    commands = [] if found == wanted else [*_removal(claude, found), _addition(claude, wanted)]
    if only_print:
        output.text("\n".join(shlex.join(command) for command in commands) or f"# {SERVER} is registered already")
        return exits.OK
    for command in commands:
        _run(command)
    if registered(os.environ) != wanted:
        raise ClaudeJobsError(
            f"Claude Code did not keep the entry. Try it by hand: {shlex.join(_addition(claude, wanted))}"
        )
    was = "is registered already" if not commands else "is registered" if found is None else "is registered anew"
    output.note(f"{SERVER} {was} with Claude Code: {wanted.command} mcp")
    output.note(
        "Next: start Claude Code anew, then ask it to spawn a job; `/mcp` shows the connection. Trouble: claude-jobs doctor"
    )
    return exits.OK


def _addition(claude: Path, wanted: Entry) -> list[str]:
    return [str(claude), "mcp", "add", "-s", "user", SERVER, "--", wanted.command, *wanted.args]


def _removal(claude: Path, found: Entry | None) -> list[list[str]]:
    return [] if found is None else [[str(claude), "mcp", "remove", "-s", "user", SERVER]]


def _run(command: Sequence[str]) -> None:
    env = {"PATH": os.defpath, **dict(capture(os.environ)), "DISABLE_AUTOUPDATER": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CLAUDE_S,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClaudeJobsError(f"{shlex.join(command)} could not be run: {error}. Run it by hand.") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ClaudeJobsError(f"{shlex.join(command)} failed: {said or done.returncode}. Run it by hand to see more.")
