"""Jobs with tools in one process, with the real claude CLI: nothing that the first did shows in the second."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from runner.support import Ear, Told, oauth, order
from runner.warm_support import Bench, bench, is_alive, normal, plain, requests

from claude_jobs.domain.job import Outcome, PermissionMode
from claude_jobs.rehearsal.script import Action, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.runner.order import Order

FILES = ("Read", "Edit", "Write", "NotebookEdit", "Glob", "Grep")
NOTEBOOK = '{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}'


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, input=arguments)


def script(first: list[ToolCall], second: list[ToolCall]) -> Script:
    """What the model does in a job whose prompt begins with "heron", and in any other; one call a turn."""
    return Script(
        rules=(Rule(prompt="^heron", action=Action(rounds=tuple((one,) for one in first))),),
        default=Action(rounds=tuple((one,) for one in second)),
    )


@dataclass
class Seen:
    """What a job asked of the model, and what it came to."""

    outcome: Outcome
    told: Told
    bodies: list[dict[str, Any]]
    heard: str

    @property
    def results(self) -> list[str]:
        """What its tools answered, in order."""
        blocks = [block for message in self.bodies[-1]["messages"] for block in _blocks(message)]
        return [str(block["content"]) for block in blocks if block.get("type") == "tool_result"]


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content: Any = message["content"]
    return [] if isinstance(content, str) else content


@dataclass
class Stage:
    """A repository with some files, and jobs that share a process there."""

    place: Bench
    ear: Ear
    home: Path
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def work(self) -> Path:
        return self.home / "work"

    def lay_out(self) -> None:
        """The files as they are before the second job."""
        (self.work / "a.txt").write_text("alpha\n")
        (self.work / "n.ipynb").write_text(NOTEBOOK)
        (self.work / "new.txt").unlink(missing_ok=True)

    def order(self, prompt: str, *, fresh: bool = False) -> Order:
        options: dict[str, Any] = {"tools": FILES, **self.options, "fresh": fresh}
        return order(self.home, prompt, credential=oauth(url=self.ear.url), **options)

    async def run(self, prompt: str, *, fresh: bool = False) -> Seen:
        self.ear.heard()
        told = Told()
        outcome = await self.place.run(self.order(prompt, fresh=fresh), told)
        heard = self.ear.heard()
        return Seen(outcome, told, requests(heard), heard)


async def on_stage(place: Bench, ear: Ear, home: Path, **options: Any) -> Stage:
    stage = Stage(place, ear, home, options)
    stage.work.mkdir()
    stage.lay_out()
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]
    for command in (["init", "-q"], ["add", "."], commit):
        subprocess.run(["git", *command], cwd=stage.work, check=True)
    return stage


async def test_a_second_job_asks_and_is_answered_as_in_a_process_of_its_own(tmp_path: Path) -> None:
    work = tmp_path / "work"
    a, new, notebook = str(work / "a.txt"), str(work / "new.txt"), str(work / "n.ipynb")
    first = [
        call("Read", file_path=a),
        call("Read", file_path=notebook),
        call("Write", file_path=new, content="about herons\n"),
        call("Edit", file_path=a, old_string="alpha", new_string="heron"),
        call("NotebookEdit", notebook_path=notebook, new_source="heron = 1", edit_mode="insert", cell_type="code"),
        call("Glob", pattern="**/*"),
        call("Grep", pattern="heron"),
    ]
    second = [
        call("NotebookEdit", notebook_path=notebook, new_source="x = 1", edit_mode="insert", cell_type="code"),
        call("Edit", file_path=a, old_string="alpha", new_string="beta"),
        call("Read", file_path=a),
        call("Write", file_path=new, content="new\n"),
        call("Glob", pattern="**/*.txt"),
        call("Grep", pattern="beta"),
    ]
    async with Rehearsal(script(first, second)) as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path)
        one = await stage.run("heron job")
        stage.lay_out()
        shared = await stage.run("second job")
        stage.lay_out()
        alone = await stage.run("second job", fresh=True)

    assert one.outcome.text == "Rehearsed: heron job"
    assert place.pids[0] == place.pids[1] != place.pids[2]
    assert "has not been read yet" in shared.results[0]
    assert len(shared.bodies) == len(second) + 1
    assert [normal(body) for body in shared.bodies] == [normal(body) for body in alone.bodies]
    assert "heron" in one.heard
    assert "heron" not in shared.heard


async def test_cost_session_and_transcript_are_its_own(tmp_path: Path) -> None:
    read = call("Read", file_path=str(tmp_path / "work" / "a.txt"))
    async with Rehearsal(script([read], [read])) as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path)
        one = await stage.run("heron job")
        two = await stage.run("second job")
        alone = await stage.run("second job", fresh=True)
    (session,) = two.told.sessions
    (transcript,) = tmp_path.glob(f".claude/projects/*/{session}.jsonl")

    assert place.pids[0] == place.pids[1]
    assert one.told.sessions == []
    assert "second job" in transcript.read_text()
    assert "heron" not in transcript.read_text()
    assert two.outcome.usage is not None
    assert alone.outcome.usage is not None
    assert two.outcome.usage.cost_nusd == pytest.approx(alone.outcome.usage.cost_nusd, rel=0.1)
    assert two.outcome.session_cost_nusd == two.outcome.usage.cost_nusd


async def test_a_shell_takes_its_process_with_it(tmp_path: Path) -> None:
    """So neither an exported variable, nor a folder gone into, nor anything in the background reaches another job."""
    commands = ("export FOO=leaked; mkdir -p sub; cd sub", "setsid sleep 300 > /dev/null 2>&1 < /dev/null & echo $!")
    first = [call("Bash", command=command, description="leave something") for command in commands]
    look = call("Bash", command='echo "[$FOO] $(basename "$PWD")"', description="look")
    async with Rehearsal(script(first, [look])) as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path, tools=("Bash",))
        one = await stage.run("heron job")
        kept = place.pool.idle
        background = int(one.results[-1].split()[0])
        two = await stage.run("second job")

    assert kept == ()
    assert not is_alive(place.pids[0])
    assert not is_alive(background)
    assert place.pids[0] != place.pids[1]
    assert two.results == ["[] work"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("Bash", {"command": "true", "description": "nothing"}),
        ("Task", {"description": "x", "prompt": "look", "subagent_type": "general-purpose"}),
        ("CronCreate", {"cron": "* * * * *", "prompt": "again", "recurring": True}),
        ("TodoWrite", {"todos": []}),
        ("Edit", {"file_path": "{cwd}/../outside.txt", "old_string": "out", "new_string": "side"}),
    ],
)
async def test_a_tool_that_may_leave_something_takes_its_process_with_it(
    tmp_path: Path, tool: str, arguments: dict[str, Any]
) -> None:
    (tmp_path / "outside.txt").write_text("out\n")
    async with Rehearsal(script([call(tool, **arguments)], [])) as api, Ear(api.url) as ear, bench() as place:
        options = {"tools": None, "permission_mode": PermissionMode.ACCEPT_EDITS}
        stage = await on_stage(place, ear, tmp_path, **options)
        one = await stage.run("heron job")

    assert place.pool.idle == ()
    assert one.outcome.text
    assert not is_alive(place.pids[0])


async def test_a_denial_takes_the_process_with_it(tmp_path: Path) -> None:
    outside = call("Write", file_path=str(tmp_path / "outside.txt"), content="x")
    async with Rehearsal(script([outside], [])) as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path)
        one = await stage.run("heron job")
        kept = place.pool.idle

    assert one.outcome.denied == ("Write",)
    assert kept == ()


async def test_jobs_with_a_schema_share_and_each_has_its_answer(tmp_path: Path) -> None:
    schema = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
    first = [call("StructuredOutput", n="not a number"), call("StructuredOutput", n=1)]
    async with Rehearsal(script(first, [call("StructuredOutput", n=2)])) as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path, tools=(), output_schema=schema)
        one = await stage.run("heron job")
        two = await stage.run("second job")
        alone = await stage.run("second job", fresh=True)

    assert [json.loads(seen.outcome.structured) for seen in (one, two)] == [{"n": 1}, {"n": 2}]
    assert place.pids[0] == place.pids[1] != place.pids[2]
    assert [normal(body) for body in two.bodies] == [normal(body) for body in alone.bodies]


async def test_no_other_session_gets_a_word_in(tmp_path: Path) -> None:
    """CLIs of one user list and message each other; to one that waits, a message would be a prompt."""
    async with Rehearsal() as api, Ear(api.url) as ear, bench() as place:
        stage = await on_stage(place, ear, tmp_path)
        await stage.run("heron job")
        (waiting,) = place.pool.idle
        socket = tmp_path / "cc-socks" / f"{waiting}.sock"
        send = {"name": "SendMessage", "input": {"to": f"uds:{socket}", "message": "do this instead", "summary": "hi"}}
        told = Told()
        prompt = "rehearse: " + json.dumps({"reply": "sent", "tool": send})
        await place.run(order(tmp_path, prompt, credential=oauth(url=ear.url)), told)
        one, *others = (request.conversation for request in api.requests)
        two = await stage.run("second job")

    assert told.tools() == ["SendMessage"]
    assert len(others) >= 2  # the sender may be told of the refusal before it ends
    assert len(set(others)) == 1
    assert one not in others
    assert "do this instead" not in two.heard
    assert two.outcome.text == "Rehearsed: second job"


async def test_a_process_that_is_not_used_leaves_no_transcript_of_its_waiting(tmp_path: Path) -> None:
    async with Rehearsal() as api, bench() as place:
        await place.run(plain(tmp_path, "the only one", credential=oauth(url=api.url)))
    transcripts = list(tmp_path.glob(".claude/projects/*/*.jsonl"))

    assert ["the only one" in transcript.read_text() for transcript in transcripts] == [True]
    assert proctree.marked(plain(tmp_path).home_mark.removesuffix("quiet-otter:1")) == []
