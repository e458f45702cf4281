"""Finding and starting the worker, with a real keeper and a stand-in worker. And the synchronous client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support_processes import PATIENCE_S, gone, wait_until

from claude_jobs import __version__
from claude_jobs.errors import (
    ClaudeJobsError,
    InvalidRequest,
    NotPermitted,
    StoreUnavailable,
    WorkerLost,
    WorkerUnavailable,
)
from claude_jobs.rpc import client as clients
from claude_jobs.rpc import hello as hellos
from claude_jobs.rpc import launch, offer
from claude_jobs.rpc.client import Client, connect
from claude_jobs.runner.paths import Home

FRONT = """
import os, sys
from claude_jobs.rpc import hello
from claude_jobs.rpc.client import Client
from claude_jobs.rpc.launch import ensure_worker
from claude_jobs.runner.paths import Home
line = hello.build(os.environ, "rpc")
with Client(*ensure_worker(Home.resolve(os.environ), os.environ, line, worker=sys.argv[1:], timeout_s=90)) as client:
    print(client.call("who", timeout_s=90)["pid"])
"""


def started(home: Home) -> list[str]:
    """What the stand-in workers noted."""
    log = home.root / "stand-in.log"
    return log.read_text().splitlines() if log.exists() else []


def client(home: Home, environ: dict[str, str], worker: list[str]) -> Client:
    return Client(*launch.ensure_worker(home, environ, offer.build(environ, "rpc"), worker=worker))


def who(front: Client) -> dict[str, object]:
    answer = front.call("who", timeout_s=PATIENCE_S)
    assert isinstance(answer, dict)
    return answer  # pyright: ignore[reportUnknownVariableType]  # JSON


def test_a_worker_is_started_and_then_found(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    with client(home, environ, worker) as first, client(home, environ, worker) as second:
        assert who(first)["pid"] == who(second)["pid"] == second.welcome.pid
        assert who(first)["credentials"] == [["CLAUDE_CODE_TOKEN", "oauth", environ["CLAUDE_CODE_TOKEN"]]]

    assert len(started(home)) == 1


def test_fifty_fronts_at_once_make_one_worker(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    argv = [sys.executable, "-c", FRONT, *worker]
    fronts = [subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE) for _ in range(50)]

    said = [front.communicate(timeout=3 * PATIENCE_S)[0] for front in fronts]

    assert [front.returncode for front in fronts] == [0] * 50
    assert len(set(said)) == 1
    assert len(started(home)) == 1


def test_the_keeper_is_nobodys_child_and_knows_no_secret_by_its_environment(
    home: Home, environ: dict[str, str], worker: list[str]
) -> None:
    with client(home, environ, worker) as front:
        keeper = int(home.elect_lock.read_text())
        pids = [keeper, front.welcome.pid]

        assert f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{keeper}/status").read_text()
        assert os.getsid(keeper) != os.getsid(0)
        for pid in pids:
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            for file in ("environ", "cmdline"):
                assert b"not-real" not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_a_killed_worker_is_found_again(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    with client(home, environ, worker) as front:
        os.kill(front.welcome.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="same key"):
            front.call("who", timeout_s=PATIENCE_S)

    with client(home, environ, worker) as again:
        assert again.welcome.pid != front.welcome.pid


def test_killed_with_its_keeper_it_is_started_anew(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    with client(home, environ, worker) as front:
        keeper = int(home.elect_lock.read_text())
        for pid in (keeper, front.welcome.pid):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(keeper))

    with client(home, environ, worker) as again:
        assert who(again)["pid"] != front.welcome.pid


def test_a_front_with_other_directories_finds_the_same_worker(
    home: Home, environ: dict[str, str], worker: list[str], tmp_path: Path
) -> None:
    (tmp_path / "t").mkdir()
    elsewhere = {**environ, "TMPDIR": str(tmp_path / "t")}
    assert Home.resolve(elsewhere).socket != home.socket

    with client(home, environ, worker) as one, client(Home.resolve(elsewhere), elsewhere, worker) as other:
        assert one.welcome == other.welcome


def test_inside_a_job_no_worker_is_started(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    inside = {**environ, "CLAUDE_JOBS_MARK": "x:o:job:1"}

    with pytest.raises(WorkerUnavailable, match="inside this job"):
        client(home, inside, worker)
    assert not started(home)

    with client(home, environ, worker), client(home, inside, worker) as front:
        assert who(front)


def test_none_means_none(home: Home, environ: dict[str, str]) -> None:
    with pytest.raises(WorkerUnavailable, match="claude-jobs worker"):
        connect(home, environ={**environ, "CLAUDE_JOBS_WORKER": "none"})
    with pytest.raises(WorkerUnavailable, match="No worker runs"):
        connect(home, environ=environ, start=False)


def test_an_empty_mode_is_the_default(home: Home, environ: dict[str, str]) -> None:
    with connect(home, environ={**environ, "CLAUDE_JOBS_WORKER": ""}) as front:
        assert front.welcome.version == __version__


def test_an_unknown_mode_is_told_with_the_known_ones(home: Home, environ: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="'detatched': use one of detached, inline, none"):
        connect(home, environ={**environ, "CLAUDE_JOBS_WORKER": "detatched"})


def test_an_older_worker_steps_aside_for_ours(
    home: Home, environ: dict[str, str], worker: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(home, environ, worker) as old:
        monkeypatch.setattr(launch, "__version__", "9.0")

        with client(home, {**environ, "CLAUDE_JOBS_TEST_VERSION": "9.0"}, worker) as new:
            assert (old.welcome.version, new.welcome.version) == (__version__, "9.0")


def test_an_installation_whose_worker_stays_older_uses_it(
    home: Home, environ: dict[str, str], worker: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(home, environ, worker) as old:
        monkeypatch.setattr(launch, "__version__", "9.0")

        with client(home, environ, worker) as new:
            assert new.welcome.version == __version__
            assert new.welcome.pid != old.welcome.pid


def test_a_newer_worker_is_used(home: Home, environ: dict[str, str], worker: list[str]) -> None:
    with client(home, {**environ, "CLAUDE_JOBS_TEST_VERSION": "9.0"}, worker) as one:
        assert one.welcome.version == "9.0"
        with client(home, environ, worker) as other:
            assert other.welcome == one.welcome


def test_a_worker_that_cannot_start_is_told_with_its_last_words(home: Home, environ: dict[str, str]) -> None:
    broken = [sys.executable, "-c", "import sys; print('Setting X is wrong.', file=sys.stderr); sys.exit(78)"]
    begun = time.monotonic()

    with pytest.raises(WorkerUnavailable, match=r"Setting X is wrong\.(?s:.*)claude-jobs doctor"):
        client(home, environ, broken)

    assert time.monotonic() - begun < launch.START_TIMEOUT_S


def test_a_start_lock_that_cannot_be_opened_is_told_with_the_next_step(home: Home, environ: dict[str, str]) -> None:
    home.start_lock.mkdir()

    with pytest.raises(StoreUnavailable, match=r"start\.lock(?s:.*)CLAUDE_JOBS_HOME"):
        connect(home, environ=environ)


def test_a_worker_that_never_answers_is_waited_for_a_bounded_time(home: Home, environ: dict[str, str]) -> None:
    mute = [sys.executable, "-c", "import socket, sys; socket.socket(fileno=int(sys.argv[-1])).makefile().read()"]

    with pytest.raises(WorkerUnavailable, match="within 1 s"):
        launch.ensure_worker(home, environ, offer.build(environ, "rpc"), worker=mute, timeout_s=1)


@pytest.mark.parametrize(
    ("one", "other", "older"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.9.0", "0.10.0", True),
        ("1.0", "0.9.9", False),
        ("", "0.1", True),
        ("0.1.0rc1", "0.1.0", True),
    ],
)
def test_versions_compare_by_number(one: str, other: str, older: bool) -> None:
    assert launch.is_older(one, other) is older


def test_only_settings_reach_the_worker(home: Home, environ: dict[str, str]) -> None:
    given = {**environ, "CLAUDE_QUEUE_SIZE": "7", "CLAUDE_JOBS_MARK": "m", "ANTHROPIC_API_KEY": "k", "EDITOR": "vi"}

    passed = launch.scrubbed(home, given)

    assert passed["CLAUDE_QUEUE_SIZE"] == "7"
    assert not {"CLAUDE_JOBS_MARK", "ANTHROPIC_API_KEY", "EDITOR", "CLAUDE_CODE_TOKEN"} & passed.keys()


def test_a_listener_in_a_directory_that_others_can_write_to_learns_nothing(home: Home, environ: dict[str, str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        listener.listen()
        home.runtime_dir.chmod(0o777)
        with pytest.raises(WorkerUnavailable):
            connect(home, environ=environ, start=False)

        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def answering(home: Home, *lines: bytes) -> subprocess.Popen[bytes]:
    """A process that listens, reads a line and says `lines`, one after each line read; then hangs up."""
    code = (
        "import socket, sys, ast\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True)\n"
        "c = s.accept()[0]; f = c.makefile('rwb')\n"
        "for line in ast.literal_eval(sys.argv[2]): f.readline(); f.write(line); f.flush()\n"
    )
    argv = [sys.executable, "-c", code, str(home.socket), repr(lines)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        said.readline()
    return process


WELCOME = hellos.welcome_line(__version__, "w", 1)


def test_a_refusal_is_raised_as_what_it_is(home: Home, environ: dict[str, str]) -> None:
    process = answering(home, hellos.refusal_line("not_permitted", "Not you."))

    with pytest.raises(NotPermitted, match="Not you"):
        connect(home, environ=environ, start=False)

    assert process.wait(timeout=PATIENCE_S) == 0


def test_a_late_answer_is_not_taken_for_the_next(home: Home, environ: dict[str, str]) -> None:
    process = answering(home, WELCOME, b"", b'{"id":1,"result":"late"}\n{"id":2,"result":"right"}\n')

    with connect(home, environ=environ, start=False) as front:
        with pytest.raises(WorkerLost, match="in time"):
            front.call("slow", timeout_s=0.05)
        assert front.call("fast", timeout_s=PATIENCE_S) == "right"

    assert process.wait(timeout=PATIENCE_S) == 0


def test_events_come_as_they_come_and_the_result_last(home: Home, environ: dict[str, str]) -> None:
    lines = b'{"id":1,"event":{"n":1}}\n{"id":1,"event":{"n":2}}\n{"id":1,"result":"end"}\n'
    process = answering(home, WELCOME, lines)

    with connect(home, environ=environ, start=False) as front:
        events = front.stream("events", timeout_s=PATIENCE_S)
        assert [next(events), next(events)] == [{"n": 1}, {"n": 2}]
        with pytest.raises(StopIteration) as stop:
            next(events)
        assert stop.value.value == "end"

    assert process.wait(timeout=PATIENCE_S) == 0


def test_errors_are_rebuilt(home: Home, environ: dict[str, str]) -> None:
    fault = {"code": "job_not_found", "message": "No job 'x'.", "retryable": False, "job_id": "x"}
    process = answering(home, WELCOME, json.dumps({"id": 1, "error": fault}).encode() + b"\n")

    with (
        connect(home, environ=environ, start=False) as front,
        pytest.raises(ClaudeJobsError, match="No job 'x'") as error,
    ):
        front.call("result", timeout_s=PATIENCE_S)

    assert (type(error.value).__name__, vars(error.value)["job_id"]) == ("JobNotFound", "x")
    assert process.wait(timeout=PATIENCE_S) == 0


def test_an_unreadable_answer_is_an_error_of_ours(home: Home, environ: dict[str, str]) -> None:
    process = answering(home, WELCOME, b"what?\n")

    with connect(home, environ=environ, start=False) as front, pytest.raises(ClaudeJobsError, match="not JSON"):
        front.call("m", timeout_s=PATIENCE_S)

    assert process.wait(timeout=PATIENCE_S) == 0


def test_answers_and_requests_have_a_size_limit(
    home: Home, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MAX_LINE_BYTES", 1_000)
    process = answering(home, WELCOME, b"x" * 5_000 + b"\n")

    with connect(home, environ=environ, start=False) as front:
        with pytest.raises(InvalidRequest, match="more than 1000"):
            front.call("m", {"a": "x" * 1_000})
        with pytest.raises(ClaudeJobsError, match="longer than 1000"):
            front.call("m", timeout_s=PATIENCE_S)

    assert process.wait(timeout=PATIENCE_S) == 0
