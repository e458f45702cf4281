"""What a rehearsal plays: tokens with their quotas, rules, actions and faults. Frozen values and their JSON form; no IO."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from claude_jobs.errors import InvalidRequest
from claude_jobs.rehearsal.faults import Fault, LimitWindow, RetryAs
from claude_jobs.rehearsal.fields import Fields, JsonObject
from claude_jobs.rehearsal.figures import Rate, Rates, Usage, parse_rate, parse_rates, parse_usage

FIVE_HOURS_S = 5 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool the model asks for. Strings inside `input` may hold templates."""

    name: str
    input: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What is played for one prompt, from its first request to its final answer.

    Attributes:
        reply: Text of the final answer; templates {prompt} {token} {n} {step} {cwd} {result}, {job} (the first job's id
            in that result; {job1}, {job2}, … all of them) and the groups of the rule.
        rounds: Tool calls, one round per request; the calls of one round are asked for at once.
        reply_kb: The final answer is repeated up to this size.
        delay_s: Before the headers of each answer.
        duration_s: The final answer is streamed over this time.
        hold: The request waits until `Rehearsal.release` is called.
        fault: Played instead of the answer...
        times: ...so often per conversation (None: always), counted from the first one...
        step: ...when so many rounds are done (None: at each step).
        retry_after_s: The wait that an error names...
        retry_after_as: ...in which words (None: as the dialect does).
        window, resets_in_s: Of a usage limit, which from then on holds for the token.
        thinking: What is thought before, where the request asks to see it.
        chunks: Events of text in a stream; a reply with fewer characters is repeated to four for each.
        usage: Tokens that are told instead of the counted ones.
        rate: Rate-limit headers of the answer.
    """

    reply: str | None = None
    rounds: tuple[tuple[ToolCall, ...], ...] = ()
    reply_kb: int = 0
    delay_s: float = 0.0
    duration_s: float = 0.0
    hold: bool = False
    fault: Fault | None = None
    times: int | None = None
    step: int | None = None
    retry_after_s: float | None = None
    window: LimitWindow = LimitWindow.FIVE_HOUR
    resets_in_s: float = FIVE_HOURS_S
    retry_after_as: RetryAs | None = None
    thinking: str = ""
    chunks: int = 0
    usage: Usage | None = None
    rate: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When which action is played; every condition that is given must hold.

    Attributes:
        prompt: Regular expression, searched in the prompt; its named groups are templates of the action.
        request: Only the nth request of its conversation (from 1).
        overall: Only the nth request the server ever got (from 1).
        times: How often the rule is played in all.
        provider: "claude", "openai", "gemini", "llama", "grok" or "qwen".
        path: Regular expression, searched in the path. Only a rule with a path is played on look-ups (models, counts).
    """

    action: Action
    token: str | None = None
    prompt: str | None = None
    model: str | None = None
    request: int | None = None
    overall: int | None = None
    times: int | None = None
    provider: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """So many requests fit into the window; it opens again `resets_in_s` after it was used up."""

    requests: int
    window: LimitWindow = LimitWindow.FIVE_HOUR
    resets_in_s: float = FIVE_HOURS_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A credential that the rehearsal accepts. `sk-ant-oat…` is a subscription, anything else an API key.

    Attributes:
        always: Each request of this token ends so.
        utilization: Share of the five-hour window (0..1) that is shown when there is no quota.
        rate: Limits of an API key per minute or so.
    """

    name: str
    secret: str = field(repr=False)
    quota: Quota | None = None
    always: Fault | None = None
    utilization: float = 0.1
    rate: Rate | None = None

    @property
    def is_subscription(self) -> bool:
        return self.secret.startswith("sk-ant-oat")


DEFAULT_TOKENS = tuple(Token(name=f"rehearsal-{n}", secret=f"sk-ant-oat01-rehearsal-{n}") for n in (1, 2, 3))
DEFAULT_KEYS = tuple(Token(name=f"key-{n}", secret=f"sk-rehearsal-{n}") for n in (1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole rehearsal. A directive in the prompt goes before the rules; without both the prompt is echoed.

    Attributes:
        tokens: Credentials of Claude Code.
        keys: API keys; every provider takes each of them.
    """

    tokens: tuple[Token, ...] = DEFAULT_TOKENS
    keys: tuple[Token, ...] = DEFAULT_KEYS
    rules: tuple[Rule, ...] = ()
    default: Action = Action()


def load_script(path: Path) -> Script:
    """Reads a script file.

    Raises:
        InvalidRequest: The file is not JSON or not a script; the message names the key.
        OSError: The file cannot be read.
    """
    try:
        data: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"Rehearsal script {str(path)!r} is not JSON: {error}.", field="script") from error
    return parse_script(data)


def parse_script(data: object) -> Script:
    """Turns the JSON form into a script.

    Raises:
        InvalidRequest: Something in it is not known or has the wrong type; the message names it.
    """
    fields = Fields(data, where="script")
    tokens = tuple(
        _token(item, prefix="sk-ant-oat01-", where=f"script.tokens[{i}]")
        for i, item in enumerate(fields.list("tokens"))
    )
    keys = tuple(
        _token(item, prefix="sk-rehearsal-", where=f"script.keys[{i}]") for i, item in enumerate(fields.list("keys"))
    )
    rules = tuple(_rule(item, where=f"script.rules[{i}]") for i, item in enumerate(fields.list("rules")))
    default = parse_action(fields.object("default") or {}, where="script.default")
    fields.done("tokens", "keys", "rules", "default")
    return Script(tokens=tokens or DEFAULT_TOKENS, keys=keys or DEFAULT_KEYS, rules=rules, default=default)


