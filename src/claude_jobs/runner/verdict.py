"""Pure judgement of a finished attempt: what happened, by name, and what to do about it. Success is verified, not believed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.usage import Usage
from claude_jobs.runner.redact import redact
from claude_jobs.runner.stream import Result, phrase
from claude_jobs.runner.tally import Tally

_LIMIT_TEXT = re.compile(
    r"^\W*(?:(?:you've|you have|you’ve) (?:hit|reached|exceeded) your [\w\s-]{0,40}limit\b"
    r"|claude (?:ai )?usage limit reached|[\w-]{0,20}\s?limit reached\b[^\n]{0,40}resets\b)",
    re.IGNORECASE,
)
_LIMIT_TEXT_MAX = 400
"""A limit text is short; a long answer that begins like one is about limits."""
_CLI_ON_SCHEMA = "last StructuredOutput error: "
"""What the CLI says before the part that matters, when it has sent an answer back five times itself."""
_LIMIT_RESET = re.compile(r"limit reached\|(\d{10})\b")
_STATUS = {
    401: Failure.AUTHENTICATION,
    403: Failure.FORBIDDEN,
    404: Failure.MODEL_NOT_FOUND,
    413: Failure.PROMPT_TOO_LONG,
    429: Failure.RATE_LIMITED,
    529: Failure.OVERLOADED,
}
_SUBTYPES = {
    "error_max_turns": Failure.MAX_TURNS,
    "error_max_budget_usd": Failure.BUDGET,
    "error_max_structured_output_retries": Failure.INVALID_OUTPUT,
}
_REASONS = {
    "prompt_too_long": Failure.PROMPT_TOO_LONG,
    "blocking_limit": Failure.PROMPT_TOO_LONG,
    "image_error": Failure.PROMPT_TOO_LONG,
    "budget_exhausted": Failure.BUDGET,
    "max_turns": Failure.MAX_TURNS,
    "aborted_tools": Failure.CRASHED,
    "aborted_streaming": Failure.CRASHED,
}
_WORDS: tuple[tuple[str, Failure], ...] = (
    ("no conversation found", Failure.SESSION_NOT_FOUND),
    ("credit balance", Failure.CREDIT),
    ("not logged in", Failure.AUTHENTICATION),
    ("failed to authenticate", Failure.AUTHENTICATION),
    ("invalid api key", Failure.AUTHENTICATION),
    ("prompt is too long", Failure.PROMPT_TOO_LONG),
    ("issue with the selected model", Failure.MODEL_NOT_FOUND),
    ("overloaded", Failure.OVERLOADED),
    ("output token", Failure.OUTPUT_LIMIT),
    ("connection", Failure.NETWORK),
    ("timed out", Failure.NETWORK),
    ("econn", Failure.NETWORK),
    ("fetch failed", Failure.NETWORK),
    ("empty or malformed", Failure.SERVER_ERROR),
    ("internal server error", Failure.SERVER_ERROR),
)
_CLI_WORDS = {
    "rate_limit": Failure.RATE_LIMITED,
    "overloaded": Failure.OVERLOADED,
    "server_error": Failure.SERVER_ERROR,
    "authentication_failed": Failure.AUTHENTICATION,
    "billing_error": Failure.CREDIT,
    "max_output_tokens": Failure.OUTPUT_LIMIT,
    "invalid_request": Failure.BAD_REQUEST,
}
_EXEC_FAILED = frozenset({126, 127})
"""Exit codes of whoever was to start it (setpriv, env, a shell) and could not: it is missing, busy or half written."""
_HALF_INSTALLED = ("cannot find module", "module_not_found")
"""What node says of a package that npm is about to replace."""
_LIMITS = frozenset({Failure.USAGE_LIMIT, Failure.LIMIT_TEXT})
_ANSWERED = frozenset({Failure.NONE, Failure.DENIED, Failure.NOT_ACCEPTED})
"""The answer is there, and is what was asked for in form."""
_NEXT_STEP = {
    Failure.USAGE_LIMIT: "It goes on with another token, or when the limit resets.",
    Failure.LIMIT_TEXT: "It goes on with another token, or when the limit resets.",
    Failure.NETWORK: "See that the API can be reached from here.",
    Failure.CRASHED: "It continues from its transcript.",
    Failure.AUTHENTICATION: "Renew this token (`claude setup-token`) and see `claude-jobs tokens`.",
    Failure.FORBIDDEN: "This token may not use this model: choose another one.",
    Failure.CREDIT: "Add credit to this account, or remove its key.",
    Failure.MODEL_NOT_FOUND: "List the models with `list_models`.",
    Failure.PROMPT_TOO_LONG: "Put the material into files and name them in a shorter prompt.",
    Failure.BAD_REQUEST: "Change the request.",
    Failure.REFUSED: "Word the task differently.",
    Failure.OUTPUT_LIMIT: "Ask for a shorter answer, or for files.",
    Failure.BUDGET: "Raise max_cost_usd, or split the task.",
    Failure.MAX_TURNS: "Split the task.",
    Failure.DENIED: "Allow these tools in `tools`, or run it without `strict`.",
    Failure.NO_RESULT: "Its log shows how far it came.",
    Failure.EMPTY_RESULT: "Its log shows what it did.",
    Failure.SESSION_NOT_FOUND: "Submit the task again.",
    Failure.CLI_ERROR: "See `claude-jobs doctor`.",
    Failure.SPAWN_FAILED: "See `claude-jobs doctor`.",
    Failure.TIMED_OUT: "Raise timeout_s, or split the task.",
    Failure.NO_STRUCTURED_OUTPUT: "Say in the prompt that the answer goes by `output_schema`, or simplify that.",
    Failure.INVALID_OUTPUT: "Say in the prompt what `output_schema` asks for, or simplify that.",
    Failure.NOT_ACCEPTED: "Its work is kept: run the check there by hand, then retry the job.",
    Failure.STALLED: "The connection or a tool hangs; its log shows which.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the process ended, seen from outside.

    Attributes:
        stopped: Why we ended it; `Failure.NONE` if it ended by itself.
        why: For people, in the words of whoever stopped it.
    """

    exit_code: int | None = None
    stderr: str = ""
    stopped: Failure = Failure.NONE
    why: str = ""
    duration_ms: int = 0
    signalled: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a clean answer does not count. `message` is whole sentences."""

    failure: Failure
    message: str


def judge(
    tally: Tally,
    ending: Ending,
    *,
    strict: bool,
    counts_from_nusd: int,
    objection: Objection | None = None,
    secrets: tuple[str, ...] = (),
) -> Outcome:
    """The attempt's outcome. A verified answer stands, however the process was ended afterwards.

    Args:
        objection: What a clean answer is held up by.
        counts_from_nusd: What the session had cost before, in the CLI's own count: it counts on over a resume.
    """
    # Before anything is cut: the rest of a secret is not known again.
    ending = replace(ending, stderr=redact(ending.stderr, secrets))
    failure, message = _named(tally, ending, strict=strict)
    told = _sentence(failure, redact(message, secrets))
    if failure is Failure.NONE and objection is not None:
        failure, told = objection.failure, redact(_objected(objection), secrets)
    result, cost = tally.result, tally.cost_nusd
    return Outcome(
        failure=failure,
        message=told,
        text=redact(_text(tally, failure), secrets),
        structured=redact(result.structured, secrets) if result is not None and failure in _ANSWERED else "",
        usage=replace(_usage(tally), cost_nusd=max(0, (cost or 0) - counts_from_nusd)),
        session_cost_nusd=None if cost is None else max(cost, counts_from_nusd),
        model=(result.model if result is not None else "") or (tally.init.model if tally.init else ""),
        turns=tally.turns,
        denied=_denied(tally),
        resets_at_ms=_resets_at_ms(tally, message) if failure in _LIMITS else None,
        limit_window=tally.limit.window if failure in _LIMITS and tally.limit else "",
        exit_code=ending.exit_code,
        stderr_tail=ending.stderr,
        duration_ms=ending.duration_ms,
        signalled=ending.signalled,
        survivors=ending.survivors,
    )


def is_usage_limit(tally: Tally) -> bool:
    """Whether the turn that just ended ran into the credential's limit."""
    return tally.result is not None and _of_result(tally, tally.result)[0] in _LIMITS


