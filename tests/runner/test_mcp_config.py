"""What a job that may spawn jobs is given: a server of ours, and the proof of who it is, in nobody else's hands."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.support import Told, order, stand_in
from support_processes import PATIENCE_S

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.runner import mcp_config
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.command import build
from claude_jobs.runner.mcp_config import Access
from claude_jobs.runner.order import Order, StopReason
from claude_jobs.runner.sweep import sweep
from claude_jobs.runner.warm import WarmPool

CLAUDE = Path("/opt/claude")
SECRET = "c0ffee" * 10


def nesting(home: Path, **spec: Any) -> Order:
    return replace(order(home, **spec), lineage_secret=SECRET)


def access(home: Path) -> Access:
    return Access(home="/state", directory=home / "lineage" / "owner")


def files(home: Path) -> list[Path]:
    return sorted(path for path in (home / "lineage").rglob("*") if path.is_file())


def test_the_server_is_our_bridge_and_the_secret_is_in_its_environment_only(tmp_path: Path) -> None:
    the_order = nesting(tmp_path)
    command = build(the_order, CLAUDE, access=access(tmp_path))
    assert command.private is not None
    (name, server) = next(iter(json.loads(command.private.text)["mcpServers"].items()))

    assert name == "claude-jobs"
    assert Path(server["command"]).is_absolute()
    assert server["args"][-1] == "mcp"
    assert "-I" in server["args"]
    assert server["env"] == {
        "CLAUDE_JOBS_HOME": "/state",
        "CLAUDE_JOBS_MARK": the_order.home_mark,
        "CLAUDE_JOBS_JOB_SECRET": SECRET,
    }
    assert f"--mcp-config={command.private.path}" in command.argv
    assert "--strict-mcp-config" in command.argv
    assert SECRET in command.secrets
    assert SECRET not in repr(command) + " ".join(command.argv) + " ".join(command.env.values())
    assert command.env["CLAUDE_JOBS_HOME"] == "/state"


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (None, ["--allowedTools=mcp__claude-jobs"]),
        ((), ["--tools=", "--allowedTools=mcp__claude-jobs"]),
        (("Read",), ["--tools=Read", "--allowedTools=mcp__claude-jobs"]),
        (("Read", "Bash(make)"), ["--tools=Read,Bash", "--allowedTools=Bash(make),mcp__claude-jobs"]),
    ],
)
def test_its_tools_are_allowed_beside_the_jobs_own(
    tmp_path: Path, tools: tuple[str, ...] | None, expected: list[str]
) -> None:
    argv = build(nesting(tmp_path, tools=tools), CLAUDE, access=access(tmp_path)).argv

    assert [word for word in argv if word.startswith(("--tools", "--allowedTools"))] == expected


def test_a_job_that_may_not_spawn_has_no_server(tmp_path: Path) -> None:
    command = build(order(tmp_path), CLAUDE, access=access(tmp_path))

    assert command.private is None
    assert not any(word.startswith(("--mcp-config", "--allowedTools")) for word in command.argv)
    assert command.env["CLAUDE_JOBS_HOME"] == "/state"


LOOK = """
import glob, re
path = next(word.partition("=")[2] for word in sys.argv if word.startswith("--mcp-config="))
text = open(path).read()
secret = json.loads(text)["mcpServers"]["claude-jobs"]["env"]["CLAUDE_JOBS_JOB_SECRET"]
modes = [oct(os.stat(one).st_mode & 0o777) for one in (path, os.path.dirname(path))]
"""


async def run(home: Path, body: str, the_order: Order | None = None) -> tuple[Outcome, Told]:
    told = Told()
    cli = ClaudeCli(stand_in(home, LOOK + body), access=access(home), pool=WarmPool())
    outcome = await cli.start(the_order or nesting(home), told).outcome()
    await cli.close()
    return outcome, told


async def test_the_file_is_private_and_gone_with_its_process(tmp_path: Path) -> None:
    outcome, _ = await run(tmp_path, "result(' '.join(modes))")

    assert outcome.text == "0o600 0o700"
    assert files(tmp_path) == []
    assert not (tmp_path / "lineage" / "owner").exists()


async def test_the_secret_is_in_nothing_that_is_kept(tmp_path: Path) -> None:
    body = """
