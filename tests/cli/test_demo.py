"""Rehearsals: the demo as a whole, and single jobs and batches with `--rehearsal`. Nothing may be left behind."""

import json
import re
import signal
import socket
from pathlib import Path

import pytest
from support_command import run, start
from support_processes import PATIENCE_S

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.rehearsal.script import DEFAULT_KEYS
from claude_jobs.runner import proctree

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def left_in(environ: dict[str, str]) -> list[str]:
    return [path.name for path in Path(environ["TMPDIR"]).iterdir()]


def test_demo_succeeds_without_an_account_and_leaves_nothing(environ: dict[str, str]) -> None:
    ran = run("demo", "--json", environ=environ)
    figures = ran.json()

    assert ran.code == 0, ran.err
    assert figures["wrong"] == []
    assert (figures["jobs"], figures["succeeded"], figures["lost"]) == (12, 12, 0)
    assert figures["limits_hit"] >= 1
    assert figures["retries"] >= 1
    assert sum(token["jobs"] for token in figures["tokens"]) == 12
    assert "sea.txt" in figures["files"]
    assert figures["answer"]["provider"] == "grok"
    assert figures["answer"]["record"]["explain"] == figures["answer"]["explain"]
    assert "has reached its five-hour limit" in ran.err
    assert left_in(environ) == []
    assert list(Path(environ["HOME"]).iterdir()) == []
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_demo_ends_with_a_fallback_and_its_explanation(environ: dict[str, str]) -> None:
    """With the user's own keys and addresses around: nothing of them may be used."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        real = {
            **{name: "sk-real" for name in KEY_NAMES.values()},
            **dict.fromkeys(("OPENAI_BASE_URL", "XAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_ENDPOINT"), address),
        }
        ran = run("demo", environ={**environ, **real})
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    _, _, told = ran.out.partition("$ claude-jobs generate --provider openai --fallback grok ")
    steps = [line.split()[2:4] for line in told.splitlines() if re.match(r"\d+\.\d+ s  ", line)]

    assert ran.code == 0, ran.err
    assert steps[-2:] == [["fallback", "next"], ["attempt", "ok"]]
    assert ["attempt", "provider_unavailable"] in steps
    assert re.search(r"^grok/grok-\S+ in .* · \$0\.\d+ · claude-jobs explain g-", told, re.MULTILINE)
    assert set(re.findall(r"\(([0-9a-f]{12})\)", told)) <= _FAKE_KEYS


_FAKE_KEYS = {
    ApiKey(provider=provider, name="", secret=key.secret).fingerprint for provider in KEY_NAMES for key in DEFAULT_KEYS
}


def test_demo_without_claude_says_how_to_get_it(environ: dict[str, str]) -> None:
    ran = run("demo", environ={**environ, "CLAUDE_JOBS_CLI": "/nowhere/claude"})

    assert ran.code == 1
    assert "CLAUDE_JOBS_CLI='/nowhere/claude'" in ran.err
    assert left_in(environ) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_cleans_up(environ: dict[str, str], number: int) -> None:
    with start(["demo"], environ=environ) as demo:
        assert demo.stderr is not None
        assert any(b" running" in line for line in iter(demo.stderr.readline, b""))
        below = proctree.descendants(demo.pid)
        demo.send_signal(number)
        demo.communicate(timeout=PATIENCE_S)

    assert demo.returncode == 130
    assert left_in(environ) == []
    assert not any(proctree.is_alive(proc) for proc in below)


def test_a_rehearsed_batch_uses_its_script_and_no_real_token(environ: dict[str, str], tmp_path: Path) -> None:
    script, jobs = tmp_path / "script.json", tmp_path / "jobs.jsonl"
    played = {
        "tokens": [{"name": "only"}],
        "rules": [{"when": {"prompt": "fail"}, "do": {"fault": "400"}}],
        "default": {"reply": "played"},
    }
    script.write_text(json.dumps(played))
    jobs.write_text('"work"\n"fail"\n')
    real = {**environ, "CLAUDE_CODE_TOKEN": "sk-ant-oat01-real", "CLAUDE_RETRY_ATTEMPTS": "1"}
    ran = run("batch", str(jobs), "--rehearsal-script", str(script), "--json", environ=real, cwd=tmp_path)

    assert ran.code == 1
    assert ran.json()["jobs"][0]["text"] == "played"
    assert [job["state"] for job in ran.json()["jobs"]] == ["succeeded", "failed"]
    assert left_in(environ) == []
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_a_rehearsed_job_echoes(environ: dict[str, str], tmp_path: Path) -> None:
    ran = run("spawn", "--rehearsal", "what would you do?", environ=environ, cwd=tmp_path)

    assert ran.code == 0
    assert "what would you do?" in ran.out


def test_a_script_that_is_not_one_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"rulez": []}')
    ran = run("spawn", "x", "--rehearsal-script", str(script), environ=environ)

    assert ran.code == 2
    assert "rulez" in ran.err
    assert left_in(environ) == []
