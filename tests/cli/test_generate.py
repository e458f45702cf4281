"""`generate`: the answer alone on stdout, what it was on stderr, and every way it can fail. Real SDKs on the rehearsal API."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support_command import COMMAND, Ran, directive, run
from support_processes import PATIENCE_S, wait_until

from claude_jobs.cli import generate
from claude_jobs.cli.rehearse import Stage

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAMBAQAY3Y2wAAAAAElFTkSuQmCC")
FOOTER = re.compile(r"^openai/gpt-\S+ in \S+ s · \d+ \+ \d+ tokens · \$0\.\d{6} · claude-jobs explain (g-\w+)\n$")


def ask(stage: Stage, prompt: str, *args: str, **more: Any) -> Ran:
    return run("generate", "--provider", "openai", *args, "--", prompt, environ=stage.environ, **more)


def asked(stage: Stage, prompt: str) -> list[dict[str, Any]]:
    """The requests of that prompt that reached the API."""
    with urllib.request.urlopen(stage.environ["ANTHROPIC_BASE_URL"] + "/rehearsal/requests", timeout=60) as answer:
        requests: list[dict[str, Any]] = json.load(answer)["requests"]
    return [request for request in requests if request["prompt"].startswith(prompt)]


def test_the_answer_is_alone_on_stdout_and_its_cost_on_stderr(stage: Stage) -> None:
    ran = ask(stage, directive("Say hello to all.", reply="Hello, all."))

    assert (ran.code, ran.out) == (0, "Hello, all.\n"), ran.err
    assert FOOTER.match(ran.err)


def test_the_same_question_is_answered_from_the_cache_streamed_or_not(stage: Stage) -> None:
    prompt = directive("What is kept?", reply="This.")
    ask(stage, prompt)
    again = ask(stage, prompt)
    streamed = ask(stage, prompt, "--stream")
    anew = ask(stage, prompt, "--no-cache")
    refreshed = ask(stage, prompt, "--refresh")

    assert {ran.out for ran in (again, streamed, anew, refreshed)} == {"This.\n"}
    assert all(" · $0 · from the cache, " in ran.err for ran in (again, streamed))
    assert not any("from the cache" in ran.err for ran in (anew, refreshed))
    assert len(asked(stage, "What is kept?")) == 3


def test_the_prompt_may_come_from_stdin_or_a_file(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "question.txt").write_text("From a file.")
    piped = ask(stage, "-", stdin=b"From stdin.")
    named = ask(stage, f"@{tmp_path / 'question.txt'}")
    filed = run("generate", "--model", "openai/gpt-6.1", "-f", "question.txt", environ=stage.environ, cwd=tmp_path)

    assert (piped.out, named.out) == ("Rehearsed: From stdin.\n", "Rehearsed: From a file.\n")
    assert filed.out == named.out
    assert filed.err.startswith("openai/gpt-6.1 in ")


def test_json_has_everything_and_stands_alone(stage: Stage) -> None:
    ran = ask(stage, directive("As JSON.", reply="Here."), "--json", "--org", "acme")
    answer = ran.json()

    assert ran.err == ""
    assert (answer["text"], answer["provider"], answer["org"]) == ("Here.", "openai", "acme")
    assert answer["explain"][-1]["outcome"] == "ok"


def test_streamed_json_is_a_line_for_each_piece_and_the_answer_at_last(stage: Stage) -> None:
    ran = ask(stage, directive("Piece by piece.", reply="one two three four", chunks=4), "--json", "--stream")
    *deltas, answer = [json.loads(line) for line in ran.out.splitlines()]

    assert len(deltas) > 1
    assert "".join(delta["text"] for delta in deltas) == answer["text"]
    assert (answer["type"], {delta["type"] for delta in deltas}) == ("answer", {"text"})


def test_what_was_asked_for_reaches_the_provider(stage: Stage, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}))
    ran = run(
        *("generate", "--model", "gpt-6.1", "--system", "Be brief.", "--max-tokens", "77", "--schema", str(schema)),
        *("--timeout", "60", "How many?"),
        environ=stage.environ,
    )
    (request,) = asked(stage, "How many?")
    body = json.dumps(request["body"])

    assert ran.code == 0, ran.err
    assert isinstance(json.loads(ran.out)["n"], int)
    assert "Be brief." in body
    assert "77" in body


def test_a_temperature_of_nothing_is_one(stage: Stage) -> None:
    run(
        "generate",
        "--provider",
        "claude",
        "--model",
        "claude-haiku-4-5",
        "--temperature",
        "0",
        "How cold?",
        environ=stage.environ,
    )
    (request,) = asked(stage, "How cold?")

    assert request["body"]["temperature"] == 0


def test_pictures_are_looked_at(stage: Stage, tmp_path: Path) -> None:
    picture = tmp_path / "wrongly-named.jpg"
    picture.write_bytes(PIXEL)
    ran = ask(stage, "What is on it?", "--image", str(picture))
    (request,) = asked(stage, "What is on it?")

    assert ran.code == 0, ran.err
    assert "data:image/png;base64," + base64.b64encode(PIXEL).decode() in json.dumps(request["body"])


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["--image", "{text}"], "is no PNG, JPEG, GIF or WebP"),
        (["--image", "{large}"], "larger than 20 MB together"),
        (["--no-cache", "--refresh"], "Say one of them"),
        (["--schema", "[1]"], "is an object"),
        (["--effort", "huge"], "huge"),
        (["--temperature", "3"], "0<=x<=2"),
    ],
)
def test_wrong_usage_is_said_before_a_worker_is_started(
    environ: dict[str, str], tmp_path: Path, args: list[str], advice: str
) -> None:
    places = {name: tmp_path / name for name in ("text", "large")}
    places["text"].write_text("no picture")
    with places["large"].open("wb") as large:
        large.truncate(generate.MAX_IMAGES_BYTES + 1)
    ran = run(
        "generate", *(arg.format_map(places) if arg.startswith("{") else arg for arg in args), "x", environ=environ
    )

    assert ran.code == 2
    assert advice in ran.err
    assert ran.err.count("\n") == 1
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_an_unknown_provider_is_named_with_near_ones(stage: Stage) -> None:
    ran = run("generate", "--provider", "opnai", "x", environ=stage.environ)
    fallback = ask(stage, "x", "--fallback", "gork")

    assert (ran.code, fallback.code) == (2, 2)
    assert "'opnai'. Did you mean 'openai'" in ran.err
    assert "'grok'" in fallback.err


def test_without_a_key_it_is_refused_with_the_variable_to_set(stage: Stage) -> None:
    keyless = {name: value for name, value in stage.environ.items() if not name.startswith("XAI_API_KEY")}
    ran = run("generate", "--provider", "grok", "Anyone?", environ=keyless)

    assert ran.code == 3
    assert "set XAI_API_KEY" in ran.err


def test_a_failure_says_what_to_look_at_and_that_tells_what_was_tried(stage: Stage) -> None:
    ran = ask(stage, directive("Fail.", fault="400"))
    (call_id,) = re.findall(r"What was tried: claude-jobs explain (g-\w+)\n$", ran.err)
    told = run("explain", call_id, environ=stage.environ)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "request_refused" in told.out


def test_notes_tell_of_a_cut_answer_and_of_what_the_model_does_not_take(stage: Stage) -> None:
    cut = ask(stage, directive("Cut it.", fault="max_tokens"), "--max-tokens", "20")
    warned = ask(stage, "Warn me.", "--temperature", "0.5")

    assert cut.code == 0
    assert "Note: The answer was cut at its longest length." in cut.err
    assert re.search(r"^Note: .*temperature", warned.err, re.MULTILINE)


def test_a_filtered_answer_is_a_failure(stage: Stage) -> None:
    ran = ask(stage, directive("Say it.", fault="content_filter"))

    assert ran.code == 1
    assert "filter" in ran.err


@contextlib.contextmanager
def on_a_terminal(stage: Stage, *args: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The command with a terminal as its stdout, and our end of that."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [COMMAND, *args],
        env={**stage.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            os.close(ours)


def test_a_terminal_shows_it_as_it_comes_and_ctrl_c_bills_what_came(stage: Stage) -> None:
    prompt = directive("Hang.", fault="stall", chunks=8, reply="word after word after word")
    with on_a_terminal(stage, "generate", "--provider", "openai", "--org", "hung", prompt) as (process, ours):
        shown = os.read(ours, 65_536)  # while the rest never comes
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)

    def calls() -> list[dict[str, Any]]:
        return run("explain", "--org", "hung", "--json", environ=stage.environ).json()["calls"]

    wait_until(lambda: bool(calls()))
    (call,) = calls()

    assert shown and b"word after".startswith(shown[:3])
    assert process.returncode == 130
    assert said.strip() == b"Ended. What the model had used by then is billed."
    assert call["outcome"] == "cancelled"
    assert call["usage"]["total_tokens"] > 0


def test_an_answer_does_not_steer_the_terminal(stage: Stage) -> None:
    prompt = directive("Steer.", reply="red \x1b[31m\x07 text\nline")
    with on_a_terminal(stage, "generate", "--provider", "openai", prompt) as (process, ours):
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while chunk := os.read(ours, 65_536):
                shown += chunk
        process.communicate(timeout=PATIENCE_S)

    assert shown == b"red [31m text\r\nline\r\n"


def test_a_job_answers_where_no_provider_is_named(stage: Stage) -> None:
    ran = run("generate", directive("By a job.", reply="By the CLI."), environ=stage.environ)

    assert (ran.code, ran.out) == (0, "By the CLI.\n"), ran.err
    assert re.match(r"claude-cli/sonnet in .* · job j-\w+ · ", ran.err)


def test_it_can_be_rehearsed_and_leaves_nothing(environ: dict[str, str]) -> None:
    real = {**environ, "OPENAI_API_KEY": "sk-real-and-secret"}
    ran = run("generate", "--rehearsal", "--provider", "openai", "--json", "What would you say?", environ=real)

    assert ran.code == 0, ran.err
    assert ran.json()["text"] == "Rehearsed: What would you say?"
    assert list(Path(environ["TMPDIR"]).iterdir()) == []
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_the_commands_load_no_library_that_the_worker_has() -> None:
    script = "\n".join(
        [
            "import sys",
            "from claude_jobs.cli.main import main",
            "for name in ('generate', 'models', 'quota', 'cache', 'explain', 'usage', 'routes'):",
            "    assert main([name, '--help']) == 0",
            "heavy = ('pydantic', 'fastmcp', 'openai', 'anthropic', 'google', 'httpx2', 'aiohttp', 'rich', 'asyncio')",
            "loaded = [name for name in heavy if name in sys.modules]",
            "sys.exit(f'loaded: {loaded}' if loaded else 0)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)

    assert done.returncode == 0, done.stderr