tool("Bash", command=f"echo {secret}")
tool_result()
sys.stderr.write(f"the secret is {secret}\\n"); sys.stderr.flush()
answer(f"It is {secret}.")
result(f"It is {secret}.")
"""
    outcome, told = await run(tmp_path, body)

    assert "[redacted]" in outcome.text
    assert SECRET not in repr(outcome) + repr(told.log) + repr(told.doing)


@pytest.mark.parametrize("body", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "result('', is_error=True)"])
async def test_the_file_is_gone_however_the_process_ends(tmp_path: Path, body: str) -> None:
    outcome, _ = await run(tmp_path, body)

    assert not outcome.succeeded
    assert files(tmp_path) == []


async def test_the_file_is_there_until_a_cancel_has_ended_the_process(tmp_path: Path) -> None:
    told = Told()
    cli = ClaudeCli(stand_in(tmp_path, LOOK + "tool('Bash'); time.sleep(600)"), access=access(tmp_path))
    handle = cli.start(nesting(tmp_path), told)
    async with asyncio.timeout(PATIENCE_S):
        while not told.tools():
            await asyncio.sleep(0.01)
    during = files(tmp_path)
    handle.stop(StopReason.CANCEL)
    outcome = await handle.outcome()

    assert [path.name for path in during] == ["quiet-otter.1.json"]
    assert outcome.failure is Failure.CANCELLED
    assert files(tmp_path) == []


async def test_a_job_that_may_spawn_has_a_process_of_its_own(tmp_path: Path) -> None:
    """It ends with its job, although jobs without tools share processes otherwise."""
    outcome, told = await run(tmp_path, "result(); sys.stdin.read()", nesting(tmp_path, tools=(), project="none"))

    assert outcome.succeeded
    assert told.process is not None
    assert not Path(f"/proc/{told.process.pid}").exists()


async def test_a_claude_that_cannot_be_started_leaves_no_file(tmp_path: Path) -> None:
    script = tmp_path / "claude-broken"
    script.write_bytes(b"\x7fELF no program")
    script.chmod(0o755)
    outcome = await ClaudeCli(script, access=access(tmp_path)).start(nesting(tmp_path), Told()).outcome()

    assert not outcome.succeeded
    assert files(tmp_path) == []


async def test_a_disk_that_refuses_is_a_failure_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "lineage").write_text("in the way")
    outcome, _ = await run(tmp_path, "result()")

    assert not outcome.succeeded
    assert "lineage" in outcome.message
    assert SECRET not in outcome.message


def test_what_a_dead_owner_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    dead, living = tmp_path / "lineage" / "dead", tmp_path / "lineage" / "living"
    for directory in (dead, living):
        left = mcp_config.config_of(nesting(tmp_path), Access(home="/state", directory=directory))
        assert left is not None
        mcp_config.write(left)
        mcp_config.write(left)
    sweep(f"{tmp_path.name}:dead:", (), dead)

    assert [path.parent.name for path in files(tmp_path)] == ["living"]
    assert stat.S_IMODE(files(tmp_path)[0].stat().st_mode) == 0o600


def test_a_new_worker_sweeps_after_owners_that_held_no_job(tmp_path: Path) -> None:
    for owner in ("dead", "living"):
        left = mcp_config.config_of(nesting(tmp_path), Access(home="/state", directory=tmp_path / "lineage" / owner))
        assert left is not None
        mcp_config.write(left)
    mcp_config.sweep_all(tmp_path / "lineage", lambda owners: [owner for owner in owners if owner == "dead"])
    mcp_config.sweep_all(tmp_path / "nowhere", lambda owners: owners)

    assert [path.parent.name for path in files(tmp_path)] == ["living"]


def test_the_bridge_starts_whatever_python_settings_the_job_has(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere", "HOME": str(tmp_path), "CLAUDE_JOBS_MARK": "h:o:j:1"}
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}) + "\n"
    done = subprocess.run(
        access(tmp_path).bridge, env=env, cwd=tmp_path, input=line, capture_output=True, text=True, timeout=60
    )

    assert "inside this job" in json.loads(done.stdout)["result"]["instructions"], done.stderr
