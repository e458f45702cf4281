"""Which job a front runs in: real processes below a real keeper, on a real socket, honest and not."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from support_processes import PATIENCE_S, wait_until

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc import launch, link, offer
from claude_jobs.rpc.client import Client
from claude_jobs.runner import mcp_config, proctree
from claude_jobs.runner.paths import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]

HERE = Path(__file__).parent
Json = dict[str, Any]


@dataclass
class Bench:
    """The worker of lineage_worker.py, asked from outside any job."""

    home: Home
    environ: dict[str, str]
    root: Path
    client: Client
    outs: Iterator[int] = field(default_factory=itertools.count)

    def call(self, method: str, **params: object) -> Any:
        return self.client.call(method, params, 20)

    def job(self, owner: str = "mine") -> Json:
        return self.call("job", owner=owner)

    def plain(self, **more: str) -> dict[str, str]:
        """What a process needs to find the worker, and nothing about a job."""
        names = ("PATH", "CLAUDE_JOBS_HOME", "TMPDIR")
        return {**{name: self.environ[name] for name in names}, **more}

    def front(self, how: str = "") -> tuple[list[str], Path]:
        out = self.root / f"said.{next(self.outs)}"
        return [sys.executable, str(HERE / "lineage_front.py"), str(out), *([how] if how else [])], out

    def outside(self, how: str = "", **env: str) -> Json:
        """What a front hears that descends from this test."""
        argv, out = self.front(how)
        subprocess.run(argv, env=self.plain(**env), timeout=PATIENCE_S)
        return said(out)

    def inside(self, job: Json, how: str = "", *, wrap: str = "{}", on_record: bool = True, **env: str) -> Json:
        """What a front hears that a job's shell starts.

        Args:
            wrap: How the shell starts it.
            on_record: Whether the store knows the job's process. If not, only its marker names it.
            env: The environment that the job's claude was given; default: its marker.
        """
        argv, out = self.front(how)
        go = self.root / f"{out.name}.go"
        command = wrap.format(shlex.join(argv))
        script = f"while [ ! -e {go} ]; do sleep 0.02; done; {command}; sleep 60"
        pid = self.call(
            "run", argv=["/bin/sh", "-c", script], env=self.plain(**env or {"CLAUDE_JOBS_MARK": job["mark"]})
        )
        if on_record:
            assert self.call("record", pid=pid, **named(job))
        go.touch()
        return said(out)


def named(job: Mapping[str, Any]) -> Json:
    return {"job_id": job["job_id"], "epoch": job["epoch"]}


def said(out: Path) -> Json:
    wait_until(out.exists, 30)
    return json.loads(out.read_text())


def scrubbed(bench: Bench, **env: str) -> str:
    """A shell's way to start something with next to no environment."""
    kept = {**bench.plain(), **env}
    return "env -i " + shlex.join(f"{name}={value}" for name, value in kept.items()) + " {}"


def proof(job: Json) -> dict[str, str]:
    return {"CLAUDE_JOBS_MARK": job["mark"], "CLAUDE_JOBS_JOB_SECRET": job["secret"]}


@pytest.fixture
def bench(home: Home, environ: dict[str, str], tmp_path: Path) -> Iterator[Bench]:
    worker = [sys.executable, "-P", str(HERE / "lineage_worker.py"), "_worker"]
    with ExitStack() as stack:
        sock, welcome = launch.ensure_worker(home, environ, offer.build(environ, "rpc"), worker=worker)
        client = stack.enter_context(Client(sock, welcome))
        yield Bench(home=home, environ=environ, root=tmp_path, client=client)


def test_outside_is_outside(bench: Bench) -> None:
    assert bench.outside(CLAUDE_CODE_TOKEN="t") == {"inside": "", "credentials": 1, "profile": 0}
    assert bench.outside("orphan")["inside"] == ""


@pytest.mark.parametrize("on_record", [True, False])
def test_a_jobs_shell_is_inside_it_whatever_the_environment_says(bench: Bench, on_record: bool) -> None:
    mine, other = bench.job(), bench.job()

    def inside(wrap: str) -> str:
        return bench.inside(mine, wrap=wrap, on_record=on_record)["inside"]

    assert inside("{}") == mine["job_id"]
    assert inside(scrubbed(bench)) == mine["job_id"]
    assert inside(f"CLAUDE_JOBS_MARK={other['mark']} {{}}") == mine["job_id"]
    assert inside("CLAUDE_JOBS_MARK=nonsense {}") == mine["job_id"]
    assert inside(f"setsid {scrubbed(bench)}") == mine["job_id"]


