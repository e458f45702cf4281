"""What a provider's refusals and the failures of its connection are to us. A message is ours, with a cut and cleaned piece of theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from claude_jobs.errors import (
    AuthenticationFailed,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from claude_jobs.policy.headers import retry_after_s
from claude_jobs.runner.redact import redact

_EXCERPT_CHARS = 200
_KEYS = re.compile(r"(?i)\b(?:sk|xai|gsk|key|pk)-[\w*.…-]{4,}|\bAIza[\w-]{10,}|\b(?:bearer|basic)\s+[\w.~+/=*-]{6,}")
_URL_PARTS = re.compile(r"(?i)(https?://)(?:[^\s/@?#]*@)?([^\s?#]+)(?:[?#]\S*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]+|\s{2,}")

_EXHAUSTED = {"insufficient_quota", "billing_hard_limit_reached", "allocationquota.freetieronly"}
_AUTHENTICATION = {
    "authentication_error", "permission_error", "billing_error", "invalid_api_key", "invalidapikey", "arrearage",
    "api_key_invalid", "unauthenticated", "permission_denied", "account_deactivated", "access_denied", "accessdenied",
}  # fmt: skip
_KEY_WORDS = {
    "invalid_api_key",
    "invalidapikey",
    "api_key_invalid",
    "account_deactivated",
    "arrearage",
    "billing_error",
}
_CONTENT = {"content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed", "blocked"}
_CONTEXT = {"context_length_exceeded", "string_above_max_length"}
_MODEL = {"model_not_found", "not_found_error", "modelnotfound"}
_OVERLOADED = {"overloaded_error", "overloaded", "server_is_overloaded", "engine_overloaded"}
_RATE = {"rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "limit_requests", "throttling"}
_TIMEOUT = {"timeout_error", "deadline_exceeded", "request_timeout"}
_NO_KEY = "did not accept the key: check it, its rights and its credit"
_TOO_LONG = "says the prompt is too long for {model!r}: shorten it, or use a model with more context"
_REFUSED = "refused the request for its content: change the prompt"
_NO_MODEL = "does not know {model!r}, or this key may not use it: list the models"
_TOO_FAST = "limits this key's rate: wait, or use another key"
_BUSY = "is overloaded: try again later"
_SLOW = "ran out of time: try again"
_BY_WORD: tuple[tuple[set[str], type[ProviderError], str], ...] = (
    (_EXHAUSTED, RateLimited, "says the account's quota or money is used up: add credit, or use another key"),
    (_CONTEXT, ContextTooLong, _TOO_LONG),
    (_CONTENT, ContentRefused, _REFUSED),
    (_MODEL, ModelNotFound, _NO_MODEL),
    (_AUTHENTICATION, AuthenticationFailed, _NO_KEY),
    (_OVERLOADED, Overloaded, _BUSY),
    (_RATE, RateLimited, _TOO_FAST),
    (_TIMEOUT, ProviderTimeout, _SLOW),
)

_CONTEXT_TEXT = re.compile(
    r"(?i)prompt is too long|maximum (?:context|prompt) length|context (?:length|window|size)"
    r"|token count.{0,60}exceeds|too many (?:input )?tokens|range of input length|input is too long"
)
_CONTENT_TEXT = re.compile(
    r"(?i)content (?:filter|management|polic|violat)|blocked by|safety (?:system|check)|usage (?:guidelines|polic)"
    r"|inappropriate content|prohibited content"
)
_SPENT_TEXT = re.compile(r"(?i)out of credits?|used all available credits|spending limit")
_CREDIT_TEXT = re.compile(
    r"(?i)credit balance|out of credits?|used all available credits|spending limit|overdue|billing"
)
_KEY_TEXT = re.compile(
    r"(?i)(?:incorrect|invalid|no|missing|bad|expired) api.?key|api.?key (?:not valid|is invalid|expired)"
)
_MODEL_TEXT = re.compile(r"(?i)model .{0,120}(?:not found|does not exist|not exist)|no such model")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Whose call failed. `secret` is what must not be in the message."""

    provider: str
    model: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a provider said of a failure.

    Attributes:
        words: Its machine-readable words (type, code, status, reason), in lower case.
        text: Its sentence, as it came.
    """

    status: int | None = None
    words: frozenset[str] = frozenset()
    text: str = ""
    retry_after_s: float | None = None


class Refusal(Exception):
    """A failure told inside a good HTTP answer, such as an error event of a stream."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said


