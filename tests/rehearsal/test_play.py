"""What is read from a request body, and which turn follows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.call import Asked, Call
from claude_jobs.rehearsal.demo import DEMO_PROMPTS, DEMO_SCRIPT
from claude_jobs.rehearsal.play import Play, Turn
from claude_jobs.rehearsal.script import DEFAULT_TOKENS, Action, Fault, parse_script
from claude_jobs.rehearsal.wires.anthropic import Messages

NOW = 1_000_000.0
TOKEN = DEFAULT_TOKENS[0]


def user(*texts: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def used(*names: str) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t", "name": name, "input": {}} for name in names],
    }


def told(result: str, *texts: str) -> dict[str, object]:
    blocks: list[object] = [{"type": "tool_result", "tool_use_id": "t", "content": result}]
    return {"role": "user", "content": blocks + [{"type": "text", "text": text} for text in texts]}


def said(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def call(*messages: dict[str, object], session: str | None = "s", model: str = "claude-sonnet-5-5") -> Call:
    body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
    return Messages().parse(Asked(provider="claude", path="/v1/messages", body=body, session=session))


def read(body: bytes) -> Call:
    return Messages().parse(Asked(provider="claude", path="/v1/messages", body=body))


def play(script: object | None = None) -> Play:
    return Play(parse_script(script or {}), now=NOW)


def ask(
    running: Play, prompt: str, *, token: str | None = None, session: str = "s", now: float = NOW, model: str = "x"
) -> Turn:
    chosen = next(one for one in running.script.tokens if token in (None, one.name))
    return running.next(chosen, call(user(prompt), session=session, model=model), now=now)


def test_the_prompt_is_echoed_without_a_script() -> None:
    assert ask(play(), "one two").text == "Rehearsed: one two"


def test_reminders_are_no_prompt() -> None:
    assert call(user("<system-reminder>\nrehearse: {}\n</system-reminder>", "do it")).prompt == "do it"


def test_the_last_real_prompt_counts() -> None:
    assert call(user("first"), said("x"), user("second")).prompt == "second"


@pytest.mark.parametrize(
    "text",
    [
        "Continue.",
        "continue from where you left off",
        "[Request interrupted by user]",
        "Output token limit hit. Go on.",
    ],
)
def test_a_continuation_keeps_the_task_and_its_step(text: str) -> None:
    found = call(user("first"), used("Bash"), told("out"), said("x"), user("second"), used("Bash"), told("two", text))

    assert (found.prompt, found.step, found.result) == ("second", 1, "two")


def test_a_prompt_that_begins_with_continue_and_goes_on_is_a_task() -> None:
    prompt = 'Continue.\nrehearse: {"reply": "new"}'

    assert prompt == call(user("first"), said("x"), user(prompt)).prompt


def test_a_lone_continue_is_the_prompt() -> None:
    assert call(user("Continue.")).prompt == "Continue."


def test_the_directive_may_span_lines_and_quote_another_one() -> None:
    inner = 'rehearse: {"reply": "inner"}'
    directive = json.dumps({"reply": "outer", "tool": {"name": "spawn", "input": {"prompt": inner}}}, indent=1)

    found = call(user(f"Please\nrehearse: {directive}\nthanks")).directive

    assert found is not None
    assert ("outer", inner) == (found.reply, found.rounds[0][0].input["prompt"])


@pytest.mark.parametrize("text", ['rehearse: {"reply"', 'rehearse: {"repl": "x"}'])
def test_a_wrong_directive_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="rehearse"):
        call(user(text))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages": [1]}', b'{"messages": []}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body)


def test_the_latest_working_directory_is_found() -> None:
    reminder = "<system-reminder>\n - Primary working directory: /b\n</system-reminder>"
    body = {"model": "m", "system": "Working directory: /a\nx", "messages": [user(reminder, "Working directory: /c")]}

    assert read(json.dumps(body).encode()).cwd == "/b"


def test_the_session_comes_from_the_metadata_if_no_header_tells_it() -> None:
    body = {"messages": [user("x")], "metadata": {"user_id": "u1"}}

    assert read(json.dumps(body).encode()).conversation == "u1"


def test_tools_come_first_and_their_result_can_be_quoted() -> None:
    running = play(
        {
            "default": {
                "tools": [{"name": "Bash", "input": {"command": "echo {n}", "l": ["{token}", 1]}}],
                "reply": "got {result}",
            }
        }
    )

    first = ask(running, "go")
    second = running.next(TOKEN, call(user("go"), used("Bash"), told("42")), now=NOW)

    assert first.calls[0].input == {"command": "echo 1", "l": ["rehearsal-1", 1]}
    assert (second.text, second.calls) == ("got 42", ())


def test_a_job_that_a_tool_has_started_can_be_asked_for() -> None:
    action = {"tools": [{"name": "spawn"}, {"name": "result", "input": {"job_id": "{job}"}}], "reply": "{job}|{result}"}
    running = play({"default": action})
    answers = [told('{"job_id": "j-7k2m", "next": "result(job_id=j-7k2m)"}'), told("done")]

    asked = running.next(TOKEN, call(user("go"), used("spawn"), answers[0]), now=NOW)
    ended = running.next(TOKEN, call(user("go"), used("spawn"), answers[0], used("result"), answers[1]), now=NOW)

    assert asked.calls[0].input == {"job_id": "j-7k2m"}
    assert ended.text == "|done"


def test_the_first_rule_that_matches_wins_and_its_groups_are_words() -> None:
    running = play(
        {
            "rules": [
                {"when": {"prompt": r"sum of (?P<a>\d+)"}, "do": {"reply": "a is {a}, {unknown}"}},
                {"when": {"prompt": "sum"}, "do": {"reply": "no"}},
            ]
        }
    )

    assert ask(running, "the sum of 7").text == "a is 7, {unknown}"
    assert ask(running, "sum").text == "no"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"token": "rehearsal-2"}, "--X"),
        ({"request": 2}, "-X-"),
        ({"overall": 3}, "--X"),
        ({"times": 1}, "X--"),
        ({"model": "opus"}, "-X-"),
    ],
)
def test_conditions_of_a_rule(when: dict[str, object], expected: str) -> None:
    running = play({"rules": [{"when": when, "do": {"reply": "X"}}], "default": {"reply": "-"}})

    answers = [
        ask(running, "a", session="s"),
        ask(running, "a", session="s", model="claude-opus-5-5"),
        ask(running, "a", session="t", token="rehearsal-2"),
    ]

    assert expected == "".join(turn.text for turn in answers)


def test_a_directive_goes_before_the_rules() -> None:
    running = play({"rules": [{"do": {"reply": "rule"}}]})

    assert ask(running, 'rehearse: {"reply": "mine"}').text == "mine"


def test_a_fault_happens_so_often_in_each_conversation() -> None:
    running, prompt = play(), 'rehearse: {"reply": "ok", "fault": 529, "times": 2}'

    faults = [ask(running, prompt, session=session).fault for session in "aaabbb"]

    assert faults == [Fault.OVERLOADED, Fault.OVERLOADED, None] * 2


def test_a_fault_may_wait_for_a_step() -> None:
    running, prompt = play(), 'rehearse: {"tool": {"name": "Bash"}, "fault": "cut", "step": 1, "reply": "half"}'

    first = ask(running, prompt)
    second = running.next(TOKEN, call(user(prompt), used("Bash"), told("x")), now=NOW)

    assert (first.fault, second.fault, second.text) == (None, Fault.CUT, "half")


def test_a_quota_is_used_up_and_opens_again() -> None:
    running = play({"tokens": [{"name": "a", "quota": {"requests": 2, "resets_in_s": 10}}, {"name": "b"}]})

    turns = [ask(running, "x", token="a", now=NOW + at) for at in (0, 1, 2, 11.5, 12.1)]

    assert [turn.fault for turn in turns] == [None, None, Fault.USAGE_LIMIT, Fault.USAGE_LIMIT, None]
    assert [turn.meter.five_hour for turn in turns if turn.meter] == [0.5, 1.0, 1.0, 1.0, 0.5]
    assert turns[3].meter is not None
    assert turns[3].meter.resets_at == NOW + 12
    assert ask(running, "x", token="b").fault is None


def test_a_usage_limit_by_directive_holds_for_the_token_only() -> None:
    running, prompt = play(), 'rehearse: {"fault": "usage_limit", "times": 1, "resets_in_s": 5}'

    limited = [
        ask(running, prompt, token=f"rehearsal-{n}", now=NOW + at).fault for n, at in ((1, 0), (1, 1), (2, 1), (1, 6))
    ]

    assert limited == [Fault.USAGE_LIMIT, Fault.USAGE_LIMIT, None, None]


def test_an_opus_limit_lets_other_models_through() -> None:
    running = play({"tokens": [{"name": "a", "quota": {"requests": 0, "window": "seven_day_opus"}}]})

    assert Fault.USAGE_LIMIT is ask(running, "x", model="claude-opus-5-5").fault
    assert ask(running, "x", model="claude-sonnet-5-5").fault is None


def test_a_token_can_always_fail() -> None:
    running = play({"tokens": [{"name": "a", "always": "403"}]})

    assert [ask(running, "x").fault for _ in range(2)] == [Fault.FORBIDDEN] * 2


def test_api_keys_have_no_meter() -> None:
    running = play({"tokens": [{"name": "key", "secret": "sk-ant-api03-rehearsal"}]})

    assert ask(running, "x").meter is None


def test_a_reply_is_filled_up_to_its_size() -> None:
    turn = ask(play(), 'rehearse: {"reply": "abc", "reply_kb": 3}')

    assert len(turn.text) == 3 * 1024
    assert turn.text.startswith("abc\nabc")


def test_doubled_braces_are_left_for_a_nested_rehearsal() -> None:
    assert ask(play({"default": {"reply": "{token} {{token}}"}}), "x").text == "rehearsal-1 {token}"


@given(
    quota=st.integers(0, 5),
    resets_in_s=st.integers(1, 50),
    gaps=st.lists(st.integers(0, 20), max_size=40),
)
def test_no_window_ever_holds_more_answers_than_its_quota(quota: int, resets_in_s: int, gaps: list[int]) -> None:
    running = play({"tokens": [{"name": "a", "quota": {"requests": quota, "resets_in_s": resets_in_s}}]})
    answered, limited_until, now = 0, 0.0, NOW
    for gap in gaps:
        now += gap
        turn = ask(running, "x", now=now)
        if turn.fault is None:
            assert now >= limited_until
            answered += 1
        else:
            assert turn.meter is not None
            assert turn.meter.resets_at > now
            answered, limited_until = 0, turn.meter.resets_at
        assert answered <= quota


def test_each_job_of_the_demo_ends_with_a_text_of_its_own() -> None:
    running = Play(DEMO_SCRIPT, now=NOW)
    texts: set[str] = set()
    for prompt in DEMO_PROMPTS:
        messages = [user(prompt)]
        while not (turn := running.next(DEMO_SCRIPT.tokens[0], call(*messages, session=prompt), now=NOW)).text:
            if turn.fault is None:
                messages += [used(turn.calls[0].name), told(f"did {prompt}")]
        texts.add(turn.text)
        assert not [word for word in ("{", "}") if word in turn.text]

    assert len(DEMO_PROMPTS) == len(texts)


def test_the_default_action_may_be_changed() -> None:
    assert Action(reply="x") == parse_script({"default": {"reply": "x"}}).default
