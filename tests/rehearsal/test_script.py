"""The JSON form of scripts and actions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.demo import DEMO_SCRIPT
from claude_jobs.rehearsal.faults import RetryAs
from claude_jobs.rehearsal.figures import Rate, Rates, Usage
from claude_jobs.rehearsal.script import (
    DEFAULT_TOKENS,
    Action,
    Fault,
    LimitWindow,
    Quota,
    Rule,
    Script,
    Token,
    ToolCall,
    load_script,
    parse_action,
    parse_script,
)


def test_an_empty_script_has_three_fake_subscriptions() -> None:
    script = parse_script({})

    assert Script() == script
    assert script.tokens == DEFAULT_TOKENS
    assert all(token.is_subscription and "rehearsal" in token.secret for token in script.tokens)


def test_every_part_of_a_script_is_read() -> None:
    script = parse_script(
        {
            "tokens": [
                {"name": "a", "quota": {"requests": 2, "window": "seven_day", "resets_in_s": 9}},
                {"name": "b", "secret": "sk-ant-api03-b", "always": 401, "utilization": 0.5},
            ],
            "rules": [
                {
                    "when": {"token": "a", "prompt": "x+", "model": "opus", "request": 2, "overall": 3, "times": 4},
                    "do": {"reply": "yes", "delay_s": 1, "duration_s": 2.5, "hold": True, "reply_kb": 3},
                }
            ],
            "default": {"fault": "usage_limit", "times": 1, "step": 2, "window": "seven_day_opus", "resets_in_s": 1},
        }
    )

    assert (
        Token(
            name="a", secret="sk-ant-oat01-a", quota=Quota(requests=2, window=LimitWindow.SEVEN_DAY, resets_in_s=9.0)
        ),
        Token(name="b", secret="sk-ant-api03-b", always=Fault.UNAUTHORIZED, utilization=0.5),
    ) == script.tokens
    action = Action(reply="yes", delay_s=1.0, duration_s=2.5, hold=True, reply_kb=3)
    assert (Rule(action=action, token="a", prompt="x+", model="opus", request=2, overall=3, times=4),) == script.rules
    assert (
        Action(fault=Fault.USAGE_LIMIT, times=1, step=2, window=LimitWindow.SEVEN_DAY_OPUS, resets_in_s=1.0)
        == script.default
    )


def test_what_providers_need_is_read() -> None:
    script = parse_script(
        {
            "keys": [{"name": "k", "rate": {"requests": 60, "tokens": 1000, "per_s": 10}}],
            "rules": [{"when": {"provider": "gemini", "path": "models$"}, "do": {"fault": 500}}],
            "default": {
                "thinking": "hm",
                "chunks": 9,
                "usage": {"input": 1, "cache_read": 2},
                "rate": {"remaining_requests": 3, "reset_requests_s": 1.5},
                "retry_after_as": "date",
            },
        }
    )

    assert script.keys == (Token(name="k", secret="sk-rehearsal-k", rate=Rate(requests=60, tokens=1000, per_s=10.0)),)
    assert (Rule(provider="gemini", path="models$", action=Action(fault=Fault.SERVER_ERROR)),) == script.rules
    assert script.default == Action(
        thinking="hm",
        chunks=9,
        usage=Usage(input=1, cache_read=2),
        rate=Rates(remaining_requests=3, reset_requests_s=1.5),
        retry_after_as=RetryAs.DATE,
    )


def test_tools_are_rounds_and_a_nested_list_is_one_round() -> None:
    one, two = {"name": "Bash", "input": {"command": "a"}}, {"name": "Write", "input": {"x": "y"}}

    action = parse_action({"tool": one, "tools": [two, [one, two]]}, where="do")

    bash, write = ToolCall(name="Bash", input={"command": "a"}), ToolCall(name="Write", input={"x": "y"})
    assert ((bash,), (write,), (bash, write)) == action.rounds


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([], "script"),
        ({"tokns": []}, "tokns"),
        ({"tokens": [{"secret": "x"}]}, "name"),
        ({"tokens": [{"name": "a", "quota": {"request": 1}}]}, "request"),
        ({"rules": [{"when": {"prompt": "("}}]}, "regular expression"),
        ({"rules": [{"when": {"nth": 1}}]}, "nth"),
        ({"rules": [{"do": {"fault": "flood"}}]}, "flood"),
        ({"default": {"delay_s": -1}}, "delay_s"),
        ({"default": {"window": "month"}}, "month"),
        ({"default": {"tool": {"input": {}}}}, "tool call"),
        ({"default": {"tool": "Bash"}}, "tool"),
        ({"default": {"tools": {}}}, "tools"),
        ({"default": {"hold": 1}}, "hold"),
        ({"default": {"times": "1"}}, "times"),
        ({"default": {"reply": 1}}, "reply"),
        ({"default": {"fault": True}}, "fault"),
        ({"default": {"retry_after_as": "hours"}}, "hours"),
        ({"default": {"usage": {"inputs": 1}}}, "inputs"),
        ({"default": {"usage": {"input": -1}}}, "input"),
        ({"default": {"rate": {"limit": 1}}}, "limit"),
        ({"keys": [{"name": "k", "rate": {"per_minute": 1}}]}, "per_minute"),
        ({"rules": [{"when": {"path": "("}}]}, "regular expression"),
    ],
)
def test_a_mistake_is_named(data: object, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        parse_script(data)


def test_a_script_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"default": {"reply": "hi"}}))

    assert Script(default=Action(reply="hi")) == load_script(path)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text("tokens: []")

    with pytest.raises(InvalidRequest, match=r"script\.json"):
        load_script(path)


def test_no_secret_shows_in_a_script() -> None:
    assert "sk-ant" not in repr(DEMO_SCRIPT)
