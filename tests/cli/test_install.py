"""Registration with the real Claude Code, in a home of its own."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support_command import COMMAND, run
from support_processes import PATIENCE_S

from claude_jobs.cli.installation import Entry, own_command, registered
from claude_jobs.runner.executable import find_claude

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def claude(*args: str, environ: dict[str, str]) -> str:
    command = [str(find_claude(None, os.defpath)), *args]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


def test_print_changes_nothing(environ: dict[str, str]) -> None:
    ran = run("install", "--print", environ=environ)

    assert ran.code == 0
    assert shlex.split(ran.out)[1:] == ["mcp", "add", "-s", "user", "claude-jobs", "--", str(COMMAND), "mcp"]
    assert registered(environ) is None


def test_install_registers_once_and_repairs_a_stale_entry(environ: dict[str, str]) -> None:
    first = run("install", environ=environ)
    second = run("install", environ=environ)

    assert (first.code, second.code) == (0, 0)
    assert "is registered already" in second.err
    assert registered(environ) == Entry(str(own_command()), ("mcp",))

    file = Path(environ["CLAUDE_CONFIG_DIR"], ".claude.json")
    config = json.loads(file.read_text())
    config["mcpServers"]["claude-jobs"]["command"] = "/old/claude-jobs"
    file.write_text(json.dumps(config))
    third = run("install", environ=environ)

    assert third.code == 0
    assert "is registered anew" in third.err
    assert registered(environ) == Entry(str(own_command()), ("mcp",))


def test_claude_code_connects_to_what_was_installed(environ: dict[str, str]) -> None:
    settled = {**environ, "CLAUDE_JOBS_IDLE_SECONDS": "30"}
    try:
        ran = run("install", environ=settled)
        listed = claude("mcp", "list", environ=settled)
    finally:
        stopped = run("worker", "--stop", "--grace", "0", environ=settled)

    assert ran.code == 0, ran.err
    assert "Connected" in listed
    assert "has ended" in stopped.err


def test_install_without_claude_says_how_to_get_it(environ: dict[str, str]) -> None:
    ran = run("install", environ={**environ, "CLAUDE_JOBS_CLI": "/nowhere/claude"})

    assert ran.code == 1
    assert "Install Claude Code" in ran.err