def parse_action(data: object, *, where: str) -> Action:
    """Turns the JSON form of an action, which is also that of a directive, into a value.

    Raises:
        InvalidRequest: As `parse_script`.
    """
    fields = Fields(data, where=where)
    single = fields.object("tool")
    rounds = [*([single] if single is not None else []), *fields.list("tools")]
    action = Action(
        reply=fields.text("reply"),
        rounds=tuple(_round(item, where=f"{where}.tools[{i}]") for i, item in enumerate(rounds)),
        reply_kb=fields.integer("reply_kb") or 0,
        delay_s=fields.number("delay_s", 0.0),
        duration_s=fields.number("duration_s", 0.0),
        hold=fields.flag("hold"),
        fault=_fault(fields.word("fault"), where=where),
        times=fields.integer("times"),
        step=fields.integer("step"),
        retry_after_s=fields.number_or_none("retry_after_s"),
        window=_window(fields.text("window"), where=where),
        resets_in_s=fields.number("resets_in_s", FIVE_HOURS_S),
        retry_after_as=_retry_as(fields.text("retry_after_as"), where=where),
        thinking=fields.text("thinking") or "",
        chunks=fields.integer("chunks") or 0,
        usage=None if (usage := fields.object("usage")) is None else parse_usage(usage, where=f"{where}.usage"),
        rate=None if (rate := fields.object("rate")) is None else parse_rates(rate, where=f"{where}.rate"),
    )
    fields.done(
        *("reply", "tool", "tools", "reply_kb", "delay_s", "duration_s", "hold", "fault", "times", "step"),
        *("retry_after_s", "retry_after_as", "window", "resets_in_s", "thinking", "chunks", "usage", "rate"),
    )
    return action


def _round(data: object, *, where: str) -> tuple[ToolCall, ...]:
    calls = cast("list[object]", data) if isinstance(data, list) else [data]
    return tuple(_call(item, where=where) for item in calls)


def _call(data: object, *, where: str) -> ToolCall:
    fields = Fields(data, where=where)
    name = fields.text("name")
    arguments = fields.object("input") or {}
    fields.done("name", "input")
    if not name:
        raise InvalidRequest(f"{where}: a tool call needs a 'name'.", field=where)
    return ToolCall(name=name, input=arguments)


def _rule(data: object, *, where: str) -> Rule:
    fields = Fields(data, where=where)
    when = Fields(fields.object("when") or {}, where=f"{where}.when")
    rule = Rule(
        action=parse_action(fields.object("do") or {}, where=f"{where}.do"),
        token=when.text("token"),
        prompt=_pattern(when.text("prompt"), where=where),
        model=_pattern(when.text("model"), where=where),
        request=when.integer("request"),
        overall=when.integer("overall"),
        times=when.integer("times"),
        provider=when.text("provider"),
        path=_pattern(when.text("path"), where=where),
    )
    when.done("token", "prompt", "model", "request", "overall", "times", "provider", "path")
    fields.done("when", "do")
    return rule


def _token(data: object, *, prefix: str, where: str) -> Token:
    fields = Fields(data, where=where)
    name = fields.text("name")
    secret = fields.text("secret")
    quota = fields.object("quota")
    always = _fault(fields.word("always"), where=where)
    utilization = fields.number("utilization", 0.1)
    rate = fields.object("rate")
    fields.done("name", "secret", "quota", "always", "utilization", "rate")
    if not name:
        raise InvalidRequest(f"{where}: a token needs a 'name'.", field=where)
    return Token(
        name=name,
        secret=secret or prefix + name,
        quota=None if quota is None else _quota(quota, where=f"{where}.quota"),
        always=always,
        utilization=utilization,
        rate=None if rate is None else parse_rate(rate, where=f"{where}.rate"),
    )


def _quota(data: JsonObject, *, where: str) -> Quota:
    fields = Fields(data, where=where)
    requests = fields.integer("requests")
    quota = Quota(
        requests=requests or 0,
        window=_window(fields.text("window"), where=where),
        resets_in_s=fields.number("resets_in_s", FIVE_HOURS_S),
    )
    fields.done("requests", "window", "resets_in_s")
    return quota


def _fault(value: str | None, *, where: str) -> Fault | None:
    try:
        return None if value is None else Fault(value)
    except ValueError as error:
        known = ", ".join(Fault)
        raise InvalidRequest(f"{where}: unknown fault {value!r}. Known: {known}.", field=where) from error


def _retry_as(value: str | None, *, where: str) -> RetryAs | None:
    try:
        return None if value is None else RetryAs(value)
    except ValueError as error:
        known = ", ".join(RetryAs)
        raise InvalidRequest(f"{where}: unknown retry_after_as {value!r}. Known: {known}.", field=where) from error


def _window(value: str | None, *, where: str) -> LimitWindow:
    try:
        return LimitWindow.FIVE_HOUR if value is None else LimitWindow(value)
    except ValueError as error:
        known = ", ".join(LimitWindow)
        raise InvalidRequest(f"{where}: unknown window {value!r}. Known: {known}.", field=where) from error


def _pattern(value: str | None, *, where: str) -> str | None:
    try:
        if value is not None:
            re.compile(value)
    except re.error as error:
        raise InvalidRequest(f"{where}: {value!r} is not a regular expression: {error}.", field=where) from error
    return value
