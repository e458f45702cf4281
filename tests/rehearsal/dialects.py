"""The same question in each dialect of the rehearsal API, over plain HTTP, and what is read from its answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

Json = dict[str, Any]
KEY = "sk-rehearsal-1"
SCHEMA: Json = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one API is asked, and where its answers keep what we want to know."""

    name: str
    provider: str
    path: str
    stream_path: str = ""
    headers: Json
    body: Callable[[str, bool], Json]
    text: Callable[[Json], str]
    piece: Callable[[Json], str]
    call: Callable[[Json], tuple[str, Json]]
    finish: Callable[[Json], str]
    usage: Callable[[Json], tuple[int, int] | None]
    schema: Json
    thinking: Json
    thought: Callable[[Json], str]

    async def ask(
        self, client: httpx2.AsyncClient, prompt: str, *, stream: bool = False, **extra: Any
    ) -> httpx2.Response:
        path = self.stream_path if stream and self.stream_path else self.path
        return await client.post(path, json={**self.body(prompt, stream), **extra}, headers=self.headers)


def directive(**action: Any) -> str:
    return "rehearse: " + json.dumps(action)


def events(answer: httpx2.Response) -> list[Json]:
    """The JSON events of a stream, SSE or lines."""
    lines = (line.removeprefix("data: ") for line in answer.text.splitlines() if not line.startswith("event:"))
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


def _messages(prompt: str, stream: bool) -> Json:
    return {"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": prompt}]}


def _chat_body(prompt: str, stream: bool) -> Json:
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": prompt}], **options}


def _chat_usage(data: Json) -> tuple[int, int] | None:
    usage = data.get("usage")
    return (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None


def _chat_call(data: Json) -> tuple[str, Json]:
    function = data["choices"][0]["message"]["tool_calls"][0]["function"]
    return function["name"], json.loads(function["arguments"])


def _items(data: Json, kind: str) -> Iterator[Json]:
    return (item for item in data["output"] if item["type"] == kind)


def _responses_call(data: Json) -> tuple[str, Json]:
    item = next(_items(data, "function_call"))
    return item["name"], json.loads(item["arguments"])


def _response_usage(data: Json) -> tuple[int, int] | None:
    usage = data.get("response", data).get("usage")
    return (usage["input_tokens"], usage["output_tokens"]) if usage else None


def _parts(data: Json) -> list[Json]:
    return [part for one in data.get("candidates", []) for part in one["content"].get("parts", [])]


def _gemini_text(data: Json) -> str:
    return "".join(part.get("text", "") for part in _parts(data) if not part.get("thought"))


def _gemini_call(data: Json) -> tuple[str, Json]:
    call = next(part["functionCall"] for part in _parts(data) if "functionCall" in part)
    return call["name"], call["args"]


def _gemini_usage(data: Json) -> tuple[int, int] | None:
    usage = data.get("usageMetadata")
    if not usage:
        return None
    return usage["promptTokenCount"], usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)


def _claude_call(data: Json) -> tuple[str, Json]:
    block = next(one for one in data["content"] if one["type"] == "tool_use")
    return block["name"], block["input"]


def _claude_usage(data: Json) -> tuple[int, int] | None:
    usage = data.get("usage")
    if not usage:
        return None
    wrote = usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    return usage["input_tokens"] + wrote, usage["output_tokens"]


def _chat(name: str, provider: str, prefix: str) -> Dialect:
    return Dialect(
        name=name,
        provider=provider,
        path=f"{prefix}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEY}"},
        body=_chat_body,
        text=lambda data: data["choices"][0]["message"]["content"] or "",
        piece=lambda event: "".join(one["delta"].get("content") or "" for one in event["choices"]),
        call=_chat_call,
        finish=lambda data: data["choices"][0]["finish_reason"],
        usage=_chat_usage,
        schema={"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        thinking={"enable_thinking": True},
        thought=lambda data: data["choices"][0]["message"].get("reasoning_content", ""),
    )


def _responses(name: str, provider: str, prefix: str) -> Dialect:
    return Dialect(
        name=name,
        provider=provider,
        path=f"{prefix}/v1/responses",
        headers={"authorization": f"Bearer {KEY}"},
        body=lambda prompt, stream: {"model": "m", "input": prompt, "stream": stream},
        text=lambda data: "".join(part.get("text", "") for one in _items(data, "message") for part in one["content"]),
        piece=lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
        call=_responses_call,
        finish=lambda data: data["incomplete_details"]["reason"] if data["incomplete_details"] else data["status"],
        usage=_response_usage,
        schema={"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
        thinking={"reasoning": {"summary": "auto"}},
        thought=lambda data: "".join(part["text"] for one in _items(data, "reasoning") for part in one["summary"]),
    )


def _gemini(version: str) -> Dialect:
    return Dialect(
        name=f"gemini-{version}",
        provider="gemini",
        path=f"/gemini/{version}/models/m:generateContent",
        stream_path=f"/gemini/{version}/models/m:streamGenerateContent?alt=sse",
        headers={"x-goog-api-key": KEY},
        body=lambda prompt, _: {"contents": [{"role": "user", "parts": [{"text": prompt}]}]},
        text=_gemini_text,
        piece=_gemini_text,
        call=_gemini_call,
        finish=lambda data: data["candidates"][0]["finishReason"],
        usage=_gemini_usage,
        schema={"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
        thinking={"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
        thought=lambda data: "".join(part["text"] for part in _parts(data) if part.get("thought")),
    )


CHAT = _chat("chat", "openai", "/openai")
RESPONSES = _responses("responses", "openai", "/openai")
GROK = _responses("grok", "grok", "/xai")
QWEN = _chat("qwen", "qwen", "/dashscope/compatible-mode")
GEMINI = _gemini("v1beta")
OLLAMA = Dialect(
    name="ollama",
    provider="llama",
    path="/ollama/api/chat",
    headers={},
    body=lambda prompt, stream: {"model": "m", "stream": stream, "messages": [{"role": "user", "content": prompt}]},
    text=lambda data: data["message"]["content"],
    piece=lambda event: event["message"]["content"],
    call=lambda data: (
        data["message"]["tool_calls"][0]["function"]["name"],
        data["message"]["tool_calls"][0]["function"]["arguments"],
    ),
    finish=lambda data: data["done_reason"],
    usage=lambda data: (data["prompt_eval_count"], data["eval_count"]) if "eval_count" in data else None,
    schema={"format": SCHEMA},
    thinking={"think": True},
    thought=lambda data: data["message"].get("thinking", ""),
)
CLAUDE = Dialect(
    name="claude",
    provider="claude",
    path="/anthropic/v1/messages",
    headers={"x-api-key": KEY},
    body=_messages,
    text=lambda data: "".join(one["text"] for one in data["content"] if one["type"] == "text"),
    piece=lambda event: event.get("delta", {}).get("text", ""),
    call=_claude_call,
    finish=lambda data: data["stop_reason"],
    usage=_claude_usage,
    schema={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    thinking={"thinking": {"type": "enabled", "budget_tokens": 1024}},
    thought=lambda data: "".join(one["thinking"] for one in data["content"] if one["type"] == "thinking"),
)
DIALECTS = (CHAT, RESPONSES, GROK, QWEN, GEMINI, _gemini("v1"), OLLAMA, CLAUDE)
