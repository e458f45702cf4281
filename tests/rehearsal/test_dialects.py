"""Each dialect says the same turn: whole, streamed, with tools, JSON, thoughts, figures and limits."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from rehearsal.dialects import CHAT, CLAUDE, DIALECTS, GEMINI, KEY, OLLAMA, QWEN, RESPONSES, Dialect, directive, events

from claude_jobs.rehearsal.figures import Rate
from claude_jobs.rehearsal.script import Action, Fault, Rule, Script, Token
from claude_jobs.rehearsal.server import Rehearsal

each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)


@each
async def test_an_answer_in_one_piece(http: httpx2.AsyncClient, rehearsal: Rehearsal, dialect: Dialect) -> None:
    answer = await dialect.ask(http, "good morning")

    assert (answer.status_code, dialect.text(answer.json())) == (200, "Rehearsed: good morning")
    assert dialect.finish(answer.json()) in ("stop", "completed", "STOP", "end_turn")
    counted = dialect.usage(answer.json())
    assert counted is not None
    assert min(counted) > 0
    logged = rehearsal.requests[0]
    assert (logged.provider, logged.prompt, logged.status) == (dialect.provider, "good morning", 200)
    assert logged.token == ("" if dialect is OLLAMA else "key-1")
    assert dialect.body("good morning", False) == logged.body


@each
async def test_a_stream_in_as_many_pieces_as_are_asked_for(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    answer = await dialect.ask(http, directive(reply="naïve “quotes”\n", chunks=7), stream=True)

    said = [dialect.piece(event) for event in events(answer)]
    assert len([piece for piece in said if piece]) == 7
    assert "".join(said) == "naïve “quotes”\n"


@each
async def test_a_short_reply_fills_many_chunks(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    answer = await dialect.ask(http, directive(reply="x", chunks=500), stream=True)

    said = [piece for event in events(answer) if (piece := dialect.piece(event))]
    assert (len(said), len("".join(said))) == (500, 2000)


@each
async def test_the_last_event_of_a_stream_tells_the_usage(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    usage = {"input": 10, "output": 20, "cache_read": 300, "cache_write": 0, "thinking": 5}
    answer = await dialect.ask(http, directive(reply="x", usage=usage), stream=True)

    last = events(answer)[-2 if dialect is CLAUDE else -1]
    assert dialect.usage(last) == (310, 20)


@each
async def test_usage_is_split_as_the_dialect_splits_it(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    usage = {"input": 10, "output": 20, "cache_read": 300, "cache_write": 0, "thinking": 5}
    answer = (await dialect.ask(http, directive(reply="x", usage=usage))).json()

    wanted: dict[str, Any] = {
        "claude": {"input_tokens": 10, "cache_read_input_tokens": 300, "output_tokens": 20},
        "gemini": {"promptTokenCount": 310, "cachedContentTokenCount": 300, "thoughtsTokenCount": 5},
        "llama": {"prompt_eval_count": 310, "eval_count": 20},
    }
    told = {**answer.get("usage", {}), **answer.get("usageMetadata", {}), **answer}
    expected = wanted.get(dialect.provider, {})
    assert {key: told[key] for key in expected} == expected
    if dialect in (CHAT, QWEN):
        assert told["prompt_tokens_details"]["cached_tokens"] == 300
        assert told["completion_tokens_details"]["reasoning_tokens"] == 5
    if dialect is RESPONSES:
        assert told["input_tokens_details"]["cached_tokens"] == 300
        assert told["output_tokens_details"]["reasoning_tokens"] == 5


async def test_a_chat_stream_tells_no_usage_unasked(http: httpx2.AsyncClient) -> None:
    answer = await CHAT.ask(http, "x", stream=True, stream_options=None)

    assert not [event for event in events(answer) if event.get("usage")]
    assert answer.text.endswith("data: [DONE]\n\n")


@each
async def test_a_tool_call_then_its_result(http: httpx2.AsyncClient, rehearsal: Rehearsal, dialect: Dialect) -> None:
    prompt = directive(tool={"name": "look", "input": {"at": "{head}"}}, reply="It says {result}")
    answer = (await dialect.ask(http, prompt)).json()
    name, arguments = dialect.call(answer)
    second = await http.post(dialect.path, json=_with_result(dialect, prompt, answer), headers=dialect.headers)

    assert (name, list(arguments)) == ("look", ["at"])
    assert dialect.finish(answer) in ("tool_calls", "tool_use", "completed", "STOP", "stop")
    assert dialect.text(second.json()) == "It says sunny"
    assert [one.step for one in rehearsal.requests] == [0, 1]


def _with_result(dialect: Dialect, prompt: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The second request: the question, the call, what the tool said."""
    body = dialect.body(prompt, False)
    match dialect.provider:
        case "claude":
            result = {"type": "tool_result", "tool_use_id": "x", "content": "sunny"}
            body["messages"] += [
                {"role": "assistant", "content": answer["content"]},
                {"role": "user", "content": [result]},
            ]
        case "gemini":
            response = {"functionResponse": {"name": "look", "response": {"result": "sunny"}}}
            body["contents"] += [answer["candidates"][0]["content"], {"role": "user", "parts": [response]}]
        case "llama":
            body["messages"] += [answer["message"], {"role": "tool", "content": "sunny"}]
        case _ if "output" in answer:
            result = {"type": "function_call_output", "call_id": answer["output"][0]["call_id"], "output": "sunny"}
            body["input"] = [{"role": "user", "content": prompt}, *answer["output"], result]
        case _:
            body["messages"] += [answer["choices"][0]["message"], {"role": "tool", "content": "sunny"}]
    return body


