"""Answers that must satisfy a schema, with the real CLI: checked by us, sent back once, named when they fail."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from runner.support import Told, oauth, order
from runner.warm_support import bench, plain

from claude_jobs.domain.event import EventKind
from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.rehearsal.script import Action, Rule, Script, ToolCall
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import structured
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.order import Order
from claude_jobs.runner.stream import Result, parse

NUMBER = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
PAIR = json.dumps(
    {"properties": {"pair": {"prefixItems": [{"type": "integer"}, {"type": "string"}], "unevaluatedItems": False}}}
)
"""The CLI knows no unevaluatedItems: only we can see that a pair is too long."""


def gives(**values: Any) -> tuple[tuple[ToolCall, ...], ...]:
    return ((ToolCall(name="StructuredOutput", input=values),),)


def script(*actions: Action) -> Script:
    """One action for each turn; what we send back begins a new one."""
    rules = [Rule(prompt="^Say", action=actions[0])]
    rules += [Rule(prompt="structured output|StructuredOutput", action=action) for action in actions[1:]]
    return Script(rules=tuple(rules))


async def run(the_order: Order, told: Told | None = None) -> Outcome:
    return await ClaudeCli().start(the_order, told or Told()).outcome()


def corrections(told: Told) -> list[str]:
    return [str(event.data["why"]) for event in told.log if event.kind is EventKind.CORRECTED]


@pytest.mark.parametrize("tools", [None, (), ("Read",)])
async def test_an_answer_by_the_schema_is_told_as_json(tmp_path: Path, tools: tuple[str, ...] | None) -> None:
    told = Told()
    async with Rehearsal(script(Action(rounds=gives(n=42)))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=NUMBER, tools=tools), told)

    assert (outcome.failure, json.loads(outcome.structured)) == (Failure.NONE, {"n": 42})
    assert json.loads(outcome.text) == {"n": 42}
    assert (outcome.corrections, corrections(told)) == (0, [])


async def test_an_answer_in_words_is_sent_back_once(tmp_path: Path) -> None:
    told = Told()
    async with Rehearsal(script(Action(reply="42, I think"), Action(rounds=gives(n=42)))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=NUMBER), told)
        last = api.requests[-1]

    assert (outcome.failure, json.loads(outcome.structured), outcome.corrections) == (Failure.NONE, {"n": 42}, 1)
    assert corrections(told) == ["It gave no structured output, though it was reminded."]
    assert last.prompt.startswith("You have not called the StructuredOutput tool.")
    assert told.process is not None
    assert outcome.exit_code == 0


async def test_words_again_are_a_failure_by_name(tmp_path: Path) -> None:
    async with Rehearsal(script(Action(reply="42, I think"), Action(reply="it is 42"))) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=NUMBER))

    assert (outcome.failure, outcome.structured, outcome.text) == (Failure.NO_STRUCTURED_OUTPUT, "", "it is 42")
    assert outcome.corrections == 1
    assert "output_schema" in outcome.message


@pytest.mark.parametrize(("second", "failure"), [([1, "a"], Failure.NONE), ([2, "b", 3], Failure.INVALID_OUTPUT)])
async def test_what_the_cli_does_not_see_we_do(tmp_path: Path, second: list[Any], failure: Failure) -> None:
    told = Told()
    actions = (Action(rounds=gives(pair=[1, "a", 2])), Action(rounds=gives(pair=second)))
    async with Rehearsal(script(*actions)) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=PAIR), told)
        sent_back = api.requests[-1].prompt

    assert (outcome.failure, outcome.corrections) == (failure, 1)
    assert bool(outcome.structured) is (failure is Failure.NONE)
    assert json.loads(outcome.text) == {"pair": second}
    assert "At $.pair: Unevaluated items are not allowed (2 was unexpected)" in sent_back
    assert ("$.pair" in outcome.message) is (failure is not Failure.NONE)


async def test_an_answer_that_the_cli_refused_five_times_is_invalid(tmp_path: Path) -> None:
    action = Action(rounds=gives(n="x") * 6, reply="gave up")
    async with Rehearsal(script(action)) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=NUMBER))

    assert outcome.failure is Failure.INVALID_OUTPUT
    assert outcome.message.startswith("Output does not match required schema: /n: must be integer.")


async def test_a_word_after_a_background_task_does_not_undo_the_answer(tmp_path: Path) -> None:
    call = ToolCall(name="Bash", input={"command": "tail -f /dev/null & sleep 0.5; kill $!", "run_in_background": True})
    action = Action(rounds=((call,), *gives(n=1)), reply="By the way, it ended.")
    async with Rehearsal(script(action)) as api:
        outcome = await run(order(tmp_path, credential=oauth(url=api.url), output_schema=NUMBER, tools=("Bash",)))

    assert (outcome.failure, json.loads(outcome.structured)) == (Failure.NONE, {"n": 1})
    assert outcome.text == "By the way, it ended."


async def test_a_schema_that_is_none_is_a_bad_request(tmp_path: Path) -> None:
    outcome = await run(order(tmp_path, output_schema='{"type": "array"}'))

    assert outcome.failure is Failure.BAD_REQUEST
    assert "Wrap it" in outcome.message


async def test_jobs_with_one_schema_share_a_warm_process(tmp_path: Path) -> None:
    rules = (Rule(prompt="Say", action=Action(rounds=gives(n=1))),)
    async with Rehearsal(Script(rules=rules)) as api, bench() as place:
        credential = oauth(url=api.url)
        outcomes = [await place.run(plain(tmp_path, credential=credential, output_schema=NUMBER)) for _ in range(3)]
        other = await place.run(plain(tmp_path, credential=credential))

    assert [outcome.structured for outcome in outcomes] == ['{"n": 1}'] * 3
    assert len(set(place.pids[:3])) == 1
    assert other.structured == ""
    assert place.pids[3] != place.pids[0]


HANGS = json.dumps({"properties": {"s": {"type": "string", "pattern": "^(a|aa)+$"}}})


async def test_a_pattern_that_never_ends_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CLI's own engine gives it up or not; ours runs in a process that is killed."""
    monkeypatch.setattr(structured, "CHECK_S", 1.0)
    reviewer = structured.StructuredOutput(order(tmp_path, output_schema=HANGS))
    began = time.monotonic()
    complaint = await reviewer.review(answered({"s": "a" * 60 + "b"}))

    assert complaint is not None
    assert (complaint.failure, complaint.advice) == (Failure.INVALID_OUTPUT, "")
    assert "longer than 1 s" in complaint.message
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("answer", "is_good"), [({"s": "aaa"}, True), ({"s": "b"}, False)])
async def test_a_check_in_a_process_of_its_own_says_the_same(tmp_path: Path, answer: Any, is_good: bool) -> None:
    complaint = await structured.StructuredOutput(order(tmp_path, output_schema=HANGS)).review(answered(answer))

    assert (complaint is None) is is_good
    assert complaint is None or "At $.s: 'b' does not match" in complaint.advice


async def test_an_answer_beyond_what_is_kept_is_invalid_not_cut(tmp_path: Path) -> None:
    reviewer = structured.StructuredOutput(order(tmp_path, output_schema=NUMBER))
    complaint = await reviewer.review(answered({"n": 1, "s": "x" * 1_100_000}))

    assert complaint is not None
    assert "longer than 1,000,000 characters" in complaint.advice


def answered(value: Any) -> Result:
    line = {"type": "result", "subtype": "success", "result": "", "structured_output": value}
    result = parse(json.dumps(line).encode())
    assert isinstance(result, Result)
    return result