def is_answer(tally: Tally, *, strict: bool) -> bool:
    """Whether the turn that just ended brought an answer that counts, unless somebody objects."""
    return tally.result is not None and _named(tally, Ending(), strict=strict)[0] is Failure.NONE


def is_clean(tally: Tally) -> bool:
    """Whether the turn that just ended left nothing behind that could touch another conversation."""
    result = tally.result
    return (
        result is not None
        and _of_result(tally, result)[0] is Failure.NONE
        and not (tally.error or tally.limit or tally.background or tally.running_tools or _denied(tally))
    )


def _named(tally: Tally, ending: Ending, *, strict: bool) -> tuple[Failure, str]:
    result = tally.result
    found = (Failure.NO_RESULT, "") if result is None else _of_result(tally, result)
    if found[0] is Failure.NONE and strict and _denied(tally):
        return Failure.DENIED, f"Tools were denied: {', '.join(dict.fromkeys(_denied(tally)))}."
    if found[0] is Failure.NONE:
        return found
    if ending.stopped not in {Failure.NONE, Failure.NO_RESULT} or (ending.stopped and result is None):
        return ending.stopped, ending.why
    return _without_result(ending, has_begun=tally.init is not None) if result is None else found


def _of_result(tally: Tally, result: Result) -> tuple[Failure, str]:
    text = result.text or " ".join(result.errors)
    limit_text = len(text) <= _LIMIT_TEXT_MAX and _LIMIT_TEXT.search(text) is not None
    if result.is_error or result.subtype not in {"", "success"}:
        if result.api_error == "usage_limit_reached" or limit_text or (tally.limit and result.api_status == 429):
            return Failure.USAGE_LIMIT, text
        return _error(tally, result, text), text.rpartition(_CLI_ON_SCHEMA)[2]
    if limit_text:
        return Failure.LIMIT_TEXT, text
    if not text.strip() and not result.structured:
        return Failure.EMPTY_RESULT, "The model ended its turn without an answer."
    return Failure.NONE, ""


