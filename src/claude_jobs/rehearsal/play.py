"""The rehearsal's memory and its one decision: which turn follows a call. No IO; `now` comes in."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TypedDict, cast

from claude_jobs.rehearsal.call import Call
from claude_jobs.rehearsal.faults import Fault, LimitWindow, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.figures import Bucket, Rates, Usage
from claude_jobs.rehearsal.schema import instance
from claude_jobs.rehearsal.script import FIVE_HOURS_S, Action, Rule, Script, Token, ToolCall

WEEK_S = 7 * 24 * 3600.0
ANYBODY = Token(name="", secret="")
"""Who asks an API that wants no key."""
_THOUGHT = "Rehearsed thought."
_CHUNK_CHARS = 4
_JOB_ID = re.compile(r"\bj-[0-9a-z]{4,}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What the rate limit headers of a subscription say. `rejected` is the window that is used up."""

    five_hour: float
    five_hour_resets_at: float
    seven_day: float
    seven_day_resets_at: float
    rejected: LimitWindow | None = None
    resets_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer, ready to be put on the wire. `meter` is None for API keys; `at` is when it was decided, epoch seconds."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    fault: Fault | None = None
    meter: Meter | None = None
    delay_s: float = 0.0
    duration_s: float = 0.0
    hold: bool = False
    retry_after_s: float | None = None
    retry_after_as: RetryAs | None = None
    thinking: str = ""
    chunks: int = 0
    usage: Usage | None = None
    rate: Rates | None = None
    at: float = 0.0


@dataclass(slots=True)
class _Use:
    """What a token has used up so far."""

    requests: int = 0
    window: LimitWindow | None = None
    resets_at: float = 0.0


class Play:
    """A running script: counts per token, rule and conversation."""

    def __init__(self, script: Script, *, now: float) -> None:
        self.script = script
        self._started_at = now
        self._tokens = {token.secret: token for token in (*script.keys, *script.tokens)}
        everybody = (*self._tokens.values(), ANYBODY)
        self._uses = {token.name: _Use() for token in everybody}
        self._buckets = {one.name: Bucket.full(one.rate, now=now) for one in everybody if one.rate is not None}
        self._total = 0
        self._requests: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._played: Counter[int] = Counter()

    def token(self, secret: str) -> Token | None:
        return self._tokens.get(secret)

    def next(self, token: Token, call: Call, *, now: float) -> Turn:
        """Decides the answer to a call and counts it."""
        self._total += 1
        self._requests[call.conversation] += 1
        turn = self._next(token, call, now=now)
        bucket = self._buckets.get(token.name)
        return turn if bucket is None or turn.rate is not None else replace(turn, rate=bucket.rates())

    def look_up(self, token: Token, call: Call, *, now: float) -> Turn:
        """What befalls a request for models or counts: the token's own fate, or a rule that names its path."""
        if token.always is not None:
            return Turn(fault=token.always, at=now)
        action, _ = self._choose(token, call, only_paths=True)
        return self._fail(token, action, call, now=now) if self._has_fault(action, call) else Turn(at=now)

    def _next(self, token: Token, call: Call, *, now: float) -> Turn:
        if token.always is not None:
            return self._refuse(token, token.always, now=now, window=LimitWindow.FIVE_HOUR, resets_in_s=FIVE_HOURS_S)
        if self._is_limited(token, call, now=now):
            return self._limited(token, now=now)
        bucket = self._buckets.get(token.name)
        if bucket is not None and (wait := bucket.take(call.input_tokens, now=now)):
            return Turn(fault=Fault.RATE_LIMIT, retry_after_s=wait, at=now)
        action, words = self._choose(token, call)
        if self._has_fault(action, call):
            return self._fail(token, action, call, now=now)
        self._uses[token.name].requests += 1
        return self._answer(action, words, call, token, now=now)

    def _is_limited(self, token: Token, call: Call, *, now: float) -> bool:
        use = self._uses[token.name]
        if use.window is not None and now >= use.resets_at:
            self._uses[token.name] = use = _Use()
        quota = token.quota
        if use.window is None and quota is not None and use.requests >= quota.requests:
            use.window, use.resets_at = quota.window, now + quota.resets_in_s
        return use.window is not None and (use.window is not LimitWindow.SEVEN_DAY_OPUS or "opus" in call.model)

    def _choose(self, token: Token, call: Call, *, only_paths: bool = False) -> tuple[Action, dict[str, str]]:
        if call.directive is not None:
            return call.directive, {}
        for at, rule in enumerate(self.script.rules):
            groups = None if only_paths and rule.path is None else self._match(rule, at, token, call)
            if groups is not None:
                self._played[at] += 1
                return rule.action, groups
        return Action() if only_paths else self.script.default, {}

    def _match(self, rule: Rule, at: int, token: Token, call: Call) -> dict[str, str] | None:
        holds = (
            rule.times is None or self._played[at] < rule.times,
            rule.token is None or rule.token == token.name,
            rule.request is None or rule.request == self._requests[call.conversation],
            rule.overall is None or rule.overall == self._total,
            rule.model is None or re.search(rule.model, call.model) is not None,
            rule.provider is None or rule.provider == call.provider,
            rule.path is None or re.search(rule.path, call.path) is not None,
        )
        found = re.search(rule.prompt or "", call.prompt)
        if found is None or not all(holds):
            return None
        return {key: value or "" for key, value in found.groupdict().items()}

    def _has_fault(self, action: Action, call: Call) -> bool:
        if action.fault is None or (action.step is not None and action.step != call.step):
            return False
        return action.times is None or self._faults[call.conversation + "\0" + call.prompt] < action.times

    def _fail(self, token: Token, action: Action, call: Call, *, now: float) -> Turn:
        assert action.fault is not None
        self._faults[call.conversation + "\0" + call.prompt] += 1
        turn = self._refuse(token, action.fault, now=now, window=action.window, resets_in_s=action.resets_in_s)
        return replace(
            turn,
            **_manner(action),
            text=_reply(action, self._words(call, token), call),
            thinking=_thought(action, call),
            duration_s=action.duration_s,
            retry_after_s=turn.retry_after_s if action.retry_after_s is None else action.retry_after_s,
            retry_after_as=action.retry_after_as,
        )

    def _refuse(self, token: Token, fault: Fault, *, now: float, window: LimitWindow, resets_in_s: float) -> Turn:
        if fault is Fault.USAGE_LIMIT:
            use = self._uses[token.name]
            use.window, use.resets_at = window, now + resets_in_s
            return self._limited(token, now=now)
        return Turn(fault=fault, meter=self._meter(token), at=now)

    def _limited(self, token: Token, *, now: float) -> Turn:
        resets_at = self._uses[token.name].resets_at
        return Turn(fault=Fault.USAGE_LIMIT, meter=self._meter(token), retry_after_s=resets_at - now, at=now)

    def _answer(self, action: Action, words: dict[str, str], call: Call, token: Token, *, now: float) -> Turn:
        words = {**self._words(call, token), **words}
        calls: tuple[ToolCall, ...] = ()
        if call.step < len(action.rounds):
            calls = tuple(
                ToolCall(name=one.name, input=cast("JsonObject", _filled(one.input, words)))
                for one in action.rounds[call.step]
            )
        elif call.forced is not None and action.reply is None and not action.rounds:
            calls = (call.forced,)
        return Turn(
            **_manner(action),
            text="" if calls else _reply(action, words, call),
            calls=calls,
            thinking=_thought(action, call),
            duration_s=0.0 if calls else action.duration_s,
            meter=self._meter(token),
            at=now,
        )

    def _words(self, call: Call, token: Token) -> dict[str, str]:
        return {
            "prompt": call.prompt,
            "token": token.name,
            "n": str(self._total),
            "step": str(call.step),
            "cwd": call.cwd,
            "result": call.result,
            **_jobs(call.result),
            "head": " ".join(call.prompt.split()[:8]),
        }

    def _meter(self, token: Token) -> Meter | None:
        if not token.is_subscription:
            return None
        use = self._uses[token.name]
        used = use.requests / max(1, token.quota.requests) if token.quota else token.utilization
        weekly = token.quota is not None and token.quota.window is not LimitWindow.FIVE_HOUR
        meter = Meter(
            five_hour=min(1.0, token.utilization if weekly else used),
            five_hour_resets_at=self._started_at + FIVE_HOURS_S,
            seven_day=min(1.0, used if weekly else used / 10),
            seven_day_resets_at=self._started_at + WEEK_S,
        )
        return meter if use.window is None else _rejected(meter, use.window, use.resets_at)


