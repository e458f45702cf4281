"""doctor on healthy and broken states. It must never start a worker."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support_command import run
from support_processes import wait_until

from claude_jobs.cli.rehearse import Stage
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home
from claude_jobs.stores.sqlite.store import open_sqlite

TOKEN = "sk-ant-oat01-not-a-real-one"


def findings(environ: dict[str, str]) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    ran = run("doctor", "--json", environ=environ)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in ran.json()["checks"]:
        found.setdefault(check["name"], []).append(check)

    assert TOKEN not in ran.out + ran.err
    return ran.code, found


def test_all_is_well_with_a_token_and_nothing_is_made(environ: dict[str, str]) -> None:
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert code == 0
    assert [check["status"] for check in found["claude"]] == ["ok"]
    assert "CLAUDE_CODE_TOKEN" in found["billing"][0]["message"]
    assert "none runs" in found["worker"][0]["message"]
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_no_credential_is_a_problem_with_a_remedy(environ: dict[str, str]) -> None:
    code, found = findings(environ)

    assert code == 1
    assert found["billing"][0]["status"] == "problem"
    assert "claude /login" in found["billing"][0]["remedy"]


def test_an_api_key_alone_is_said_to_bill_per_use(environ: dict[str, str]) -> None:
    code, found = findings({**environ, "ANTHROPIC_API_KEY": "sk-ant-api03-nothing"})

    assert code == 0
    assert "per use" in found["billing"][0]["message"]


def test_an_api_key_of_the_own_file_alone_is_said_to_bill_per_use(environ: dict[str, str]) -> None:
    state = Path(environ["CLAUDE_JOBS_HOME"])
    state.mkdir(mode=0o700)
    (state / ".env").write_text("ANTHROPIC_API_KEY=sk-ant-api03-nothing\n")
    (state / ".env").chmod(0o600)
    code, found = findings(environ)

    assert code == 0
    assert "per use" in found["billing"][0]["message"]
    assert str(state / ".env") in found["billing"][0]["message"]


def test_a_claude_that_does_not_say_whether_it_is_logged_in_is_a_problem(
    environ: dict[str, str], tmp_path: Path
) -> None:
    mute = tmp_path / "mute"
    mute.write_text('#!/bin/sh\n[ "$1" = auth ] || echo 0.0.0 stand-in\n')
    mute.chmod(0o755)
    mute_environ = {**environ, "CLAUDE_JOBS_CLI": str(mute)}
    code, found = findings({**mute_environ, "ANTHROPIC_API_KEY": "sk-ant-api03-nothing"})
    with_token, _ = findings({**mute_environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert (code, with_token) == (1, 0)
    assert "could not be found out" in found["billing"][0]["message"]


def test_keys_of_providers_are_told_by_their_variables(environ: dict[str, str]) -> None:
    state = Path(environ["CLAUDE_JOBS_HOME"])
    state.mkdir(mode=0o700)
    (state / ".env").write_text("XAI_API_KEY=xai-secret\nOPENAI_API_KEY=sk-of-the-file\n")
    (state / ".env").chmod(0o600)
    given = {**environ, "CLAUDE_CODE_TOKEN": TOKEN, "OPENAI_API_KEY": "sk-one", "OPENAI_API_KEY2": "sk-two"}
    ran = run("doctor", "--json", environ=given)
    (check,) = [check for check in ran.json()["checks"] if check["name"] == "providers"]

    assert check["status"] == "ok"
    assert "openai by OPENAI_API_KEY, OPENAI_API_KEY2;" in check["message"]
    assert f"grok by XAI_API_KEY of {state / '.env'};" in check["message"]
    assert "gemini (GOOGLE_API_KEY)" in check["message"].partition("No key for")[2]
    assert not any(secret in ran.out + ran.err for secret in ("sk-one", "sk-two", "sk-of-the-file", "xai-secret"))


def test_an_api_key_beside_a_token_is_said_to_be_unused(environ: dict[str, str]) -> None:
    _, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN, "ANTHROPIC_API_KEY": "sk-ant-api03-nothing"})

    assert "ANTHROPIC_API_KEY" in found["billing"][1]["message"]
    assert found["billing"][1]["status"] == "note"


def test_a_claude_that_is_not_there_is_named(environ: dict[str, str]) -> None:
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN, "CLAUDE_JOBS_CLI": "/nowhere/claude"})

    assert code == 1
    assert "/nowhere/claude" in found["claude"][0]["message"]
    assert "pip install" in found["claude"][0]["remedy"]


def test_a_wrong_setting_is_named(environ: dict[str, str]) -> None:
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN, "CLAUDE_JOBS_SLOTS": "many"})

    assert code == 1
    assert "CLAUDE_JOBS_SLOTS" in found["settings"][0]["message"]


def test_a_damaged_database_is_named(environ: dict[str, str]) -> None:
    database = Path(environ["CLAUDE_JOBS_HOME"], "db", "jobs.db")
    database.parent.mkdir(parents=True)
    database.write_bytes(b"this is no database at all" * 100)
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert code == 1
    assert "damaged" in found["store"][0]["message"]
    assert "mv " in found["store"][0]["remedy"]


def test_a_process_that_holds_the_lock_for_long_is_named(environ: dict[str, str]) -> None:
    directory = Path(environ["CLAUDE_JOBS_HOME"], "db")
    open_sqlite(directory).close()
    _, before = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})
    hold = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, 2); print(flush=True); input()"
    argv = [sys.executable, "-c", hold, str(directory / "jobs.lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})
        holder.send_signal(signal.SIGSTOP)
        _, asleep = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})
        holder.kill()

    assert "lock" not in before
    assert code == 1
    assert f"Process {holder.pid} " in found["lock"][0]["message"]
    assert asleep["lock"][0]["remedy"] == f"kill -CONT {holder.pid}"


def test_a_newer_database_asks_for_an_upgrade(environ: dict[str, str]) -> None:
    database = Path(environ["CLAUDE_JOBS_HOME"], "db", "jobs.db")
    database.parent.mkdir(parents=True)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    _, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert found["store"][0]["status"] == "problem"
    assert "Upgrade" in found["store"][0]["remedy"]


def test_a_healthy_store_is_counted_while_no_worker_runs(environ: dict[str, str]) -> None:
    open_sqlite(Path(environ["CLAUDE_JOBS_HOME"], "db")).close()
    Path(environ["CLAUDE_JOBS_HOME"]).chmod(0o700)
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert code == 0
    assert "no jobs" in found["store"][0]["message"]


def test_a_directory_without_write_permission_is_a_problem(environ: dict[str, str]) -> None:
    state = Path(environ["CLAUDE_JOBS_HOME"])
    state.mkdir(mode=0o500)
    code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})
    state.chmod(0o700)

    assert code == 1
    assert "cannot be written to" in found["state"][0]["message"]


def test_secrets_that_others_can_read_are_a_problem(environ: dict[str, str]) -> None:
    state = Path(environ["CLAUDE_JOBS_HOME"])
    state.mkdir(mode=0o700)
    (state / ".env").write_text(f"CLAUDE_CODE_TOKEN={TOKEN}\n")
    (state / ".env").chmod(0o644)
    code, found = findings(environ)

    assert code == 1
    assert any("chmod 600" in check["remedy"] for check in found["state"])
    assert "CLAUDE_CODE_TOKEN" in found["billing"][0]["message"]


def test_an_entry_of_claude_code_that_leads_nowhere_is_a_problem(environ: dict[str, str]) -> None:
    entry = {"type": "stdio", "command": "/gone/claude-jobs", "args": ["mcp"]}
    Path(environ["CLAUDE_CONFIG_DIR"], ".claude.json").write_text(json.dumps({"mcpServers": {"claude-jobs": entry}}))
    _, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})

    assert found["mcp"][0]["status"] == "problem"
    assert found["mcp"][0]["remedy"] == "claude-jobs install"


def test_processes_of_a_dead_worker_are_named(environ: dict[str, str]) -> None:
    home = Home.resolve(environ)
    home.prepare()
    marked = {**os.environ, "CLAUDE_JOBS_MARK": f"{home.home_id}:deadbeef:j-1:1"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=marked) as orphan:
        wait_until(lambda: proctree.mark_of(orphan.pid))
        code, found = findings({**environ, "CLAUDE_CODE_TOKEN": TOKEN})
        orphan.kill()

    assert code == 1
    assert str(orphan.pid) in found["orphans"][0]["message"]


@pytest.mark.slow
def test_a_running_worker_is_described_and_a_stopped_one_is_found_out(stage: Stage) -> None:
    assert run("ps", environ=stage.environ).code == 0
    code, found = findings(stage.environ)

    assert code == 0
    assert "slots free" in found["worker"][0]["message"]
    pid = int(found["worker"][0]["message"].split("pid ")[1].split(":")[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        code, found = findings(stage.environ)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert code == 1
    assert found["worker"][0]["remedy"] == f"kill -CONT {pid}"
