"""The real CLI on the rehearsal API: it must believe that it talks to the real one."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support_cli import CliRun, cli_env, run_cli

from claude_jobs.rehearsal.demo import DEMO_PROMPTS, DEMO_SCRIPT
from claude_jobs.rehearsal.script import DEFAULT_TOKENS, Fault, Script, Token, parse_script
from claude_jobs.rehearsal.server import Rehearsal

KEY = Token(name="key", secret="sk-ant-api03-rehearsal")
ACT = ("--permission-mode", "acceptEdits", "--allowedTools", "Bash")


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal(Script(tokens=(*DEFAULT_TOKENS, KEY))) as running:
        yield running


def rehearse(**action: Any) -> str:
    return f"Do as told.\nrehearse: {json.dumps(action)}"


class Desk:
    """Runs prompts for one test, in its own home and working directory."""

    def __init__(self, api: Rehearsal, path: Path) -> None:
        self.api = api
        self.cwd = path / "work"
        self.home = path / "home"

    async def run(
        self, prompt: str, *args: str, n: int = 1, api_key: str | None = None, resume: str | None = None
    ) -> CliRun:
        env = cli_env(self.home, self.api.url, token=f"sk-ant-oat01-rehearsal-{n}", api_key=api_key)
        return await run_cli(prompt, env=env, cwd=self.cwd, args=args, resume=resume)


@pytest.fixture
def desk(api: Rehearsal, tmp_path: Path) -> Desk:
    return Desk(api, tmp_path)


async def test_a_plain_answer_reports_the_utilization_of_the_token(desk: Desk) -> None:
    run = await desk.run("good morning")

    assert (run.returncode, run.stderr) == (0, "")
    assert (run.result["result"], run.result["is_error"]) == ("Rehearsed: good morning", False)
    assert len(desk.api.requests) == 1
    told = run.of("rate_limit_event")[0]["rate_limit_info"]
    assert told["status"] == "allowed"
    assert told["unifiedWindows"]["five_hour"]["utilization"] == 0.1
    assert told["unifiedWindows"]["seven_day"]["resetsAt"] > time.time()
    assert run.result["total_cost_usd"] > 0


async def test_an_api_key_works_and_has_no_limits_to_report(desk: Desk) -> None:
    run = await desk.run("good morning", api_key=KEY.secret)

    assert (run.returncode, run.result["result"]) == (0, "Rehearsed: good morning")
    assert run.of("rate_limit_event") == []


async def test_the_answer_is_streamed_over_its_time(desk: Desk) -> None:
    run = await desk.run(rehearse(reply="a b c d e f g h i j", duration_s=0.6), "--include-partial-messages")

    deltas = [one["event"] for one in run.of("stream_event") if one["event"]["type"] == "content_block_delta"]
    assert "".join(one["delta"]["text"] for one in deltas) == run.result["result"] == "a b c d e f g h i j"
    assert len(deltas) >= 5
    assert run.result["duration_api_ms"] >= 500


async def test_tool_calls_are_really_executed(desk: Desk) -> None:
    tools = [
        {"name": "Bash", "input": {"command": "echo from bash > bash.txt; cat bash.txt"}},
        {"name": "Write", "input": {"file_path": "{cwd}/write.txt", "content": "from write"}},
    ]
    run = await desk.run(rehearse(tools=tools, reply="{step} rounds in {cwd}"), *ACT)

    assert run.returncode == 0
    assert (desk.cwd / "bash.txt").read_text() == "from bash\n"
    assert (desk.cwd / "write.txt").read_text() == "from write"
    assert run.result["result"] == f"2 rounds in {desk.cwd}"
    assert [one.step for one in desk.api.requests] == [0, 1, 2]


async def test_the_result_of_a_tool_can_be_quoted(desk: Desk) -> None:
    run = await desk.run(
        rehearse(tool={"name": "Bash", "input": {"command": "echo $((6*7))"}}, reply="it is {result}"), *ACT
    )

    assert run.result["result"] == "it is 42"


@pytest.mark.parametrize(
    ("window", "text"), [("five_hour", "5-hour limit"), ("seven_day", "weekly limit"), ("seven_day_opus", "Opus limit")]
)
async def test_a_usage_limit_is_recognised(desk: Desk, window: str, text: str) -> None:
    run = await desk.run(rehearse(fault="usage_limit", window=window, resets_in_s=3600))

    assert (run.returncode, len(desk.api.requests)) == (1, 1)
    assert (run.result["is_error"], run.result["api_error_status"]) == (True, 429)
    assert run.result["api_error"] == "usage_limit_reached"
    assert text in run.result["result"]
    told = run.of("rate_limit_event")[0]["rate_limit_info"]
    assert (told["status"], told["rateLimitType"]) == ("rejected", window)
    assert abs(told["resetsAt"] - time.time() - 3600) < 60


async def test_a_job_that_met_a_limit_after_a_tool_goes_on_with_another_token(desk: Desk) -> None:
    tools = [{"name": "Bash", "input": {"command": f"echo {word} >> log.txt"}} for word in ("one", "two")]
    prompt = rehearse(tools=tools, reply="both done", fault="usage_limit", step=1, times=1)

    limited = await desk.run(prompt, *ACT)
    resumed = await desk.run("Continue.", *ACT, n=2, resume=limited.session_id)

    assert limited.result["api_error"] == "usage_limit_reached"
    assert (resumed.returncode, resumed.result["result"]) == (0, "both done")
    assert (desk.cwd / "log.txt").read_text() == "one\ntwo\n"
    assert [one.token for one in desk.api.requests] == ["rehearsal-1"] * 2 + ["rehearsal-2"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("429", (1, 429, "rate_limit")),
        ("529", (1, 529, "server_error")),
        ("500", (1, 500, "server_error")),
        ("401", (2, 401, "authentication_failed")),
        ("403", (1, 403, "authentication_failed")),
        ("404", (2, 404, "model_not_found")),
        ("credit", (1, 400, "billing_error")),
        ("prompt_too_long", (1, 400, "invalid_request")),
        ("drop", (1, None, "server_error")),
        ("cut", (2, None, "server_error")),
        ("html", (2, None, "unknown")),
    ],
)
async def test_a_fault_is_what_the_cli_says_it_is(
    desk: Desk, fault: str, expected: tuple[int, int | None, str]
) -> None:
    run = await desk.run(rehearse(fault=fault, reply="one two three"))

    error = run.of("assistant")[-1]["error"]
    assert (len(desk.api.requests), run.result["api_error_status"], error) == expected
    assert (run.returncode, run.result["is_error"], run.result["subtype"]) == (1, True, "success")


async def test_one_cut_stream_is_mended_by_the_cli_itself(desk: Desk) -> None:
    run = await desk.run(rehearse(fault="cut", times=1, reply="one two three"))

    assert (run.returncode, run.result["result"]) == (0, "one two three")
    assert [one.fault for one in desk.api.requests] == ["cut", None]


async def test_an_unknown_token_is_refused(desk: Desk) -> None:
    run = await desk.run("good morning", n=9)

    assert (run.returncode, run.result["api_error_status"]) == (1, 401)


async def test_an_empty_answer_stays_empty(desk: Desk) -> None:
    run = await desk.run(rehearse(fault="empty"))

    assert (run.returncode, run.result["is_error"], run.result["result"]) == (0, False, "")


async def test_a_big_answer_arrives_whole(desk: Desk) -> None:
    run = await desk.run(rehearse(reply="0123456789", reply_kb=300))

    assert (run.returncode, len(run.result["result"])) == (0, 300 * 1024)


async def test_a_structured_output_can_be_rehearsed(desk: Desk) -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    run = await desk.run(rehearse(tool={"name": "StructuredOutput", "input": {"n": 3}}), "--json-schema", schema)

    assert run.result["structured_output"] == {"n": 3}


async def test_held_clis_run_until_they_are_released(desk: Desk) -> None:
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(desk.run(rehearse(hold=True, reply="free"), n=n)) for n in (1, 2)]
        await desk.api.wait_for(count=2)
        assert not any(task.done() for task in runs)
        desk.api.release()

    assert [task.result().result["result"] for task in runs] == ["free", "free"]


async def test_a_quota_limits_one_token_only(tmp_path: Path) -> None:
    script = parse_script({"tokens": [{"name": "rehearsal-1", "quota": {"requests": 1}}, {"name": "rehearsal-2"}]})
    async with Rehearsal(script) as api:
        desk = Desk(api, tmp_path)
        runs = [await desk.run("hello", n=n) for n in (1, 1, 2)]

    assert [run.returncode for run in runs] == [0, 1, 0]
    first = runs[0].of("rate_limit_event")[0]["rate_limit_info"]["unifiedWindows"]["five_hour"]
    assert (first["utilization"], first["status"]) == (1, "allowed_warning")


@pytest.mark.slow
async def test_an_mcp_tool_can_be_called(desk: Desk, tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(
        "from fastmcp import FastMCP\n"
        "mcp = FastMCP('probe')\n"
        "@mcp.tool\n"
        "def double(n: int) -> str:\n"
        "    return f'twice is {2 * n}'\n"
        "mcp.run(show_banner=False)\n"
    )
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"probe": {"command": sys.executable, "args": [str(server)]}}}))
    prompt = rehearse(tool={"name": "mcp__probe__double", "input": {"n": 21}}, reply="{result}")

    run = await desk.run(prompt, "--mcp-config", str(config), "--allowedTools", "mcp__probe__double")

    assert "twice is 42" in run.result["result"]


@pytest.mark.slow
async def test_the_demo_meets_one_limit_and_one_overload_and_loses_nothing(tmp_path: Path) -> None:
    """A minimal stand-in for the worker: three at a time, round robin, another token after a limit."""
    async with Rehearsal(DEMO_SCRIPT) as api:
        desk, places = Desk(api, tmp_path), asyncio.Semaphore(3)

        async def finish(at: int, prompt: str) -> str:
            async with places:
                run = await desk.run(prompt, *ACT, n=at % 3 + 1)
                for n in (1, 3):
                    if run.returncode == 0:
                        break
                    run = await desk.run("Continue.", *ACT, n=n, resume=run.session_id)
            return run.result["result"]

        answers = await asyncio.gather(*(finish(at, prompt) for at, prompt in enumerate(DEMO_PROMPTS)))

    faults = [one.fault for one in api.requests if one.fault]
    limited = {one.token for one in api.requests if one.fault is Fault.USAGE_LIMIT}
    assert len(set(answers)) == len(DEMO_PROMPTS)
    assert all(one.startswith(("Rehearsed", "The haiku", "Asked")) for one in answers)
    assert (limited, faults.count(Fault.OVERLOADED)) == ({"rehearsal-2"}, 1)
    assert len(list(desk.cwd.glob("*.txt"))) == len([one for one in DEMO_PROMPTS if one.startswith("Write")])
