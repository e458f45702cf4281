import io
import sys
from pathlib import Path

import click
import pytest

from claude_jobs.cli.reading import decode, prompt_of


def test_prompt_is_the_argument() -> None:
    assert prompt_of("say hello", None) == "say hello"


def test_prompt_at_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "task.md"
    file.write_text("do it\n")

    assert prompt_of(f"@{file}", None) == "do it\n"
    assert prompt_of(None, str(file)) == "do it\n"


def test_prompt_that_only_begins_like_a_file_is_a_prompt() -> None:
    assert prompt_of("@alice asks for a review", None) == "@alice asks for a review"


def test_prompt_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="nowhere"):
        prompt_of(f"@{tmp_path}/nowhere", None)


def test_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))

    assert prompt_of("-", None) == "from a pipe"


@pytest.mark.parametrize(("argument", "file"), [(None, None), ("text", "file")])
def test_no_prompt_and_two_prompts_are_usage_errors(argument: str | None, file: str | None) -> None:
    with pytest.raises(click.UsageError):
        prompt_of(argument, file)


def test_bytes_that_are_not_utf8_are_replaced_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    decoded = decode(b"caf\xe9 ok", "task.txt")

    assert decoded == "caf\N{REPLACEMENT CHARACTER} ok"
    assert "task.txt is not UTF-8 (byte 3)" in capsys.readouterr().err
