"""Which provider and which dialect a URL means, and how each provider is told one's key. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from claude_jobs.rehearsal.call import Asked
from claude_jobs.rehearsal.http import HttpRequest
from claude_jobs.rehearsal.wires import anthropic, gemini, ollama, openai
from claude_jobs.rehearsal.wires.anthropic import Messages
from claude_jobs.rehearsal.wires.base import Reply, Wire
from claude_jobs.rehearsal.wires.gemini import GenerateContent
from claude_jobs.rehearsal.wires.ollama import Chat
from claude_jobs.rehearsal.wires.openai_chat import ChatCompletions
from claude_jobs.rehearsal.wires.openai_responses import Responses

_PREFIXES = {
    "/openai": "openai",
    "/xai": "grok",
    "/dashscope/compatible-mode": "qwen",
    "/gemini": "gemini",
    "/ollama": "llama",
    "/anthropic": "claude",
}
_BARE = (
    ("/v1/chat/completions", "openai"),
    ("/v1/responses", "openai"),
    ("/api/", "llama"),
    ("/v1beta/", "gemini"),
)
_GENERATE = re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent)")
_VERSION = re.compile(r"/v1(?:beta|alpha)?(?=/)")
_MESSAGES, _CHAT, _RESPONSES, _CONTENT, _OLLAMA = Messages(), ChatCompletions(), Responses(), GenerateContent(), Chat()
_WIRES: dict[tuple[str, str], Wire] = {
    ("claude", "/v1/messages"): _MESSAGES,
    ("openai", "/v1/chat/completions"): _CHAT,
    ("grok", "/v1/chat/completions"): _CHAT,
    ("qwen", "/v1/chat/completions"): _CHAT,
    ("openai", "/v1/responses"): _RESPONSES,
    ("grok", "/v1/responses"): _RESPONSES,
    ("qwen", "/v1/responses"): _RESPONSES,
    ("llama", "/api/chat"): _OLLAMA,
}
_VOICES: dict[str, Wire] = {"claude": _MESSAGES, "gemini": _CONTENT, "llama": _OLLAMA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes. `wire` is None for look-ups; `voice` is how errors about the request itself are said."""

    asked: Asked
    wire: Wire | None
    voice: Wire
    is_prefixed: bool


def route(request: HttpRequest) -> Route:
    """The provider of a request by its prefix, else by what its path can only mean; Anthropic otherwise."""
    path = request.path
    prefix = next((prefix for prefix in _PREFIXES if path.startswith(prefix + "/") or path == prefix), "")
    path = path.removeprefix(prefix)
    provider = _PREFIXES[prefix] if prefix else _bare(path)
    model, stream = "", False
    if provider == "gemini":
        path = _VERSION.sub("", path, count=1)
    wire = _WIRES.get((provider, path)) if request.method == "POST" else None
    if provider == "gemini" and (found := _GENERATE.fullmatch(path)) and request.method == "POST":
        wire, model, stream = _CONTENT, found[1], found[2] == "streamGenerateContent"
    asked = Asked(
        provider=provider,
        path=path,
        body=request.body,
        model=model,
        stream=stream,
        session=request.headers.get("x-claude-code-session-id"),
    )
    return Route(asked=asked, wire=wire, voice=wire or _VOICES.get(provider, _CHAT), is_prefixed=bool(prefix))


def secret(request: HttpRequest, provider: str) -> str:
    """The key of a request, where its provider looks for it."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    match provider:
        case "claude":
            return bearer or request.headers.get("x-api-key", "")
        case "gemini":
            return request.headers.get("x-goog-api-key", "") or parse_qs(request.query).get("key", [""])[0]
        case _:
            return bearer


def look_up(asked: Asked, method: str) -> Reply | None:
    """Models, counts and the like of a provider; None for what is not there."""
    match asked.provider:
        case "claude":
            return anthropic.look_up(method, asked.path, asked.body)
        case "gemini":
            return gemini.look_up(asked, method)
        case "llama":
            return ollama.look_up(asked, method)
        case _:
            return openai.look_up(asked, method)


def _bare(path: str) -> str:
    if _GENERATE.search(path):
        return "gemini"
    return next((provider for start, provider in _BARE if path.startswith(start)), "claude")
