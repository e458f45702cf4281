"""The command line, environment and stdin of an attempt; what is captured from a submitter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.support import order

from claude_jobs.domain.job import PermissionMode, ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import ClaudeNotFound, InvalidRequest
from claude_jobs.runner.command import build, missing_tools
from claude_jobs.runner.environment import capture, capture_profile
from claude_jobs.runner.executable import claude_version, find_claude
from claude_jobs.runner.instructions import MAX_FILE_BYTES, read_instructions
from claude_jobs.runner.prompt import MAX_PROMPT_BYTES, check_prompt, defused, user_line
from claude_jobs.runner.redact import redact
from claude_jobs.runner.transcript import Standing

CLAUDE = Path("/opt/claude")


def test_the_prompt_is_on_stdin_and_nothing_secret_in_argv(tmp_path: Path) -> None:
    the_order = order(tmp_path, "--dangerous", system="between us")
    command = build(the_order, CLAUDE, instructions="house rules")
    first, second = (json.loads(line) for line in command.stdin.splitlines())

    assert first["request"] == {"subtype": "initialize", "appendSystemPrompt": "house rules\n\nbetween us"}
    assert second["message"] == {"role": "user", "content": "--dangerous"}
    words = " ".join(command.argv)
    assert not any(text in words for text in ("--dangerous", "between", "house", the_order.credential.secret))
    assert the_order.credential.secret not in repr(command)
    assert f"--session-id={the_order.session_id}" in command.argv
    assert {"--model=sonnet", "--strict-mcp-config", "--setting-sources=", "--permission-mode=acceptEdits"} <= set(
        command.argv
    )


def test_a_resumed_session_is_told_to_continue(tmp_path: Path) -> None:
    the_order = order(tmp_path)
    command = build(the_order, CLAUDE, standing=Standing(resume=the_order.session_id, has_said=True))

    assert f"--resume={the_order.session_id}" in command.argv
    assert json.loads(command.stdin)["message"]["content"] == "Continue."


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (None, []),
        ((), ["--tools="]),
        (("Read", "Edit"), ["--tools=Read,Edit"]),
        (("Read", "Bash(git *)", "Bash(make)"), ["--tools=Read,Bash", "--allowedTools=Bash(git *),Bash(make)"]),
        (("WebFetch", "mcp__x__y"), ["--tools=WebFetch", "--allowedTools=WebFetch,mcp__x__y"]),
        (("--model", "-x"), ["--tools=--model,-x", "--allowedTools=--model,-x"]),
    ],
)
def test_tools_become_options(tmp_path: Path, tools: tuple[str, ...] | None, expected: list[str]) -> None:
    command = build(order(tmp_path, tools=tools), CLAUDE)

    assert [word for word in command.argv if word.startswith(("--tools", "--allowedTools"))] == expected


def test_full_project_files_effort_and_budget_are_options(tmp_path: Path) -> None:
    command = build(order(tmp_path, project=ProjectFiles.FULL, effort="high", max_cost_usd=0.5), CLAUDE)

    assert not any(word.startswith("--setting-sources") for word in command.argv)
    assert {"--effort=high", "--max-budget-usd=0.500000"} <= set(command.argv)


def test_missing_tools_are_those_the_cli_does_not_offer() -> None:
    assert missing_tools(("Agent", "Read", "Foo(x)", "mcp__a__b"), ("Task", "Read")) == ("Foo",)
    assert missing_tools(None, ()) == missing_tools((), ()) == ()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TokenKind.OAUTH, {"CLAUDE_CODE_OAUTH_TOKEN": "secret-1"}),
        (TokenKind.API_KEY, {"ANTHROPIC_API_KEY": "secret-1"}),
        (TokenKind.LOGIN, {}),
        (TokenKind.CLOUD, {}),
    ],
)
def test_the_process_gets_exactly_one_credential(tmp_path: Path, kind: TokenKind, expected: dict[str, str]) -> None:
    credential = Credential(name="c", kind=kind, secret="secret-1", profile=(("ANTHROPIC_BASE_URL", "http://x"),))
    the_order = order(tmp_path, credential=credential)
    env = build(the_order, CLAUDE).env

    secrets = {name: value for name, value in env.items() if "TOKEN" in name or "API_KEY" in name}
    assert secrets == expected
    assert env["ANTHROPIC_BASE_URL"] == "http://x"
    assert env["CLAUDE_CODE_MAX_RETRIES"] == "0"
    assert env["CLAUDE_JOBS_MARK"] == the_order.home_mark
    assert env["CLAUDE_JOBS_JOB_ID"] == the_order.job_id


def test_is_sandbox_reaches_only_a_job_that_bypasses(tmp_path: Path) -> None:
    for mode, expected in ((PermissionMode.BYPASS, True), (PermissionMode.ACCEPT_EDITS, False)):
        plain = order(tmp_path, permission_mode=mode)
        sandboxed = replace(plain, spec=replace(plain.spec, env=(*plain.spec.env, ("IS_SANDBOX", "1"))))
        assert ("IS_SANDBOX" in build(sandboxed, CLAUDE).env) is expected


def test_capture_takes_the_allow_list_and_what_the_operator_adds() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "https_proxy": "http://p",
        "GIT_AUTHOR_NAME": "me",
        "MY_TOOL_HOME": "/x",
        "OTHER": "no",
        "ANTHROPIC_API_KEY": "k",
        "CLAUDE_CODE_TOKEN2": "t",
        "CLAUDE_CODE_OAUTH_TOKEN": "t",
        "CLAUDE_JOBS_MARK": "m",
        "AWS_REGION": "eu",
    }
    captured = capture(environ, ("MY_TOOL_HOME", "ANTHROPIC_API_KEY", "CLAUDE_CODE_TOKEN2", "CLAUDE_JOBS_MARK"))

    assert [name for name, _ in captured] == ["GIT_AUTHOR_NAME", "LC_ALL", "MY_TOOL_HOME", "PATH", "https_proxy"]
    assert capture_profile(environ) == ()
    assert capture_profile({**environ, "CLAUDE_CODE_USE_BEDROCK": "1"}) == (
        ("AWS_REGION", "eu"),
        ("CLAUDE_CODE_USE_BEDROCK", "1"),
    )


@given(
    st.dictionaries(
        st.sampled_from(["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_TOKEN", "PATH"]), st.text()
    )
)
def test_no_secret_is_ever_captured(environ: dict[str, str]) -> None:
    names = {name for name, _ in (*capture(environ, list(environ)), *capture_profile(environ))}

    assert names <= {"PATH"}


@pytest.mark.parametrize("prompt", ["", " \n\t", "ü" * (MAX_PROMPT_BYTES // 2 + 1)])
def test_an_impossible_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_prompt(prompt)
    assert caught.value.field == "prompt"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_becomes_one_valid_line(text: str) -> None:
    line = user_line(text)
    content = json.loads(line)["message"]["content"]

    assert line.count(b"\n") == 1
    assert content == defused(text)
    assert not content.startswith("/")
    assert "\0" not in content
    content.encode()


def test_claude_is_the_configured_one_else_the_one_on_path_else_the_bundled_one(tmp_path: Path) -> None:
    fake = tmp_path / "claude"
    fake.write_text("#!/bin/sh\necho '9.9.9 (Claude Code)'\n")
    with pytest.raises(ClaudeNotFound, match="CLAUDE_JOBS_CLI"):
        find_claude(str(fake), "")
    fake.chmod(0o755)

    assert find_claude(str(fake), "") == fake
    assert find_claude(None, str(tmp_path)) == fake
    assert find_claude("", str(tmp_path / "empty")).parts[-2:] == ("_bundled", "claude")
    assert claude_version(fake) == "9.9.9"
    assert claude_version(tmp_path / "gone") == ""


def test_instructions_come_from_the_repository_only(tmp_path: Path) -> None:
    outside = tmp_path / "secret.md"
    outside.write_text("not yours")
    (tmp_path / "CLAUDE.md").write_text("above the repository")
    repo = tmp_path / "repo"
    inner = repo / "a" / "b"
    (inner / ".claude").mkdir(parents=True)
    (repo / ".git").mkdir()
    (repo / "CLAUDE.md").write_text("house rules")
    (repo / "a" / "CLAUDE.md").symlink_to(outside)
    (inner / ".claude" / "CLAUDE.md").write_text("x" * (MAX_FILE_BYTES + 10))
    text = read_instructions(inner)

    assert text.index("house rules") < text.index("xxx")
    assert "not yours" not in text
    assert "above" not in text
    assert "cut off" in text
    assert read_instructions(outside.parent / "repo" / "a" / "b" / ".claude") != ""
    assert read_instructions(tmp_path / "nowhere") == ""


def test_redaction_leaves_short_strings_alone() -> None:
    assert redact("a token-123456 b", ("token-123456", "", "a")) == "a [redacted] b"


@pytest.mark.parametrize("cut", ["said sk-ant-oat01-abcdefgh", "said sk-ant-oat01-abcdefgh…", "ghijklmnopqrst is it"])
def test_redaction_knows_a_secret_that_was_cut_in_two(cut: str) -> None:
    secret = "sk-ant-oat01-abcdefghijklmnopqrst"

    assert "sk-ant" not in redact(cut, (secret,))
    assert "ghijklmn" not in redact(cut, (secret,))


def test_redaction_leaves_the_public_beginning_of_a_token_alone() -> None:
    assert (
        redact("It begins with sk-ant-oat01", ("sk-ant-oat01-abcdefghijklmnopqrst",)) == "It begins with sk-ant-oat01"
    )