def _jobs(result: str) -> dict[str, str]:
    """The ids of jobs in a tool's result: `job` is the first one, `job1`, `job2`, … are all of them in order."""
    ids = list(dict.fromkeys(_JOB_ID.findall(result)))
    return {"job": ids[0] if ids else "", **{f"job{place}": job_id for place, job_id in enumerate(ids, 1)}}


def _rejected(meter: Meter, window: LimitWindow, resets_at: float) -> Meter:
    meter = replace(meter, rejected=window, resets_at=resets_at)
    if window is LimitWindow.FIVE_HOUR:
        return replace(meter, five_hour=1.0, five_hour_resets_at=resets_at)
    return replace(meter, seven_day=1.0, seven_day_resets_at=resets_at)


class _Manner(TypedDict):
    delay_s: float
    hold: bool
    chunks: int
    usage: Usage | None
    rate: Rates | None


def _manner(action: Action) -> _Manner:
    """What an answer has of its action, be it good or bad."""
    return {
        "delay_s": action.delay_s,
        "hold": action.hold,
        "chunks": action.chunks,
        "usage": action.usage,
        "rate": action.rate,
    }


def _thought(action: Action, call: Call) -> str:
    """Claude thinks only where the script says so; Claude Code asks to see it always."""
    return action.thinking or (_THOUGHT if call.shows_thinking and call.provider != "claude" else "")


def _reply(action: Action, words: dict[str, str], call: Call) -> str:
    if action.reply is None and call.schema is not None:
        return json.dumps(instance(call.schema))
    text = _fill(action.reply if action.reply is not None else "Rehearsed: {head}", words)
    size = max(action.reply_kb * 1024, action.chunks * _CHUNK_CHARS if len(text) < action.chunks else 0)
    if len(text) < size:
        line = (text or ".") + "\n"
        text = (line * (size // len(line) + 1))[:size]
    return text


def _filled(value: object, words: dict[str, str]) -> object:
    if isinstance(value, str):
        return _fill(value, words)
    if isinstance(value, list):
        return [_filled(item, words) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _filled(item, words) for key, item in cast("JsonObject", value).items()}
    return value


def _fill(text: str, words: dict[str, str]) -> str:
    """Puts words in; `{{word}}` stays as `{word}`, for the prompt of a nested rehearsal."""
    return re.sub(
        r"\{\{(\w+)\}\}|\{(\w+)\}",
        lambda found: f"{{{found.group(1)}}}" if found.group(1) else words.get(found.group(2), found.group()),
        text,
    )
