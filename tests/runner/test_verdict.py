"""What events, exit code and stderr come to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.usage import Usage
from claude_jobs.runner.narration import doing, tell
from claude_jobs.runner.stream import Measured, parse
from claude_jobs.runner.tally import Tally
from claude_jobs.runner.verdict import Ending, Objection, is_usage_limit, judge

ENDED = Ending(exit_code=0)
FAILED = Ending(exit_code=1)


def result(**fields: Any) -> dict[str, Any]:
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": "fine",
        "total_cost_usd": 0.5,
        **fields,
    }


def error(text: str, **fields: Any) -> dict[str, Any]:
    return result(is_error=True, result=text, terminal_reason="api_error", **fields)


def answer(text: str, message_id: str = "m1", **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 1}
    content = [{"type": "text", "text": text}]
    return {
        "type": "assistant",
        "message": {"id": message_id, "model": "m", "content": content, "usage": usage},
        **fields,
    }


def tally(*events: dict[str, Any]) -> Tally:
    found = Tally()
    for event in events:
        found.see(parse(json.dumps(event).encode()))
    return found


def verdict(*events: dict[str, Any], ending: Ending = ENDED, strict: bool = False, before: int = 0) -> Outcome:
    return judge(tally(*events), ending, strict=strict, counts_from_nusd=before)


REJECTED = {
    "type": "rate_limit_event",
    "rate_limit_info": {"status": "rejected", "resetsAt": 1_795_248_971, "rateLimitType": "seven_day_opus"},
}
PACE = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected"}}
HIT = "You've hit your 5-hour limit · resets 7:57am (UTC)"


@pytest.mark.parametrize(
    ("events", "failure"),
    [
        ([result()], Failure.NONE),
        ([result(result="")], Failure.EMPTY_RESULT),
        ([result(result=" \n")], Failure.EMPTY_RESULT),
        ([result(result="", structured_output={"n": 1})], Failure.NONE),
        ([result(result=HIT)], Failure.LIMIT_TEXT),
        ([result(result="Claude usage limit reached. Try later.")], Failure.LIMIT_TEXT),
        ([result(result=HIT + " is the text to look for. " + "It is shown by the client. " * 20)], Failure.NONE),
        ([result(result="The docs say: you've hit your limit when a 429 arrives.")], Failure.NONE),
        ([error(HIT, api_error_status=429, api_error="usage_limit_reached")], Failure.USAGE_LIMIT),
        ([error("You've hit your weekly limit · resets Nov 24, 6:24pm (UTC)")], Failure.USAGE_LIMIT),
        ([REJECTED, error("Request rejected (429)", api_error_status=429)], Failure.USAGE_LIMIT),
        ([PACE, error("Server is temporarily limiting requests", api_error_status=429)], Failure.RATE_LIMITED),
        ([error("API Error: 529 Overloaded", api_error_status=529)], Failure.OVERLOADED),
        ([error("API Error: 502", api_error_status=502)], Failure.SERVER_ERROR),
        ([error("Failed to authenticate. API Error: 401", api_error_status=401)], Failure.AUTHENTICATION),
        ([error("Not logged in · Please run /login")], Failure.AUTHENTICATION),
        ([error("API Error: 403", api_error_status=403)], Failure.FORBIDDEN),
        ([error("There's an issue with the selected model (x)", api_error_status=404)], Failure.MODEL_NOT_FOUND),
        ([error("Credit balance is too low", api_error_status=400)], Failure.CREDIT),
        ([error("API Error: 400 tools.0: bad", api_error_status=400)], Failure.BAD_REQUEST),
        (
            [result(is_error=True, result="Prompt is too long", terminal_reason="blocking_limit")],
            Failure.PROMPT_TOO_LONG,
        ),
        ([error("API Error: Connection dropped (ECONNRESET)")], Failure.NETWORK),
        ([error("Request timed out.")], Failure.NETWORK),
        ([result(is_error=True, result="no", stop_reason="refusal")], Failure.REFUSED),
        ([result(subtype="error_max_turns", is_error=True)], Failure.MAX_TURNS),
        ([result(subtype="error_max_budget_usd", is_error=True, result=None, errors=["Reached"])], Failure.BUDGET),
        (
            [
                result(
                    subtype="error_during_execution", is_error=True, result=None, errors=["No conversation found with"]
                )
            ],
            Failure.SESSION_NOT_FOUND,
        ),
        (
            [result(subtype="error_during_execution", is_error=True, result=None, terminal_reason="aborted_tools")],
            Failure.CRASHED,
        ),
        ([error("Something new")], Failure.CLI_ERROR),
        ([result(), error("API Error: 500", api_error_status=500)], Failure.SERVER_ERROR),
        ([error("API Error: 500", api_error_status=500), result()], Failure.NONE),
    ],
)
def test_a_result_has_its_name(events: list[dict[str, Any]], failure: Failure) -> None:
    outcome = verdict(*events, ending=FAILED)

    assert outcome.failure is failure
    assert bool(outcome.message) is (failure is not Failure.NONE)


@pytest.mark.parametrize(
    ("ending", "failure"),
    [
        (Ending(exit_code=0), Failure.NO_RESULT),
        (Ending(exit_code=-9), Failure.CRASHED),
        (Ending(exit_code=143), Failure.CRASHED),
        (Ending(exit_code=1, stderr="Error: Session ID x is already in use."), Failure.CLI_ERROR),
        (Ending(exit_code=1, stderr="No conversation found with session ID: x"), Failure.SESSION_NOT_FOUND),
        (Ending(exit_code=126, stderr="setpriv: failed to execute claude: Text file busy"), Failure.SPAWN_FAILED),
        (Ending(exit_code=127), Failure.SPAWN_FAILED),
        (Ending(exit_code=1, stderr="Error: Cannot find module '/opt/claude/cli.js'"), Failure.SPAWN_FAILED),
        (Ending(exit_code=1, stderr="warning\n" + HIT), Failure.LIMIT_TEXT),
        (Ending(exit_code=0, stopped=Failure.TIMED_OUT, why="It ran long."), Failure.TIMED_OUT),
    ],
)
def test_no_result_has_a_name_too(ending: Ending, failure: Failure) -> None:
    assert verdict(ending=ending).failure is failure


def test_an_answer_stands_when_the_process_was_stopped_after_it() -> None:
    late = Ending(exit_code=-9, stopped=Failure.TIMED_OUT, why="late")

    assert verdict(result(), ending=late).failure is Failure.NONE
    assert verdict(error("x", api_error_status=500), ending=late).failure is Failure.TIMED_OUT


def test_a_limit_names_its_window_and_reset() -> None:
    outcome = verdict(REJECTED, error(HIT, api_error="usage_limit_reached", api_error_status=429))
    printed = verdict(result(result="Claude AI usage limit reached|1795248971"))

    assert (outcome.limit_window, outcome.resets_at_ms) == ("seven_day_opus", 1_795_248_971_000)
    assert (printed.limit_window, printed.resets_at_ms) == ("", 1_795_248_971_000)


def test_cost_is_the_difference_and_never_negative() -> None:
    more = verdict(result(), before=200_000_000)
    less = verdict(result(), before=900_000_000)

    assert more.usage is not None
    assert less.usage is not None
    assert (more.usage.cost_nusd, more.session_cost_nusd) == (300_000_000, 500_000_000)
    assert (less.usage.cost_nusd, less.session_cost_nusd) == (0, 900_000_000)


def test_an_answer_that_was_sent_back_is_paid_for() -> None:
    sent_back = tally(result(total_cost_usd=0.25))
    sent_back.forgive()
    outcome = judge(sent_back, FAILED, strict=False, counts_from_nusd=100_000_000)

    assert outcome.failure is Failure.CLI_ERROR
    assert outcome.usage is not None
    assert (outcome.usage.cost_nusd, outcome.session_cost_nusd) == (150_000_000, 250_000_000)


def test_an_objection_names_the_failure_of_a_clean_answer_and_of_no_other() -> None:
    objection = Objection(Failure.NOT_ACCEPTED, "Its acceptance check failed, and it said sk-ant-oat01-rehearsal-1.")
    secrets = ("sk-ant-oat01-rehearsal-1",)
    refused = judge(tally(result()), ENDED, strict=False, counts_from_nusd=0, objection=objection, secrets=secrets)
    limited = judge(tally(error(HIT)), FAILED, strict=False, counts_from_nusd=0, objection=objection)

    assert (refused.failure, refused.text) == (Failure.NOT_ACCEPTED, "fine")
    assert "it said [redacted]." in refused.message
    assert limited.failure is Failure.USAGE_LIMIT


def test_usage_of_a_killed_attempt_is_summed_from_its_messages() -> None:
    def start(tokens: int) -> dict[str, Any]:
        return {
            "type": "stream_event",
            "event": {"type": "message_start", "message": {"usage": {"input_tokens": tokens, "output_tokens": 1}}},
        }

    delta = {"type": "stream_event", "event": {"type": "message_delta", "usage": {"output_tokens": 40}}}
    outcome = verdict(start(100), answer("one"), delta, start(200), answer("two", "m2"), ending=Ending(exit_code=-9))

    assert outcome.usage == Usage(input_tokens=300, output_tokens=41)
    assert (outcome.turns, outcome.text) == (2, "two")


def test_usage_without_partial_messages_is_that_of_the_answers() -> None:
    assert tally(answer("one"), answer("more"), answer("two", "m2")).usage == Usage(input_tokens=20, output_tokens=2)


def test_denied_tools_fail_a_strict_job_only() -> None:
    denied = {"type": "system", "subtype": "permission_denied", "tool_name": "Bash"}
    told = result(permission_denials=[{"tool_name": "Write"}])

    assert verdict(denied, result()).denied == ("Bash",)
    assert verdict(told).denied == ("Write",)
    strict = verdict(denied, result(), strict=True)
    assert (strict.failure, strict.text) == (Failure.DENIED, "fine")
    assert "Bash" in strict.message


def test_a_limit_is_forgiven_with_another_token() -> None:
    found = tally(REJECTED, error(HIT, api_error="usage_limit_reached"))
    assert is_usage_limit(found)
    found.forgive()

    assert not is_usage_limit(found)
    assert judge(found, FAILED, strict=False, counts_from_nusd=0).failure is Failure.CLI_ERROR


def test_secrets_are_redacted_everywhere() -> None:
    token = "sk-ant-oat01-abcdef"
    ending = Ending(exit_code=1, stderr=f"bad {token}")
    outcome = judge(tally(error(f"no {token}")), ending, strict=False, counts_from_nusd=0, secrets=(token,))

    assert token not in repr(outcome)


def test_the_log_gets_phrases_not_transcripts() -> None:
    event = parse(json.dumps(answer("word " * 1000)).encode())
    told = tell(event, ())

    assert len(str(told[0].data["text"])) == 120
    assert doing(event, ()) == "writing"
    assert doing(Measured(usage=Usage(), is_start=True), ()) is None
