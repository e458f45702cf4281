"""Each fault as each API says it."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import pytest
from rehearsal.dialects import (
    CHAT,
    CLAUDE,
    GEMINI,
    GROK,
    OLLAMA,
    QWEN,
    RESPONSES,
    Dialect,
    directive,
    events,
)

from claude_jobs.rehearsal.script import Fault
from claude_jobs.rehearsal.server import Rehearsal

ALL = (CHAT, RESPONSES, GROK, QWEN, GEMINI, OLLAMA, CLAUDE)
each = pytest.mark.parametrize("dialect", ALL, ids=lambda one: one.name)
NOW = 1_767_225_600.0
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def words(dialect: Dialect, answer: httpx2.Response) -> tuple[str, str]:
    """The code an API gives its error, and the message."""
    body = answer.json()
    match dialect.provider:
        case "grok":
            return body["code"], body["error"]
        case "llama":
            return "", body["error"]
        case "gemini":
            return body["error"]["status"], body["error"]["message"]
        case "claude":
            return body["error"]["type"], body["error"]["message"]
        case _:
            return body["error"]["code"], body["error"]["message"]


@each
@pytest.mark.parametrize("status", ["400", "401", "403", "404", "408", "413", "429", "500", "502", "503", "504", "529"])
async def test_a_number_is_the_status(
    http: httpx2.AsyncClient, rehearsal: Rehearsal, dialect: Dialect, status: str
) -> None:
    answers = [await dialect.ask(http, directive(fault=status), stream=stream) for stream in (False, True)]

    assert [one.status_code for one in answers] == [int(status)] * 2
    assert all(words(dialect, one)[1] for one in answers)
    assert [(one.status, one.fault) for one in rehearsal.requests] == [(int(status), Fault(status))] * 2


@pytest.mark.parametrize(
    ("fault", "dialect", "status", "code", "said"),
    [
        ("404", CHAT, 404, "model_not_found", "`m` does not exist"),
        ("404", CLAUDE, 404, "not_found_error", "model: m"),
        ("404", GEMINI, 404, "NOT_FOUND", "models/m"),
        ("404", OLLAMA, 404, "", "'m' not found"),
        ("429", CHAT, 429, "rate_limit_exceeded", "Rate limit"),
        ("429", GEMINI, 429, "RESOURCE_EXHAUSTED", "exhausted"),
        ("429", QWEN, 429, "limit_requests", "requests limit"),
        ("insufficient_quota", CHAT, 429, "insufficient_quota", "quota"),
        ("insufficient_quota", RESPONSES, 429, "insufficient_quota", "quota"),
        ("insufficient_quota", QWEN, 400, "Arrearage", "good standing"),
        ("insufficient_quota", GROK, 429, "Some resource has been exhausted", "credits"),
        ("insufficient_quota", GEMINI, 429, "RESOURCE_EXHAUSTED", "plan and billing"),
        ("insufficient_quota", CLAUDE, 400, "invalid_request_error", "credit balance"),
        ("insufficient_quota", OLLAMA, 402, "", "subscription"),
        ("credit", CHAT, 429, "insufficient_quota", "quota"),
        ("bad_key", CHAT, 401, "invalid_api_key", "API key"),
        ("bad_key", QWEN, 401, "invalid_api_key", "API key"),
        ("bad_key", GROK, 400, "Client specified an invalid argument", "Incorrect API key"),
        ("bad_key", GEMINI, 400, "INVALID_ARGUMENT", "API key not valid"),
        ("bad_key", CLAUDE, 401, "authentication_error", "x-api-key"),
        ("bad_key", OLLAMA, 401, "", "unauthorized"),
        ("busy", CHAT, 503, "server_is_overloaded", "overloaded"),
        ("busy", GEMINI, 503, "UNAVAILABLE", "overloaded"),
        ("busy", CLAUDE, 529, "overloaded_error", "Overloaded"),
        ("busy", OLLAMA, 503, "", "busy"),
        ("prompt_too_long", CHAT, 400, "context_length_exceeded", "maximum context length"),
        ("prompt_too_long", RESPONSES, 400, "context_length_exceeded", "maximum context length"),
        ("prompt_too_long", QWEN, 400, "invalid_parameter_error", "Range of input length"),
        ("prompt_too_long", GROK, 400, "Client specified an invalid argument", "maximum prompt length"),
        ("prompt_too_long", GEMINI, 400, "INVALID_ARGUMENT", "input token count"),
        ("prompt_too_long", CLAUDE, 400, "invalid_request_error", "prompt is too long"),
        ("prompt_too_long", OLLAMA, 400, "", "context length"),
        ("blocked", CHAT, 400, "content_policy_violation", "safety"),
        ("blocked", QWEN, 400, "data_inspection_failed", "inappropriate"),
        ("blocked", GROK, 403, "The caller does not have permission", "guidelines"),
        ("blocked", CLAUDE, 400, "invalid_request_error", "content filtering"),
    ],
    ids=lambda one: one.name if isinstance(one, Dialect) else "",
)
async def test_each_api_has_its_words(
    http: httpx2.AsyncClient, fault: str, dialect: Dialect, status: int, code: str, said: str
) -> None:
    answer = await dialect.ask(http, directive(fault=fault))

    assert (answer.status_code, words(dialect, answer)[0]) == (status, code)
    assert said in words(dialect, answer)[1]


async def test_gemini_says_why_a_key_is_bad_and_that_a_prompt_is_blocked(http: httpx2.AsyncClient) -> None:
    bad = (await GEMINI.ask(http, directive(fault="bad_key"))).json()
    blocked = [await GEMINI.ask(http, directive(fault="blocked"), stream=stream) for stream in (False, True)]

    assert bad["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert [one.status_code for one in blocked] == [200, 200]
    for data in (blocked[0].json(), events(blocked[1])[0]):
        assert data["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
        assert "candidates" not in data


async def waited(dialect: Dialect, **action: Any) -> httpx2.Response:
    async with (
        Rehearsal(clock=lambda: NOW) as api,
        httpx2.AsyncClient(base_url=api.url, trust_env=False) as client,
    ):
        return await dialect.ask(client, directive(fault="429", retry_after_s=90, **action))


@each
async def test_a_wait_is_told_in_seconds_dates_and_milliseconds(dialect: Dialect) -> None:
    seconds = await waited(dialect, retry_after_as="seconds")
    date = await waited(dialect, retry_after_as="date")
    ms = await waited(dialect, retry_after_as="ms")
    nothing = await waited(dialect, retry_after_as="none")

    assert seconds.headers["retry-after"] == "90"
    assert parsedate_to_datetime(date.headers["retry-after"]).timestamp() == NOW + 90
    assert ms.headers["retry-after-ms"] == "90000"
    assert not [name for name in nothing.headers if "retry" in name or "ratelimit" in name]
    assert RETRY_INFO not in nothing.text


@each
@pytest.mark.parametrize("what", ["requests", "tokens"])
async def test_a_wait_is_told_as_a_reset(dialect: Dialect, what: str) -> None:
    answer = await waited(dialect, retry_after_as=f"{what}_reset")

    if dialect is GEMINI:
        assert answer.json()["error"]["details"] == [{"@type": RETRY_INFO, "retryDelay": "90s"}]
    elif dialect is CLAUDE:
        assert answer.headers[f"anthropic-ratelimit-{what}-reset"] == "2026-01-01T00:01:30Z"
    else:
        assert answer.headers[f"x-ratelimit-reset-{what}"] == "1m30s"
    assert "retry-after" not in answer.headers


async def test_gemini_tells_a_wait_in_the_body_by_itself() -> None:
    answer = await waited(GEMINI)

    assert answer.json()["error"]["details"] == [{"@type": RETRY_INFO, "retryDelay": "90s"}]
    assert "retry-after" not in answer.headers


@each
async def test_a_fault_is_played_as_often_as_it_says(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    prompt = directive(fault="busy", times=2, reply="third time lucky")
    answers = [await dialect.ask(http, prompt) for _ in range(3)]

    assert [one.status_code == 200 for one in answers] == [False, False, True]
    assert dialect.text(answers[2].json()) == "third time lucky"


@each
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["drop", "cut"])
async def test_a_broken_connection(http: httpx2.AsyncClient, dialect: Dialect, fault: str, *, stream: bool) -> None:
    with pytest.raises(httpx2.TransportError):
        await dialect.ask(http, directive(fault=fault, reply="one two three"), stream=stream)


@each
@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_silence(http: httpx2.AsyncClient, dialect: Dialect, fault: str) -> None:
    http.timeout = httpx2.Timeout(60, read=0.3)
    with pytest.raises(httpx2.ReadTimeout):
        await dialect.ask(http, directive(fault=fault, reply="one two three"), stream=True)


@each
async def test_a_stream_that_ends_too_early_in_good_order(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    answer = await dialect.ask(http, directive(fault="truncated", reply="one two three four", chunks=4), stream=True)

    said = "".join(dialect.piece(event) for event in events(answer))
    assert "one two three four".startswith(said)
    assert 0 < len(said) < len("one two three four")
    assert "[DONE]" not in answer.text


@each
@pytest.mark.parametrize("fault", ["stream_error", "stream_error_flat", "response_failed"])
async def test_an_error_inside_a_stream(http: httpx2.AsyncClient, dialect: Dialect, fault: str) -> None:
    answer = await dialect.ask(http, directive(fault=fault, reply="one two"), stream=True)

    last = events(answer)[-1]
    assert answer.status_code == 200
    assert "error" in json.dumps(last)
    if dialect in (RESPONSES, GROK):
        assert last["type"] == ("response.failed" if fault == "response_failed" else "error")
        assert ("error" in last, "message" in last) == (fault == "stream_error", fault == "stream_error_flat")


async def test_an_error_instead_of_a_whole_answer(http: httpx2.AsyncClient) -> None:
    statuses = [(await one.ask(http, directive(fault="stream_error"))).status_code for one in (CHAT, CLAUDE, OLLAMA)]
    failed = (await RESPONSES.ask(http, directive(fault="response_failed"))).json()

    assert statuses == [503, 529, 503]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_is_overloaded")


@each
async def test_an_event_that_is_no_json(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    answer = await dialect.ask(http, directive(fault="bad_event", reply="one two"), stream=True)

    with pytest.raises(json.JSONDecodeError):
        events(answer)


@each
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "status", "kind", "said"),
    [
        ("html", 200, "text/html", "<html>"),
        ("html_502", 502, "text/html", "502 Bad Gateway"),
        ("malformed", 200, "application/json", '[{"ty'),
        ("other_json", 200, "application/json", "ok"),
    ],
)
async def test_answers_of_somebody_else(
    http: httpx2.AsyncClient, dialect: Dialect, fault: str, status: int, kind: str, said: str, *, stream: bool
) -> None:
    answer = await dialect.ask(http, directive(fault=fault), stream=stream)

    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
    assert said in answer.text


@pytest.mark.parametrize(
    ("fault", "dialect", "finish", "text"),
    [
        ("max_tokens", CHAT, "length", "half"),
        ("max_tokens", RESPONSES, "max_output_tokens", "half"),
        ("max_tokens", GEMINI, "MAX_TOKENS", "half"),
        ("max_tokens", OLLAMA, "length", "half"),
        ("max_tokens", CLAUDE, "max_tokens", "half"),
        ("refusal", CHAT, "stop", ""),
        ("refusal", RESPONSES, "completed", ""),
        ("refusal", GEMINI, "SAFETY", "half"),
        ("refusal", CLAUDE, "refusal", "half"),
        ("content_filter", CHAT, "content_filter", "half"),
        ("content_filter", QWEN, "content_filter", "half"),
        ("content_filter", RESPONSES, "content_filter", "half"),
        ("content_filter", GEMINI, "PROHIBITED_CONTENT", "half"),
        ("content_filter", CLAUDE, "refusal", "half"),
        ("empty", CHAT, "stop", ""),
        ("empty", RESPONSES, "completed", ""),
        ("empty", GEMINI, "STOP", ""),
        ("empty", OLLAMA, "stop", ""),
        ("empty", CLAUDE, "end_turn", ""),
    ],
    ids=lambda one: one.name if isinstance(one, Dialect) else "",
)
async def test_answers_that_ended_otherwise(
    http: httpx2.AsyncClient, fault: str, dialect: Dialect, finish: str, text: str
) -> None:
    answer = (await dialect.ask(http, directive(fault=fault, reply="half"))).json()
    streamed = await dialect.ask(http, directive(fault=fault, reply="half"), stream=True)

    assert (dialect.finish(answer), dialect.text(answer)) == (finish, text)
    assert "".join(dialect.piece(event) for event in events(streamed)) == text
    assert finish in streamed.text
    if fault == "refusal" and dialect in (CHAT, RESPONSES):
        assert '"refusal":"ha' in streamed.text or '"delta":"ha' in streamed.text


@each
@pytest.mark.parametrize(
    ("fault", "told"),
    [("no_usage", None), ("zero_usage", (0, 0)), ("negative_usage", (-7, -3)), ("absurd_usage", (10**15, 10**15))],
)
async def test_wrong_usage(
    http: httpx2.AsyncClient, dialect: Dialect, fault: str, told: tuple[int, int] | None
) -> None:
    answer = (await dialect.ask(http, directive(fault=fault, reply="fine"))).json()
    streamed = await dialect.ask(http, directive(fault=fault, reply="fine"), stream=True)

    assert (dialect.text(answer), dialect.usage(answer)) == ("fine", told)
    seen = [usage for event in events(streamed) if (usage := dialect.usage(event)) is not None]
    assert seen[-1:] == ([] if told is None else [told])