@each
async def test_a_streamed_tool_call_comes_whole(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    prompt = directive(tools=[[{"name": "a", "input": {"x": "ü"}}, {"name": "b", "input": {}}]])
    answer = await dialect.ask(http, prompt, stream=True)

    assert '"a"' in answer.text
    assert '"b"' in answer.text
    assert "ü" in answer.text or "u00fc" in answer.text


@each
async def test_json_is_answered_where_it_is_asked_for(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    whole = await dialect.ask(http, "give me json", **dialect.schema)
    streamed = await dialect.ask(http, "give me json", stream=True, **dialect.schema)

    assert json.loads(dialect.text(whole.json())) == {"n": 1}
    assert json.loads("".join(dialect.piece(event) for event in events(streamed))) == {"n": 1}


@each
async def test_thoughts_are_shown_where_they_are_asked_for(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    prompt = directive(reply="so", thinking="let me see")
    asked = (await dialect.ask(http, prompt, **dialect.thinking)).json()
    unasked = (await dialect.ask(http, prompt)).json()
    streamed = await dialect.ask(http, prompt, stream=True, **dialect.thinking)

    assert (dialect.thought(asked), dialect.text(asked)) == ("let me see", "so")
    assert (dialect.thought(unasked), dialect.text(unasked)) == ("", "so")
    assert "let m" in streamed.text
    assert "".join(dialect.piece(event) for event in events(streamed)) == "so"


@pytest.mark.parametrize(
    ("dialect", "extra"),
    [
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}),
        (
            RESPONSES,
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"}},
        ),
        (CLAUDE, {"tools": [{"name": "e"}, {"name": "f"}], "tool_choice": {"type": "tool", "name": "f"}}),
        (
            GEMINI,
            {
                "tools": [{"functionDeclarations": [{"name": "f"}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
            },
        ),
    ],
    ids=lambda one: one.name if isinstance(one, Dialect) else "",
)
async def test_a_forced_tool_is_called(http: httpx2.AsyncClient, dialect: Dialect, extra: dict[str, Any]) -> None:
    assert dialect.call((await dialect.ask(http, "go", **extra)).json()) == ("f", {})


@pytest.mark.parametrize("dialect", [CHAT, RESPONSES, CLAUDE, GEMINI], ids=lambda one: one.name)
async def test_images_are_no_prompt(http: httpx2.AsyncClient, rehearsal: Rehearsal, dialect: Dialect) -> None:
    image: dict[str, Any] = {
        "chat": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        "responses": {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        "claude": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    }.get(dialect.name, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}})
    text = {"text": "what is it?"} | ({} if dialect is GEMINI else {"type": "text"})
    body = dialect.body("", False)
    if dialect is GEMINI:
        body["contents"] = [{"role": "user", "parts": [image, text]}]
    else:
        body["input" if dialect is RESPONSES else "messages"] = [{"role": "user", "content": [image, text]}]
    await http.post(dialect.path, json=body, headers=dialect.headers)

    assert rehearsal.requests[0].prompt == "what is it?"
    assert "AAAA" in json.dumps(rehearsal.requests[0].body)


@each
async def test_limits_are_told_on_success_in_the_words_of_each(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    rate = {"limit_requests": 60, "remaining_requests": 7, "reset_requests_s": 366.5, "remaining_tokens": 0}
    answer = await dialect.ask(http, directive(reply="x", rate=rate), stream=True)

    if dialect is CLAUDE:
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "60"
        assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert answer.headers["anthropic-ratelimit-tokens-remaining"] == "0"
    else:
        assert answer.headers["x-ratelimit-limit-requests"] == "60"
        assert answer.headers["x-ratelimit-reset-requests"] == "6m6.5s"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        assert "x-ratelimit-limit-tokens" not in answer.headers


async def test_the_rate_of_a_key_is_kept_and_refills() -> None:
    now = [1000.0]
    script = Script(keys=(Token(name="k", secret=KEY, rate=Rate(requests=2, tokens=10_000, per_s=60)),))
    async with (
        Rehearsal(script, clock=lambda: now[0]) as api,
        httpx2.AsyncClient(base_url=api.url, trust_env=False) as client,
    ):
        answers = [await CHAT.ask(client, "x") for _ in range(3)]
        now[0] += 30.5
        later = await CHAT.ask(client, "x")

    assert [one.status_code for one in answers] == [200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in answers] == ["1", "0", "0"]
    assert answers[2].headers["retry-after"] == "30"
    assert answers[2].headers["x-ratelimit-reset-requests"] == "1m0s"
    assert later.status_code == 200


@each
async def test_who_may_not_ask_is_told_so(http: httpx2.AsyncClient, rehearsal: Rehearsal, dialect: Dialect) -> None:
    body = dialect.body("x", False)
    unknown = await http.post(dialect.path, json=body)
    subscription = "sk-ant-oat01-rehearsal-1"
    headers = {"authorization": f"Bearer {subscription}", "x-goog-api-key": subscription}
    foreign = await http.post(dialect.path, json=body, headers=headers)

    refused = {"gemini": 400, "grok": 400, "llama": 200}.get(dialect.provider, 401)
    assert unknown.status_code == refused
    assert foreign.status_code == (200 if dialect is CLAUDE else 401 if dialect is OLLAMA else refused)
    assert rehearsal.requests[1].token == "rehearsal-1"


async def test_gemini_takes_its_key_in_the_query(http: httpx2.AsyncClient) -> None:
    answer = await http.post(f"{GEMINI.path}?key={KEY}", json=GEMINI.body("x", False))

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/v1/chat/completions", "openai"),
        ("/v1/responses", "openai"),
        ("/api/chat", "llama"),
        ("/v1beta/models/m:generateContent", "gemini"),
        ("/v1/models/m:generateContent", "gemini"),
        ("/v1/messages", "claude"),
    ],
)
async def test_without_a_prefix_the_path_tells(
    http: httpx2.AsyncClient, rehearsal: Rehearsal, path: str, provider: str
) -> None:
    body = {**CHAT.body("x", False), "input": "x", "contents": [{"parts": [{"text": "x"}]}]}
    answer = await http.post(path, json=body, headers={"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY})

    assert (answer.status_code, rehearsal.requests[0].provider) == (200, provider)


async def test_a_rule_may_ask_for_a_provider_and_a_path() -> None:
    script = Script(
        rules=(
            Rule(provider="gemini", action=Action(reply="from gemini")),
            Rule(path="/models$", times=1, action=Action(fault=Fault.SERVER_ERROR)),
        )
    )
    async with Rehearsal(script) as api, httpx2.AsyncClient(base_url=api.url, trust_env=False) as client:
        said = [dialect.text((await dialect.ask(client, "x")).json()) for dialect in (CHAT, GEMINI)]
        listed = [await client.get("/openai/v1/models", headers=CHAT.headers) for _ in range(2)]

    assert said == ["Rehearsed: x", "from gemini"]
    assert [one.status_code for one in listed] == [500, 200]
    assert [(one.path, one.status) for one in api.lookups] == [("/v1/models", 500), ("/v1/models", 200)]


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/openai/v1/models", "data"),
        ("GET", "/openai/v1/models/gpt-6.1", "owned_by"),
        ("POST", "/openai/v1/responses/input_tokens", "input_tokens"),
        ("GET", "/xai/v1/models", "data"),
        ("GET", "/dashscope/compatible-mode/v1/models", "data"),
        ("GET", "/gemini/v1beta/models", "models"),
        ("GET", "/gemini/v1/models/gemini-3.8-flash", "inputTokenLimit"),
        ("POST", "/gemini/v1/models/m:countTokens", "totalTokens"),
        ("GET", "/ollama/api/tags", "models"),
        ("GET", "/ollama/api/version", "version"),
        ("POST", "/ollama/api/show", "model_info"),
        ("GET", "/anthropic/v1/models", "data"),
        ("GET", "/anthropic/v1/models/claude-haiku-5-5", "display_name"),
        ("POST", "/anthropic/v1/messages/count_tokens", "input_tokens"),
    ],
)
async def test_look_ups(http: httpx2.AsyncClient, rehearsal: Rehearsal, method: str, path: str, key: str) -> None:
    headers = {"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY}
    answer = await http.request(method, path, headers=headers, json={"model": "qwen3:8b"} if method == "POST" else None)
    unknown = await http.request(method, path, json={"model": "qwen3:8b"} if method == "POST" else None)
    nowhere = await http.get(path.rpartition("/")[0] + "/nothing-here", headers=headers)

    assert answer.json()[key]
    assert unknown.status_code in ((200,) if "ollama" in path else (400, 401))
    assert nowhere.status_code == 404
    assert len(rehearsal.lookups) == 3
    assert not rehearsal.requests


@each
async def test_a_wrong_request_is_answered_with_its_mistake(http: httpx2.AsyncClient, dialect: Dialect) -> None:
    for content in (directive(replay="x").encode(), b"{}", b"[", b"[]"):
        if content.startswith(b"rehearse"):
            answer = await dialect.ask(http, content.decode())
        else:
            answer = await http.post(dialect.path, content=content, headers=dialect.headers)

        assert answer.status_code == 400
        assert "error" in answer.json()
