"""The real Claude Code as the MCP client, its jobs run by the real claude too, all of it on the rehearsal API."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_cli import CLAUDE, CliRun, cli_env, run_cli
from support_processes import wait_until
from support_worker import COMMAND, Json, Place, real_place, rehearse, rehearsing

from claude_jobs.runner import proctree

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mcp_e2e")]

PROJECT = Path(__file__).parents[2]
SERVER = {"mcpServers": {"claude-jobs": {"command": COMMAND, "args": ["mcp"]}}}


class Desk:
    """Claude Code sessions of one user, and where their jobs run."""

    def __init__(self, here: Place, url: str) -> None:
        self.here = here
        self.url = url
        self.env = {**cli_env(here.root / "home", url), **here.env}
        self.config = here.root / "mcp.json"
        self.config.write_text(json.dumps(SERVER))

    async def session(self, prompt: str, *, resume: str | None = None, **settings: str) -> CliRun:
        """One `claude -p` with our server."""
        args = ("--mcp-config", str(self.config), "--allowedTools", "mcp__claude-jobs")
        return await run_cli(
            prompt, env={**self.env, **settings}, cwd=self.here.work, args=args, resume=resume, timeout_s=200
        )

    def release(self) -> int:
        """Let held answers of the API go on."""
        asked = urllib.request.Request(f"{self.url}/rehearsal/release", data=b"{}", method="POST")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)["released"]

    def asked(self, provider: str) -> list[Json]:
        """The requests that reached the API as this provider's."""
        with urllib.request.urlopen(f"{self.url}/rehearsal/requests", timeout=60) as answer:
            requests: list[Json] = json.load(answer)["requests"]
        return [request for request in requests if request["provider"] == provider]

    def bridges(self) -> list[int]:
        """Servers that Claude Code has started for this home and that still run."""
        mark = f"CLAUDE_JOBS_HOME={self.here.env['CLAUDE_JOBS_HOME']}".encode()
        return [
            pid
            for pid in proctree.table()
            if _file(pid, "cmdline").endswith(b"claude-jobs\0mcp\0") and mark in _file(pid, "environ").split(b"\0")
        ]


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with rehearsing() as api, real_place(tmp_path, api) as here:
        yield Desk(here, api.url)


def tool(name: str, **arguments: object) -> Json:
    return {"name": f"mcp__claude-jobs__{name}", "input": arguments}


def server_of(run: CliRun) -> str:
    """What became of our server in a session."""
    servers: list[Json] = run.of("system", "init")[0]["mcp_servers"]
    return next(server["status"] for server in servers if server["name"] == "claude-jobs")


def tool_results(run: CliRun) -> list[str]:
    """What the tools of a session answered, as its model saw it."""
    blocks: list[Any] = [block for one in run.of("user") for block in one["message"]["content"]]
    results: list[Json] = [block for block in blocks if isinstance(block, dict) and block["type"] == "tool_result"]
    return [_words(result["content"]) for result in results]


def _words(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


async def test_generate_brings_the_answer_into_the_conversation(desk: Desk) -> None:
    run = await desk.session(rehearse("The job says: {result}", tool=tool("generate", prompt=rehearse("forty-two"))))

    assert server_of(run) == "connected"
    assert run.returncode == 0
    assert run.result["permission_denials"] == []
    assert run.result["result"].startswith("The job says: forty-two")
    assert desk.bridges() == []


async def test_a_provider_that_is_named_answers_in_the_conversation(desk: Desk) -> None:
    settings = {"OPENAI_BASE_URL": f"{desk.url}/openai/v1", "OPENAI_API_KEY": "sk-rehearsal-2"}
    ask = tool("generate", prompt=rehearse("forty-two"), provider="openai")
    run = await desk.session(rehearse("It says: {result}", tool=ask), **settings)
    (answer,) = tool_results(run)
    (request,) = desk.asked("openai")

    assert run.result["result"].startswith("It says: forty-two")
    assert answer.startswith("forty-two\n\n[g-")
    assert ": openai/gpt-" in answer
    assert request["token"] == "key-2"
    assert desk.here.call("jobs")["jobs"] == []


async def test_a_spawned_job_works_on_files_and_is_read_later_in_the_conversation(desk: Desk) -> None:
    write = {"name": "Write", "input": {"file_path": "{{cwd}}/made.txt", "content": "by a job"}}
    spawn = tool("spawn", prompt=rehearse("written", tool=write), label="writer")
    first = await desk.session(rehearse("started", tool=spawn))
    job: Json = json.loads(tool_results(first)[0])
    read = tool("result", job_id=job["job_id"], wait_s=60)
    second = await desk.session(rehearse("It is {result}", tool=read), resume=first.session_id)

    assert job["label"] == "writer"
    assert second.result["result"].startswith("It is written")
    assert (desk.here.work / "made.txt").read_text() == "by a job"


async def test_jobs_outlive_the_session_and_the_next_one_sees_them_first(desk: Desk) -> None:
    first = await desk.session(rehearse("bye", tool=tool("spawn", prompt=rehearse("from afar", hold=True))))
    job_id: str = json.loads(tool_results(first)[0])["job_id"]
    wait_until(desk.release, 30)
    wait_until(lambda: desk.here.call("jobs")["jobs"][0]["state"] == "succeeded", 30)
    second = await desk.session(rehearse("I see", tool=tool("status")))
    seen: Json = json.loads(tool_results(second)[0])

    assert (first.returncode, desk.bridges()) == (0, [])
    assert (seen["unread"], seen["jobs"][0]["job_id"], seen["jobs"][0]["unread"]) == (1, job_id, True)


async def test_an_inline_server_is_stopped_by_claude_code_without_leaving_anything(desk: Desk) -> None:
    spawn = tool("spawn", prompt=rehearse("resumed", hold=True))
    first = await desk.session(rehearse("bye", tool=spawn), CLAUDE_JOBS_WORKER="inline")
    wait_until(lambda: not desk.here.own_processes())
    job_id: str = json.loads(tool_results(first)[0])["job_id"]

    assert server_of(first) == "connected"
    assert desk.bridges() == []
    assert desk.here.result(job_id, 0)["state"] in {"queued", "running"}


@pytest.mark.parametrize("approval", [{"enableAllProjectMcpServers": True}, {"enabledMcpjsonServers": ["claude-jobs"]}])
def test_the_file_of_a_clone_connects_once_it_is_approved(desk: Desk, approval: Json) -> None:
    clone = desk.here.root / "clone"
    clone.mkdir()
    (clone / ".mcp.json").write_bytes((PROJECT / ".mcp.json").read_bytes())
    (clone / ".venv").symlink_to(Path(sys.executable).parents[1])
    before = listed(desk, clone)
    Path(desk.env["CLAUDE_CONFIG_DIR"], "settings.json").write_text(json.dumps(approval))
    after = listed(desk, clone)

    assert "Pending approval" in before
    assert "Connected" in after
    assert desk.bridges() == []


def listed(desk: Desk, cwd: Path) -> str:
    done = subprocess.run(
        [CLAUDE, "mcp", "list"],
        env=desk.env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr
