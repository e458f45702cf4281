"""What the command does without a worker: usage, help, completion, errors in one line."""

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from support_command import COMMAND, run

from claude_jobs.cli import main as command
from claude_jobs.cli.main import cli, main
from claude_jobs.cli.spawn import request_fields


def test_every_command_has_a_help_line() -> None:
    ran = CliRunner().invoke(cli, ["--help"])

    assert ran.exit_code == 0
    for name in (
        *[
            "mcp",
            "worker",
            "serve",
            "spawn",
            "batch",
            "ps",
            "status",
            "logs",
            "result",
            "cancel",
            "retry",
            "worktrees",
            "tokens",
        ],
        *["doctor", "install", "demo", "url", "token"],
        *["generate", "models", "explain", "usage", "quota", "cache", "routes"],
    ):
        assert f"\n  {name} " in ran.output


def test_unknown_command_is_a_usage_error_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["spwan"])

    assert code == 2
    assert "Did you mean 'spawn'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["spawn"],
        ["spawn", "x", "--effort", "huge"],
        ["spawn", "x", "--max-cost", "0"],
        ["cancel"],
        ["cancel", "j-1", "--all"],
        ["status", "--state", "odd"],
        ["retry"],
        ["spawn", "x", "--on", "failure"],
        ["spawn", "x", "--output-schema", "{"],
        ["spawn", "x", "--output-schema", "[1]"],
        ["batch", "no-such-file.yaml"],
        ["generate"],
        ["generate", "x", "--no-cache", "--refresh"],
        ["generate", "x", "--image", "no-such-file.png"],
        ["quota", "set"],
        ["quota", "set", "many"],
        ["quota", "drop"],
        ["cache", "clear"],
        ["cache", "clear", "--all", "--org", "acme"],
        ["usage", "--since", "yesterday"],
        ["explain", "--limit", "0"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(args)
    said = capsys.readouterr()

    assert code == 2
    assert said.out == ""
    assert said.err.startswith("claude-jobs: ")
    assert said.err.count("\n") == 1


def test_no_worker_and_none_allowed_is_code_4(environ: dict[str, str]) -> None:
    ran = run("ps", environ={**environ, "CLAUDE_JOBS_WORKER": "none"})

    assert ran.code == 4
    assert ran.err.startswith("claude-jobs: No worker runs")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("args", [["url"], ["url", "--json"]])
def test_url_without_a_worker_starts_none(environ: dict[str, str], args: list[str]) -> None:
    ran = run(*args, environ=environ)

    assert ran.code == 4
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_stop_without_a_worker_is_fine(environ: dict[str, str]) -> None:
    ran = run("worker", "--stop", environ=environ)

    assert (ran.code, ran.err) == (0, "No worker runs.\n")


def test_state_directory_that_cannot_be_made_is_code_4(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run("spawn", "hello", environ={**environ, "CLAUDE_JOBS_HOME": str(tmp_path / "file" / "state")})

    assert ran.code == 4
    assert "CLAUDE_JOBS_HOME" in ran.err
    assert "Traceback" not in ran.err


def test_batch_error_names_the_line_before_a_worker_is_started(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('"fine"\n{"prompt": "x", "modle": "haiku"}\n')
    ran = run("batch", str(file), environ=environ)

    assert ran.code == 2
    assert "Line 2: Unknown field 'modle'" in ran.err
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_what_cannot_be_resumed_says_why(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("- one\n")
    stdin = run("batch", "-", "--resume", environ=environ, stdin=b"- one\n")
    rehearsal = run("batch", str(file), "--resume", "--rehearsal", environ=environ)

    assert (stdin.code, rehearsal.code) == (2, 2)
    assert "--resume needs a plan file" in stdin.err
    assert "nothing to --resume" in rehearsal.err


def test_token_is_made_once_and_private(environ: dict[str, str]) -> None:
    first, second = run("token", environ=environ), run("token", environ=environ)
    file = Path(environ["CLAUDE_JOBS_HOME"], "http.token")

    assert first.code == 0
    assert len(first.out.strip()) > 30
    assert first.out == second.out
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["completion", shell])

    assert code == 0
    assert "_CLAUDE_JOBS_COMPLETE" in capsys.readouterr().out


def test_completion_answers_without_a_worker(environ: dict[str, str]) -> None:
    asked = {"_CLAUDE_JOBS_COMPLETE": "bash_complete", "COMP_WORDS": "claude-jobs sp", "COMP_CWORD": "1"}
    ran = run(environ={**environ, **asked})

    assert ran.out.split() == ["plain,spawn"]


def test_a_closed_pipe_is_no_error(environ: dict[str, str]) -> None:
    done = subprocess.run(f"{COMMAND} --help | true", shell=True, env=environ, capture_output=True, check=True)

    assert done.stderr == b""


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ValueError("some\nthing")

    monkeypatch.setattr(command.cli, "main", breaks)
    code = main([])

    assert code == 1
    assert "claude-jobs: ValueError: some thing." in capsys.readouterr().err


def test_no_nest_is_an_answer_and_no_option_is_none() -> None:
    assert request_fields({"nest": None, "worktree": False, "depends_on": ()}) == {}
    assert request_fields({"nest": False, "worktree": True, "depends_on": ("j-a",)}) == {
        "nest": False,
        "worktree": True,
        "depends_on": ("j-a",),
    }
    assert request_fields({"nest": True, "fresh": False}) == {"nest": True, "fresh": False}


def test_options_become_request_fields_and_the_rest_is_left_out() -> None:
    options = {
        "model": "",
        "strict": False,
        "tools": ("Read", ""),
        "label_list": ("a", "b"),
        "timeout_s": 5.0,
        "effort": None,
    }

    assert request_fields(options) == {"tools": ["Read"], "label": "a", "labels": ["b"], "timeout_s": 5.0}
    assert request_fields({"tools": ("",)}) == {"tools": []}


def test_unit_names_absolute_paths_and_no_token(environ: dict[str, str], tmp_path: Path) -> None:
    given = {**environ, "CLAUDE_CODE_TOKEN": "sk-ant-oat01-very-secret", "PATH": f"/odd 100%:{os.environ['PATH']}"}
    ran = run("worker", "--install", environ=given)
    unit = Path(environ["HOME"], ".config/systemd/user/claude-jobs.service")

    assert ran.code == 0
    assert ran.out.strip() == str(unit)
    assert f'ExecStart="{COMMAND}" worker' in unit.read_text()
    assert "/odd 100%%:" in unit.read_text()
    assert "very-secret" not in unit.read_text()
    assert "enable-linger" in ran.err
