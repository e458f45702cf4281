"""`claude-jobs mcp` as a real process over real pipes, with a stand-in worker kept by a real keeper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support_processes import PATIENCE_S, end, gone, wait_until

from claude_jobs.runner.paths import Home

BRIDGE = """
import os, sys
from claude_jobs.rpc.bridge import Bridge
from claude_jobs.runner.paths import Home
sys.exit(Bridge(Home.resolve(os.environ), os.environ, worker=sys.argv[1:]).run())
"""


class Front:
    """A client and its bridge."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self._ids = 0

    def send(self, line: bytes) -> None:
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    def notify(self, method: str) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", "method": method}).encode())

    def ask(self, method: str, **params: object) -> int:
        self._ids += 1
        message = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        self.send(json.dumps(message).encode())
        return self._ids

    def read(self) -> dict[str, Any]:
        message = json.loads(self.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        return message

    def result(self, method: str, **params: object) -> dict[str, Any]:
        asked = self.ask(method, **params)
        answer = self.read()
        assert answer["id"] == asked
        return answer["result"]

    def handshake(self) -> dict[str, Any]:
        answer = self.result("initialize", protocolVersion="2025-11-25")
        self.notify("notifications/initialized")
        return answer

    def close(self) -> None:
        """End it and see that nothing but JSON-RPC was left to say."""
        end(self.process.pid, signal.SIGKILL)
        for line in self.stdout.readlines():
            if line.endswith(b"\n"):
                assert json.loads(line)["jsonrpc"] == "2.0"
        self.process.wait()
        for pipe in (self.stdout, self.stderr):
            pipe.close()
        with suppress(BrokenPipeError):
            self.stdin.close()


@pytest.fixture
def front(home: Home, environ: dict[str, str], worker: list[str]) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def start(*argv: str, **more: str) -> Front:
        fronts.append(Front([sys.executable, *(argv or ("-c", BRIDGE, *worker))], {**environ, **more}))
        return fronts[-1]

    yield start
    for one in fronts:
        one.close()


def test_lines_pass_both_ways(front: Callable[..., Front]) -> None:
    client = front()

    assert client.handshake()["params"] == {"protocolVersion": "2025-11-25"}
    assert client.result("tools/call", name="x")["initialized"]


def test_a_killed_worker_costs_an_error_that_names_the_next_step(front: Callable[..., Front]) -> None:
    client = front()
    first = client.handshake()["pid"]
    asked = {client.ask("tools/call", name="hang"), client.ask("tools/call", name="die")}

    answers = [client.read(), client.read()]

    assert asked == {answer["id"] for answer in answers}
    assert all("same `key`" in answer["error"]["message"] for answer in answers)
    after = client.result("tools/call", name="x")
    assert after["pid"] != first
    assert after["initialized"], "the handshake was replayed"


def test_what_only_reads_is_asked_again_of_the_next_worker(front: Callable[..., Front]) -> None:
    client = front()
    pid = client.handshake()["pid"]
    os.kill(pid, signal.SIGSTOP)
    asked = client.ask("tools/list")
    os.kill(pid, signal.SIGKILL)

    answer = client.read()

    assert answer["id"] == asked
    assert answer["result"]["pid"] != pid


def test_with_keeper_and_worker_killed_both_come_back(front: Callable[..., Front], home: Home) -> None:
    client = front()
    pid = client.handshake()["pid"]
    keeper = int(home.elect_lock.read_text())
    for one in (keeper, pid):
        os.kill(one, signal.SIGKILL)
    wait_until(lambda: gone(keeper) and gone(pid))

    assert client.result("tools/call", name="x")["pid"] != pid


def test_a_worker_that_was_stopped_stays_so_until_it_is_needed(front: Callable[..., Front], home: Home) -> None:
    client = front()
    client.handshake()
    keeper = int(home.elect_lock.read_text())
    os.kill(keeper, signal.SIGTERM)
    wait_until(lambda: gone(keeper))

    client.notify("notifications/roots/list_changed")
    starts = (home.root / "stand-in.log").read_text().count("started")
    assert client.result("tools/call", name="x")["initialized"]

    assert starts == 1


def test_sessions_share_the_worker(front: Callable[..., Front]) -> None:
    assert front().handshake()["pid"] == front().handshake()["pid"]


def test_what_is_not_json_is_answered_and_not_passed(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()

    for line in (b"hello", b"[1, 2]", b"\xff\xfe", b"   "):
        client.send(line)

    assert [client.read()["error"]["code"] for _ in range(3)] == [-32700] * 3
    assert client.result("tools/call", name="x")


def test_garbage_of_the_worker_does_not_reach_stdout(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()

    assert client.result("tools/call", name="garbage")
    assert b"not JSON-RPC" in client.stderr.readline()


def test_five_megabytes_pass_both_ways(front: Callable[..., Front]) -> None:
    client = front()

    assert len(client.result("prompts/get", text="x" * 5_000_000)["params"]["text"]) == 5_000_000


def test_a_client_that_writes_much_before_it_reads_is_not_deadlocked(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()
    for _ in range(40):
        client.ask("prompts/get", text="x" * 10_000)

    assert [client.read()["id"] for _ in range(40)] == list(range(2, 42))


def test_at_the_end_of_stdin_it_answers_and_leaves(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()
    asked = client.ask("tools/call", name="x")
    client.stdin.close()

    assert client.read()["id"] == asked
    assert client.stdout.read() == b""
    assert client.process.wait(timeout=PATIENCE_S) == 0


def test_a_last_line_without_an_end_is_a_line(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()
    client.stdin.write(b'{"jsonrpc":"2.0","id":9,"method":"ping"}')
    client.stdin.close()

    assert client.read()["id"] == 9
    assert client.process.wait(timeout=PATIENCE_S) == 0


def test_the_end_of_stdin_is_not_held_up_by_a_call_that_hangs(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()
    client.ask("tools/call", name="hang")
    client.stdin.close()

    assert client.process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_silently(front: Callable[..., Front], number: int) -> None:
    def took_s() -> float:
        client = front("-m", "claude_jobs.entry", "mcp", CLAUDE_JOBS_MARK="h:o:j:1")
        client.handshake()
        sent_at = time.monotonic()
        client.process.send_signal(number)
        client.process.wait(timeout=PATIENCE_S)
        assert client.stderr.read() == b""
        return time.monotonic() - sent_at

    assert any(took_s() < 0.1 for _ in range(20)), "a busy machine may hold up some, not all"


def test_the_way_claude_code_stops_a_server_leaves_the_worker_running(front: Callable[..., Front]) -> None:
    client = front()
    pid = client.handshake()["pid"]

    client.process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # the client's own delay, which is what is tested
    end(client.process.pid, signal.SIGTERM)
    client.process.wait(timeout=PATIENCE_S)

    assert front().handshake()["pid"] == pid


def test_a_client_that_is_gone_ends_the_bridge(front: Callable[..., Front]) -> None:
    client = front()
    client.handshake()
    client.stdout.close()
    client.ask("tools/call", name="x")

    assert client.process.wait(timeout=PATIENCE_S) == 0
    client.stdout = open(os.devnull, "rb")  # noqa: PTH123, SIM115


def test_without_a_worker_it_connects_and_its_tools_say_why(front: Callable[..., Front]) -> None:
    client = front(CLAUDE_JOBS_MARK="h:o:j:1")

    assert "inside this job" in client.handshake()["instructions"]
    assert client.result("tools/list")["tools"]
    called = client.result("tools/call", name="spawn")
    assert called["isError"]
    assert "inside this job" in called["content"][0]["text"]


def test_when_a_worker_comes_the_next_call_reaches_it(front: Callable[..., Front]) -> None:
    client = front(CLAUDE_JOBS_MARK="h:o:j:1")
    client.handshake()
    pid = front().handshake()["pid"]

    client.ask("tools/call", name="x")

    assert client.read()["method"] == "notifications/tools/list_changed"
    answer = client.read()["result"]
    assert (answer["pid"], answer["initialized"]) == (pid, True)


def test_an_unknown_mode_is_told_with_the_known_ones(front: Callable[..., Front]) -> None:
    client = front(CLAUDE_JOBS_WORKER="sometimes")

    assert "detached, inline, none" in client.handshake()["instructions"]


def test_an_unusable_home_is_told(front: Callable[..., Front]) -> None:
    client = front(CLAUDE_JOBS_HOME="/proc/nowhere")

    assert "Set CLAUDE_JOBS_HOME" in client.handshake()["instructions"]


def test_a_hung_worker_is_left_by_a_signal_too(front: Callable[..., Front]) -> None:
    client = front()
    pid = client.handshake()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        client.ask("tools/call", name="x")
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_command_loads_the_standard_library_and_little_else(home: Home, environ: dict[str, str]) -> None:
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['claude-jobs', 'mcp']\n"
        "from claude_jobs.entry import main; main()\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(
        argv, env={**environ, "CLAUDE_JOBS_MARK": "h:o:j:1"}, input=b"", capture_output=True, check=True
    )
    loaded = set(done.stderr.decode().split())
    top = {name.partition(".")[0] for name in loaded}

    assert top - {"claude_jobs"} <= sys.stdlib_module_names
    assert not top & {"asyncio", "click", "pydantic", "subprocess", "hashlib", "ssl", "dataclasses"}
    assert {name for name in loaded if name.startswith("claude_jobs.")} <= {
        "claude_jobs.entry",
        "claude_jobs.errors",
        "claude_jobs.errors.jobs",
        "claude_jobs.errors.providers",
        "claude_jobs.policy",
        "claude_jobs.policy.credentials",
        "claude_jobs.policy.providers",
        "claude_jobs.runner",
        "claude_jobs.runner.environment",
        "claude_jobs.runner.paths",
        *(f"claude_jobs.rpc{name}" for name in ("", ".bridge", ".fault", ".launch", ".link", ".offer", ".offline")),
        *(f"claude_jobs.rpc.{name}" for name in ("peer", "pipes", "traffic")),
    }


def test_it_stays_small(front: Callable[..., Front]) -> None:
    client = front("-m", "claude_jobs.entry", "mcp", CLAUDE_JOBS_MARK="h:o:j:1")
    client.handshake()
    status = Path(f"/proc/{client.process.pid}/status").read_text()

    kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    assert kilobytes <= 15_000