def test_the_bridge_of_a_job_proves_itself_and_brings_no_credential(bench: Bench) -> None:
    job = bench.job()
    wrap = f"CLAUDE_JOBS_JOB_SECRET={job['secret']} ANTHROPIC_API_KEY=k ANTHROPIC_BASE_URL=http://localhost:1 {{}}"

    assert bench.inside(job, wrap=wrap) == {"inside": job["job_id"], "credentials": 0, "profile": 0}
    wrap = scrubbed(bench, ANTHROPIC_API_KEY="k", CLAUDE_CODE_TOKEN="t", ANTHROPIC_BASE_URL="http://localhost:1")
    assert bench.inside(job, wrap=wrap) == {"inside": job["job_id"], "credentials": 0, "profile": 0}


def test_a_process_that_serves_one_job_after_another_is_known_by_its_record(bench: Bench) -> None:
    job = bench.job()
    warm = f"{bench.home.home_id}:mine:warm:1"

    assert bench.inside(job, wrap="{}", CLAUDE_JOBS_MARK=warm)["inside"] == job["job_id"]
    assert bench.inside(job, wrap=scrubbed(bench), CLAUDE_JOBS_MARK=warm)["inside"] == job["job_id"]
    assert "No job 'warm'" in bench.inside(job, on_record=False, CLAUDE_JOBS_MARK=warm)["error"]


def test_a_job_of_a_worker_that_steps_aside_is_known_to_its_successor(bench: Bench) -> None:
    """Its claude descends from another worker than the one that is asked."""
    job = bench.job(owner="before")
    argv, out = bench.front()
    wrap = scrubbed(bench).format(shlex.join(argv))
    claude = subprocess.Popen(
        ["/bin/sh", "-c", f"read go; {wrap}; sleep 60"],
        stdin=subprocess.PIPE,
        env=bench.plain(CLAUDE_JOBS_MARK=job["mark"]),
    )
    with claude:
        assert bench.call("record", pid=claude.pid, **named(job))
        assert claude.stdin is not None
        claude.stdin.write(b"\n")
        claude.stdin.flush()
        heard = said(out)
        proctree.kill_tree(proctree.tree(claude.pid).values())

    assert heard["inside"] == job["job_id"]


def test_a_secret_is_worth_its_job_and_no_other(bench: Bench) -> None:
    mine, other = bench.job(), bench.job()
    crossed = {"CLAUDE_JOBS_MARK": mine["mark"], "CLAUDE_JOBS_JOB_SECRET": other["secret"]}

    stolen = bench.inside(mine, wrap=shell(proof(other)))
    wrong = bench.inside(mine, wrap=shell(crossed))

    assert stolen["code"] == wrong["code"] == "not_permitted"
    assert mine["job_id"] in stolen["error"]
    assert other["job_id"] in stolen["error"]
    assert "not that of job" in wrong["error"]
    assert "not that of job" in bench.outside(**crossed)["error"]
    assert bench.outside(**proof(other))["inside"] == other["job_id"]
    assert not any(job["secret"] in heard["error"] for job in (mine, other) for heard in (stolen, wrong))


def shell(env: Mapping[str, str]) -> str:
    return "env " + shlex.join(f"{name}={value}" for name, value in env.items()) + " {}"


def test_what_is_left_of_an_ended_attempt_is_refused(bench: Bench) -> None:
    ended, again = bench.job(), bench.job()
    bench.call("end", **named(ended))
    now = bench.call("end", again=True, **named(again))

    assert "succeeded" in bench.outside(**proof(ended))["error"]
    assert "succeeded" in bench.outside(CLAUDE_JOBS_MARK=ended["mark"])["error"]
    assert "epoch 1" in bench.outside(**proof(again))["error"]
    assert "epoch 1" in bench.outside(CLAUDE_JOBS_MARK=again["mark"])["error"]
    assert bench.outside(**proof(now))["inside"] == again["job_id"]
    assert "succeeded" in bench.inside(ended, on_record=False, wrap=scrubbed(bench))["error"]