def heard(status: int | None, body: bytes | Mapping[str, Any], headers: Mapping[str, str], now_s: float) -> Said:
    """What an error's body says, in the shape of any of the APIs; a body that is no JSON says only its status."""
    found: object = body
    if isinstance(body, bytes):
        try:
            found = json.loads(body)
        except ValueError:
            found = None
    outer = _object(found)
    inner = outer.get("error", outer)
    error = _object(inner) or {"message": inner, "code": outer.get("code")}
    raw_details = error.get("details")
    details = cast("list[object]", raw_details) if isinstance(raw_details, list) else []
    words: list[object] = [error.get("type"), error.get("code"), error.get("status")]
    words += [_object(each).get("reason") for each in details]
    text = error.get("message")
    return Said(
        status=status,
        words=frozenset(word.lower() for word in words if isinstance(word, str)),
        text=text if isinstance(text, str) else "",
        retry_after_s=retry_after_s(headers, now_s, details),
    )


def of_said(said: Said, about: About) -> ProviderError:
    """The error for what a provider said: by its words before its text, and by its text before its status."""
    kind, what = _classify(said)
    status = f" (HTTP {said.status})" if said.status and said.status >= 300 else ""
    error = kind(
        f"{about.provider} {what.format(model=about.model)}{status}{_quoted(said.text, about)}",
        provider=about.provider,
        model=about.model,
        status=said.status,
        retry_after_s=said.retry_after_s,
    )
    if isinstance(error, RateLimited):
        error.is_exhausted = bool(said.words & _EXHAUSTED or _SPENT_TEXT.search(said.text))
    if isinstance(error, AuthenticationFailed):
        error.is_key_refused = bool(said.words & _KEY_WORDS or _KEY_TEXT.search(said.text))
    return error


def unanswered(about: About) -> ProviderTimeout:
    """Nothing came in time."""
    return ProviderTimeout(
        f"{about.provider} did not answer in time. Try again, or allow more time.",
        provider=about.provider,
        model=about.model,
    )


def unreachable(about: About, why: str = "could not be reached, or the connection broke") -> ProviderUnavailable:
    """No connection, or one that broke."""
    return ProviderUnavailable(f"{about.provider} {why}. Try again.", provider=about.provider, model=about.model)


def nonsense(about: About, why: str = "gave an answer that its protocol does not know") -> BadResponse:
    """An answer that is none."""
    return BadResponse(
        f"{about.provider} {why}. Try again; if it stays, look at the provider's base URL.",
        provider=about.provider,
        model=about.model,
    )


def clean(text: str, secret: str) -> str:
    """A piece of foreign text that may be shown and logged: one line, cut, without keys and without what URLs carry."""
    text = redact(text[: _EXCERPT_CHARS * 10], (secret,))
    text = _URL_PARTS.sub(r"\1\2", _KEYS.sub("[redacted]", text))
    text = _CONTROL.sub(" ", text).strip()
    return text if len(text) <= _EXCERPT_CHARS else text[: _EXCERPT_CHARS - 1] + "…"


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _quoted(text: str, about: About) -> str:
    excerpt = clean(text, about.secret)
    return f". It says: {excerpt!r}" if excerpt else "."


def _classify(said: Said) -> tuple[type[ProviderError], str]:
    named = next(((kind, what) for words, kind, what in _BY_WORD if said.words & words), None)
    if named and named[0] is not AuthenticationFailed:
        return named
    # A prompt refused for its length or content, and an account without money, come as any 400 or 403.
    told = None
    if said.status is None or (400 <= said.status < 500 and said.status not in (408, 413, 429)):
        told = _by_text(said.text)
    if told and (named is None or told[0] is ContentRefused):
        return told
    return named or _by_status(said)


def _by_text(text: str) -> tuple[type[ProviderError], str] | None:
    if _CONTEXT_TEXT.search(text):
        return ContextTooLong, _TOO_LONG
    if _KEY_TEXT.search(text) or _CREDIT_TEXT.search(text):
        return AuthenticationFailed, _NO_KEY
    if _CONTENT_TEXT.search(text):
        return ContentRefused, _REFUSED
    if _MODEL_TEXT.search(text):
        return ModelNotFound, _NO_MODEL
    return None


def _by_status(said: Said) -> tuple[type[ProviderError], str]:
    match said.status:
        case 401 | 402 | 403:
            return AuthenticationFailed, _NO_KEY
        case 404:
            return ModelNotFound, _NO_MODEL
        case 408 | 504:
            return ProviderTimeout, _SLOW
        case 429:
            return RateLimited, _TOO_FAST
        case 503 | 529:
            return Overloaded, _BUSY
        case int(status) if status >= 500:
            return ProviderUnavailable, "failed: try again later"
        case int(status) if status >= 400:
            return RequestRefused, "did not accept the request"
        case int(status) if status >= 300:
            return BadResponse, "points elsewhere: check the provider's base URL"
        case _:
            return (
                (ModelNotFound, "does not know {model!r}") if said.words & _MODEL else (ProviderUnavailable, "failed")
            )