def _error(tally: Tally, result: Result, text: str) -> Failure:
    if result.subtype in _SUBTYPES:
        return _SUBTYPES[result.subtype]
    if result.stop_reason == "refusal":
        return Failure.REFUSED
    words = _by_words(text)
    status = result.api_status
    if status is not None and status != 400:
        return _STATUS.get(status) or (Failure.SERVER_ERROR if status >= 500 else Failure.BAD_REQUEST)
    if result.terminal_reason in _REASONS:
        return _REASONS[result.terminal_reason]
    if status == 400:
        return words if words is Failure.CREDIT or words is Failure.PROMPT_TOO_LONG else Failure.BAD_REQUEST
    return _CLI_WORDS.get(tally.error, Failure.CLI_ERROR) if words is None else words


def _by_words(text: str) -> Failure | None:
    lowered = text.lower()
    return next((failure for words, failure in _WORDS if words in lowered), None)


def _without_result(ending: Ending, *, has_begun: bool) -> tuple[Failure, str]:
    code, said = ending.exit_code, ending.stderr.strip()
    if said and _LIMIT_TEXT.search(said[-_LIMIT_TEXT_MAX:].splitlines()[-1]):
        return Failure.LIMIT_TEXT, said.splitlines()[-1]
    if code is not None and code < 0:
        return Failure.CRASHED, f"claude was ended by signal {-code}. {phrase(said)}"
    if code in {129, 130, 137, 143}:
        return Failure.CRASHED, f"claude was ended by signal {code - 128}. {phrase(said)}"
    if "--json-schema" in said:
        return Failure.BAD_REQUEST, phrase(said)
    if "no conversation found" in said.lower():
        return Failure.SESSION_NOT_FOUND, phrase(said)
    if not has_begun and (code in _EXEC_FAILED or any(words in said.lower() for words in _HALF_INSTALLED)):
        return Failure.SPAWN_FAILED, f"claude could not be started (code {code}): {phrase(said)}"
    if code and not has_begun:
        return Failure.CLI_ERROR, f"claude ended with code {code}: {phrase(said) or 'it said nothing'}"
    if code:
        return Failure.NO_RESULT, f"claude ended with code {code} in the middle. {phrase(said)}"
    return Failure.NO_RESULT, f"claude ended without a result. {phrase(said)}"


def _sentence(failure: Failure, message: str) -> str:
    if failure is Failure.NONE:
        return ""
    said = phrase(message)
    if said and said[-1] not in ".!?…":
        said += "."
    return f"{said} {_NEXT_STEP.get(failure, '')}".strip()


def _objected(objection: Objection) -> str:
    return f"{objection.message} {_NEXT_STEP.get(objection.failure, '')}".strip()


def _text(tally: Tally, failure: Failure) -> str:
    result = tally.result
    if result is not None and failure in _ANSWERED | {Failure.INVALID_OUTPUT, Failure.NO_STRUCTURED_OUTPUT}:
        return result.text
    return tally.text


def _denied(tally: Tally) -> tuple[str, ...]:
    return tuple(tally.denied) or (tally.result.denied if tally.result is not None else ())


def _usage(tally: Tally) -> Usage:
    if tally.result is not None and not tally.usage.output_tokens:
        return tally.result.usage
    return tally.usage


def _resets_at_ms(tally: Tally, message: str) -> int | None:
    if tally.limit is not None:
        return tally.limit.resets_at_ms
    told = _LIMIT_RESET.search(message)
    return int(told[1]) * 1000 if told else None