def test_a_marker_from_outside_only_narrows(bench: Bench) -> None:
    job = bench.job()

    assert bench.outside(CLAUDE_JOBS_MARK=job["mark"])["inside"] == job["job_id"]
    assert "No job" in bench.outside(CLAUDE_JOBS_MARK=f"{bench.home.home_id}:mine:j-nobody:1")["error"]
    assert "home" in bench.outside(CLAUDE_JOBS_MARK="00000000:mine:j-x:1")["error"]


@pytest.mark.parametrize("wrap", ["{}", "scrubbed", "forged", "proven"])
def test_a_process_that_was_cut_off_from_its_job_is_refused(bench: Bench, wrap: str) -> None:
    mine, other = bench.job(), bench.job()
    ways = {
        "{}": "{}",
        "scrubbed": scrubbed(bench),
        "forged": scrubbed(bench, CLAUDE_JOBS_MARK=other["mark"]),
        "proven": scrubbed(bench, **proof(other)),
    }

    heard = bench.inside(mine, "orphan", wrap=ways[wrap])

    assert heard["code"] == "not_permitted"
    assert "foreground" in heard["error"]


def test_a_connection_that_a_dead_process_opened_is_refused(bench: Bench) -> None:
    heard = bench.inside(bench.job(), "inherited", wrap=scrubbed(bench))

    assert heard["code"] == "not_permitted"
    assert "has ended" in heard["error"]


@pytest.mark.parametrize(
    "job", [[1], {"a": 1}, {"job": "j", "epoch": "1", "secret": ""}, {"job": "\ud800", "epoch": 1, "secret": ""}]
)
def test_a_hello_says_nothing_about_depth_or_place(bench: Bench, job: object) -> None:
    message = json.loads(offer.build(bench.plain(), "rpc"))
    forged = {**message, "inside_job": "j-x", "depth": 0, "peer_pid": 1}
    broken = {**message, "lineage": job}

    assert hello(bench, forged)["inside"] == ""
    assert hello(bench, broken)["code"] == "invalid_request"


def hello(bench: Bench, message: Json) -> Json:
    """What a front hears that says `message` first."""
    try:
        found = link.connect(bench.home, json.dumps(message).encode() + b"\n")
    except ClaudeJobsError as error:
        return {"code": error.code}
    assert found is not None
    with Client(*found) as client:
        return cast("Json", client.call("who", timeout_s=PATIENCE_S))


def test_no_worker_starts_from_inside_a_job_with_a_scrubbed_environment(bench: Bench) -> None:
    """Another home would be a way around all limits."""
    elsewhere = str(bench.root / "elsewhere")
    command = Path(sys.executable).with_name("claude-jobs")
    out = bench.root / "said"
    job = bench.job()
    tries = [
        f"{command} spawn hello",
        f"{command} worker",
        f"CLAUDE_JOBS_WORKER=inline {command} mcp < {initialize(bench.root)}",
        f"CLAUDE_JOBS_WORKER=none {command} mcp < {initialize(bench.root)}",
    ]
    clean = f"env -i PATH={os.environ['PATH']} HOME={bench.root} CLAUDE_JOBS_HOME={elsewhere} CLAUDE_CODE_TOKEN=t"
    lines = " ; ".join(f"{clean} sh -c {shlex.quote(one)} >> {out}.all 2>&1; echo === >> {out}.all" for one in tries)
    script = f"{lines}; mv {out}.all {out}; sleep 60"
    bench.call("run", argv=["/bin/sh", "-c", script], env=bench.plain(CLAUDE_JOBS_MARK=job["mark"]))
    wait_until(out.exists, 60)

    *answers, _ = out.read_text().split("===\n")
    assert ["inside" in answer for answer in answers] == [True] * 4
    assert not Path(elsewhere, "elect.lock").exists()


def initialize(root: Path) -> Path:
    lines = root / "lines"
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines.write_text(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}) + "\n")
    return lines


def test_bridge_and_runner_mean_the_same_variables() -> None:
    assert (offer.MARK, offer.JOB_SECRET) == (proctree.MARK, mcp_config.JOB_SECRET)
