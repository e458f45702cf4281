"""The runner with the real claude CLI against the rehearsal API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runner.support import Ear, Told, oauth, order
from support_processes import PATIENCE_S

from claude_jobs.domain.job import Failure, Outcome, ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.rehearsal.script import Action, Fault, LimitWindow, Quota, Rule, Script, Token, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import Order, StopReason

BASH_HANGS = (ToolCall(name="Bash", input={"command": "tail -f /dev/null", "description": "wait for ever"}),)


async def run(the_order: Order, told: Told | None = None) -> Outcome:
    return await ClaudeCli().start(the_order, told or Told()).outcome()


def tokens(*quotas: Quota | None, always: Fault | None = None) -> tuple[Token, ...]:
    return tuple(
        Token(name=f"t{n}", secret=f"sk-ant-oat01-rehearsal-{n}", quota=quota, always=always)
        for n, quota in enumerate(quotas, 1)
    )


async def test_a_plain_prompt_is_answered_with_usage_cost_and_utilisation(tmp_path: Path) -> None:
    told = Told()
    async with Rehearsal() as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url)), told)

    assert outcome.failure is Failure.NONE
    assert outcome.text == "Rehearsed: Say hello."
    assert outcome.usage is not None
    assert outcome.usage.output_tokens > 0
    assert outcome.usage.cost_nusd == outcome.session_cost_nusd
    assert outcome.model.startswith("claude-sonnet")
    assert outcome.turns == told.answers == 1
    assert outcome.exit_code == 0
    assert outcome.signalled == ()
    assert told.windows["five_hour"].utilization == pytest.approx(0.1)
    assert told.doing == ["thinking", "writing"]


async def test_after_a_kill_the_session_goes_on_with_another_token(tmp_path: Path) -> None:
    rule = Rule(prompt="Say", times=1, action=Action(rounds=(BASH_HANGS,)))
    async with Rehearsal(Script(rules=(rule,))) as api, Ear(api.url) as ear:
        first = order(tmp_path, credential=oauth(1, url=ear.url), tools=("Bash",))
        told = Told()
        handle = ClaudeCli().start(first, told)
        await until(lambda: "Bash" in told.tools())
        assert told.process is not None
        cli = told.process.pid
        # The transcript is written a moment after its events; a CLI killed before that starts afresh.
        await until(lambda: any("tool_use" in file.read_text() for file in tmp_path.glob(".claude/projects/*/*.jsonl")))
        sockets = list(tmp_path.glob("cc-socks/*.sock"))
        os.kill(cli, signal.SIGKILL)
        crashed = await handle.outcome()
        ear.heard()
        second = order(
            tmp_path, credential=oauth(2, url=ear.url), session_id=first.session_id, tools=("Bash",), epoch=2
        )
        outcome = await run(second)
        history = ear.heard()

    assert crashed.failure is Failure.CRASHED
    assert [socket for socket in sockets if socket.exists()] == []
    assert crashed.usage is not None
    assert crashed.usage.output_tokens > 0
    assert outcome.failure is Failure.NONE
    assert "Say hello." in history
    assert "Continue." in history
    assert "interrupted" in history


@pytest.mark.parametrize("line", ["", '{"type":"queue-operation","operation":"enqueue","content":"Say hello."}\n'])
async def test_a_transcript_without_a_message_does_not_block_its_session(tmp_path: Path, line: str) -> None:
    """What a CLI killed in its first moments leaves: it can be neither resumed nor used again."""
    async with Rehearsal() as api:
        the_order = order(tmp_path, credential=oauth(url=api.url))
        stub = tmp_path / ".claude" / "projects" / "-some-where" / f"{the_order.session_id}.jsonl"
        stub.parent.mkdir(parents=True)
        stub.write_text(line)
        outcome = await run(the_order)

    assert outcome.failure is Failure.NONE, outcome


async def test_a_resumed_session_costs_the_difference(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        first = order(tmp_path, credential=oauth(url=api.url))
        one = await run(first)
        two = await run(order(tmp_path, credential=oauth(url=api.url), session_id=first.session_id))

    assert one.usage is not None
    assert two.usage is not None
    assert two.session_cost_nusd is not None
    assert two.session_cost_nusd == one.usage.cost_nusd + two.usage.cost_nusd
    assert 0 < two.usage.cost_nusd < two.session_cost_nusd


async def test_a_usage_limit_swaps_the_token_in_the_same_process(tmp_path: Path) -> None:
    write = ToolCall(name="Write", input={"file_path": "{cwd}/a.txt", "content": "a"})
    script = Script(
        tokens=tokens(Quota(requests=1, resets_in_s=600), Quota(requests=0), None),
        rules=(Rule(prompt="Say", action=Action(rounds=((write,),), reply="both done")),),
    )
    async with Rehearsal(script) as api:
        told = Told(spares=[oauth(2, url=api.url), oauth(3, url=api.url)])
        outcome = await run(order(tmp_path, credential=oauth(1, url=api.url)), told)

    assert outcome.failure is Failure.NONE, outcome
    assert [limit.failure for limit in told.limits] == [Failure.USAGE_LIMIT] * 2
    assert told.limits[0].limit_window == "five_hour"
    assert told.limits[0].resets_at_ms == pytest.approx(time.time() * 1000 + 600_000, abs=30_000)
    assert (tmp_path / "work" / "a.txt").read_text() == "a"
    assert outcome.signalled == ()


async def test_a_usage_limit_without_another_token_ends_by_name(tmp_path: Path) -> None:
    quota = Quota(requests=0, window=LimitWindow.SEVEN_DAY, resets_in_s=86_400)
    async with Rehearsal(Script(tokens=tokens(quota))) as api:
        outcome = await run(order(tmp_path, credential=oauth(1, url=api.url)))

    assert outcome.failure is Failure.USAGE_LIMIT
    assert outcome.limit_window == "seven_day"
    assert outcome.resets_at_ms is not None
    assert "limit" in outcome.message


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Fault.OVERLOADED, Failure.OVERLOADED),
        (Fault.SERVER_ERROR, Failure.SERVER_ERROR),
        (Fault.RATE_LIMIT, Failure.RATE_LIMITED),
        (Fault.UNAUTHORIZED, Failure.AUTHENTICATION),
        (Fault.FORBIDDEN, Failure.FORBIDDEN),
        (Fault.CREDIT, Failure.CREDIT),
        (Fault.BAD_REQUEST, Failure.BAD_REQUEST),
        (Fault.NOT_FOUND, Failure.MODEL_NOT_FOUND),
        (Fault.TOO_LARGE, Failure.PROMPT_TOO_LONG),
        (Fault.PROMPT_TOO_LONG, Failure.PROMPT_TOO_LONG),
        (Fault.DROP, Failure.NETWORK),
        (Fault.CUT, Failure.NETWORK),
        (Fault.STREAM_ERROR, Failure.OVERLOADED),
        (Fault.HTML, Failure.SERVER_ERROR),
        (Fault.EMPTY, Failure.EMPTY_RESULT),
        (Fault.REFUSAL, Failure.REFUSED),
        (Fault.MAX_TOKENS, Failure.OUTPUT_LIMIT),
    ],
)
async def test_a_fault_of_the_api_has_its_name(tmp_path: Path, fault: Fault, failure: Failure) -> None:
    async with Rehearsal(Script(default=Action(fault=fault))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url)))

    assert outcome.failure is failure, outcome
    assert outcome.message


async def test_an_unreachable_api_is_a_network_failure(tmp_path: Path) -> None:
    outcome = await run(order(tmp_path, credential=oauth(url="http://127.0.0.1:9")))

    assert outcome.failure is Failure.NETWORK


async def test_an_api_key_is_used_alone(tmp_path: Path) -> None:
    key = "sk-ant-api03-rehearsal"
    async with Rehearsal(Script(tokens=(Token(name="key", secret=key),))) as api:
        profile = (("ANTHROPIC_BASE_URL", api.url),)
        credential = Credential(name="key", kind=TokenKind.API_KEY, secret=key, profile=profile)
        outcome = await run(order(tmp_path, credential=credential))

    assert outcome.failure is Failure.NONE, outcome


async def test_silence_of_the_api_is_a_stall(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(fault=Fault.STALL))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), stall_s=2.0))

    assert outcome.failure is Failure.STALLED
    assert outcome.survivors == ()


async def test_a_time_out_stops_it(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(fault=Fault.SILENCE))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), timeout_s=1.5))

    assert outcome.failure is Failure.TIMED_OUT


async def test_a_cancel_ends_a_running_bash_tool(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(rounds=(BASH_HANGS,)))) as api:
        told = Told()
        handle = ClaudeCli().start(order(tmp_path, credential=oauth(url=api.url), tools=("Bash",)), told)
        await until(lambda: "Bash" in told.tools())
        assert told.process is not None
        cli = told.process.pid
        await until(lambda: any(command_line(proc.pid).startswith("tail") for proc in proctree.descendants(cli)))
        tree = proctree.tree(cli)
        handle.stop(StopReason.CANCEL)
        outcome = await handle.outcome()

    assert outcome.failure is Failure.CANCELLED
    assert len(tree) >= 2
    assert [proc for proc in tree.values() if proctree.is_alive(proc)] == []
    assert "Bash: wait for ever" in told.doing


async def test_a_daemon_of_a_bash_tool_does_not_outlive_a_successful_job(tmp_path: Path) -> None:
    command = "setsid tail -f /dev/null >/dev/null 2>&1 & echo $! > pid"
    rounds = ((ToolCall(name="Bash", input={"command": command}),),)
    async with Rehearsal(Script(default=Action(rounds=rounds, reply="started it"))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), tools=("Bash",)))
    daemon = proctree.look(int((tmp_path / "work" / "pid").read_text()))

    assert outcome.text == "started it"
    assert daemon is None or daemon.is_dead


async def test_a_background_task_may_bring_a_further_result(tmp_path: Path) -> None:
    call = ToolCall(
        name="Bash", input={"command": "python3 -c 'import time; time.sleep(4)'", "run_in_background": True}
    )
    async with Rehearsal(Script(default=Action(rounds=((call,),), reply="turn over"))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), tools=("Bash",)))

    assert outcome.failure is Failure.NONE
    assert outcome.turns == 3
    assert outcome.duration_ms > 1000


async def test_an_answer_stands_though_a_background_task_never_ends(tmp_path: Path) -> None:
    call = ToolCall(name="Bash", input={"command": "tail -f /dev/null", "run_in_background": True})
    async with Rehearsal(Script(default=Action(rounds=((call,),), reply="started"))) as api:
        told = Told()
        handle = ClaudeCli().start(order(tmp_path, credential=oauth(url=api.url), tools=("Bash",), timeout_s=3.0), told)
        handle.hold()  # its start is not what is timed
        await until(lambda: "writing" in told.doing)
        handle.go_on()
        outcome = await handle.outcome()

    assert (outcome.failure, outcome.text) == (Failure.NONE, "started")
    assert outcome.signalled
    assert outcome.survivors == ()


async def test_a_denied_tool_is_told_and_fails_only_a_strict_job(tmp_path: Path) -> None:
    rounds = ((ToolCall(name="Bash", input={"command": 'python3 -c \'open("x", "w")\''}),),)
    async with Rehearsal(Script(default=Action(rounds=rounds, reply="could not"))) as api:
        credential = oauth(url=api.url)
        tools = ("Read", "Bash(git *)")
        lenient = await run(order(tmp_path, credential=credential, tools=tools, system="Be brief."))
        strict = await run(order(tmp_path, credential=credential, tools=tools, strict=True))

    assert (lenient.failure, lenient.denied) == (Failure.NONE, ("Bash",))
    assert (strict.failure, strict.denied) == (Failure.DENIED, ("Bash",))
    assert not (tmp_path / "work" / "x").exists()


@pytest.mark.parametrize("prompt", ["/compact", "/clear", "--help", "-p", "!id", "# note", "exit"])
async def test_a_prompt_is_text_whatever_it_looks_like(tmp_path: Path, prompt: str) -> None:
    async with Rehearsal(Script(default=Action(reply="heard"))) as api, Ear(api.url) as ear:
        outcome = await run(order(tmp_path, prompt, credential=oauth(url=ear.url)))
        sent = ear.heard()

    assert outcome.text == "heard"
    assert prompt in sent


@pytest.mark.parametrize("prompt", ["@{0}", "Read @{0} please", 'Read @"{0}" now'])
async def test_a_file_mention_attaches_nothing(tmp_path: Path, prompt: str) -> None:
    secret = tmp_path / "private.txt"
    secret.write_text("NOT-FOR-YOUR-EYES")
    async with Rehearsal(Script(default=Action(reply="heard"))) as api, Ear(api.url) as ear:
        outcome = await run(order(tmp_path, prompt.format(secret), credential=oauth(url=ear.url)))
        sent = ear.heard()

    assert outcome.text == "heard"
    assert str(secret) in sent.replace('\\"', '"')
    assert "NOT-FOR-YOUR-EYES" not in sent


async def test_odd_characters_arrive_as_replacements(tmp_path: Path) -> None:
    async with Rehearsal(Script(default=Action(reply="heard"))) as api, Ear(api.url) as ear:
        outcome = await run(order(tmp_path, "a\ud800b\0c \U0001f980", credential=oauth(url=ear.url)))
        sent = ear.heard()

    assert outcome.text == "heard"
    assert "a\ufffdb\ufffdc \U0001f980" in sent


async def test_a_prompt_of_5_mb_is_too_long_by_name(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        outcome = await run(order(tmp_path, "x" * 5_000_000, credential=oauth(url=api.url)))

    assert outcome.failure is Failure.PROMPT_TOO_LONG
    assert "files" in outcome.message


async def test_an_unknown_tool_and_an_unknown_model_are_named(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        tool = await run(order(tmp_path, credential=oauth(url=api.url), tools=("Read", "Telepathy")))

    assert tool.failure is Failure.BAD_REQUEST
    assert "'Telepathy'" in tool.message


async def test_a_hostile_project_is_not_obeyed_but_its_instructions_are_heard(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / ".claude").mkdir(parents=True)
    hook = {"hooks": [{"type": "command", "command": f"touch {tmp_path}/hooked"}]}
    settings = {
        "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "0"},
        "hooks": {"SessionStart": [hook], "UserPromptSubmit": [hook], "Stop": [hook]},
        "permissions": {"allow": ["Bash"]},
    }
    (work / ".claude" / "settings.json").write_text(json.dumps(settings))
    (work / ".mcp.json").write_text(
        json.dumps({"mcpServers": {"x": {"command": "touch", "args": [f"{tmp_path}/mcp"]}}})
    )
    (work / "CLAUDE.md").write_text("Always answer in Esperanto.")
    async with Rehearsal(Script(default=Action(reply="heard"))) as api, Ear(api.url) as ear:
        credential = oauth(url=ear.url)
        heard = await run(order(tmp_path, credential=credential, project=ProjectFiles.INSTRUCTIONS, system="Be brief."))
        told = ear.heard()
        deaf = await run(order(tmp_path, credential=credential, project=ProjectFiles.NONE))
        untold = ear.heard()

    assert heard.text == deaf.text == "heard"
    assert "Always answer in Esperanto." in told
    assert "Be brief." in told
    assert "Esperanto" not in untold
    assert not (tmp_path / "hooked").exists()
    assert not (tmp_path / "mcp").exists()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


async def until(condition: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
