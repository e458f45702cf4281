"""Every setting has one reader, one name and one clear error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.settings import Settings, load, names

ROOT = Path(__file__).parents[2]


def test_environment_wins_over_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CLAUDE_QUEUE_SIZE=5\nCLAUDE_JOBS_MODEL=haiku\n")

    settings = load({"CLAUDE_QUEUE_SIZE": "7"}, file)

    assert (settings.queue_size, settings.model) == (7, "haiku")


def test_a_file_that_is_no_text_is_named_with_the_remedy_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"CLAUDE_CODE_TOKEN=secret\xff\n")

    with pytest.raises(InvalidRequest, match=rf"{file}(.*)UTF-8") as caught:
        load({}, file)

    assert caught.value.field == ".env"
    assert caught.value.__suppress_context__


def test_a_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 300) / ".env"

    with pytest.raises(InvalidRequest, match=r"cannot be read(.*)chmod 600"):
        load({}, file)


def test_unknown_setting_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"CLAUDE_JOBS_SLOT.*CLAUDE_JOBS_SLOTS") as caught:
        load({"CLAUDE_JOBS_SLOT": "3"})

    assert caught.value.field == "CLAUDE_JOBS_SLOT"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLAUDE_QUEUE_SIZE", "many"),
        ("CLAUDE_QUEUE_SIZE", "-1"),
        ("CLAUDE_TIMEOUT_SECONDS", "0"),
        ("MCP_PORT", "70000"),
    ],
)
def test_value_out_of_range_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        load({name: value})


def test_variables_of_a_jobs_own_environment_are_no_unknown_settings() -> None:
    assert load({"CLAUDE_JOBS_MARK": "x:y:z:1", "CLAUDE_JOBS_JOB_ID": "j"}) == load({})


def test_lists_are_split() -> None:
    settings = load({"CLAUDE_JOBS_PASS_ENV": "A, B,", "CLAUDE_JOBS_TRUSTED_DIRS": "/a:/b"})

    assert settings.pass_env == ("A", "B")
    assert settings.trusted_dirs == (Path("/a"), Path("/b"))


def test_empty_value_means_the_default() -> None:
    assert load({"CLAUDE_JOBS_SLOTS": ""}).slots is None


def test_env_example_lists_exactly_the_settings() -> None:
    example = (ROOT / ".env.example").read_text()
    listed = {
        line.lstrip("# ").split("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("##")
    }

    credentials = {name for name in listed if name.startswith("CLAUDE_CODE_TOKEN") or name.endswith("_API_KEY")}
    assert listed - credentials == names()
    assert set(KEY_NAMES.values()) <= credentials


def test_generated_documents_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in {"home", "worker", "pass_env"}])
def test_every_setting_is_read_somewhere(name: str) -> None:
    """`home`, `worker` and `pass_env` are read by the standard-library fronts, by their environment names."""
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "settings.py")

    assert re.search(rf"settings\.{name}\b", source)
