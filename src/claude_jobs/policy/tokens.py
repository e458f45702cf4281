"""Pure token rules: which credential an attempt gets, and what an answer teaches about it. No secrets here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.token import Streak, TokenKind, TokenNote, TokenState
from claude_jobs.policy.providers import FAMILIES

HIGH_UTILIZATION = 0.9
"""From here on a token is used only when no other is free (rotate before the wall, peers.md 25-26)."""
DEFAULT_COOLDOWN_MS = 300_000
"""For a limit whose reset was not announced."""
MAX_COOLDOWN_MS = 8 * 24 * 3_600_000
"""The longest window is seven days; a reset further away is a clock error."""
THROTTLE_WINDOW = "requests"
THROTTLE_MS = 15_000
"""After a plain 429 the next attempt tries another token; the CLI does not tell Retry-After (measured)."""
AGAIN_MS = 300_000
"""A window that is hit so soon after its cool-down, with no answer in between, was not over: the next rest is longer."""
MAX_GROWN_MS = 3_600_000
"""No rest grows beyond it by doubling; what the API announces may be longer."""
FORBIDDEN_COOLDOWN_MS = 6 * 3_600_000
MODEL_PREFIX = "model:"
WARM_FOR_MS = 30 * 60_000
"""After so long without an answer a login may have to refresh its token again."""


def cooling_until(token: TokenState, model: str, now_ms: int) -> int:
    """Until when `token` must not be used for `model`; 0 when it may be used now."""
    untils = (until for window, until in token.cooldowns.items() if _concerns(window, model))
    return max((until for until in untils if _is_ahead(until, now_ms)), default=0)


def _is_ahead(until_ms: int, now_ms: int) -> bool:
    """What is further away than any window is long was noted under a clock that ran ahead."""
    return now_ms < until_ms <= now_ms + MAX_COOLDOWN_MS


def _concerns(window: str, model: str) -> bool:
    if window.startswith(MODEL_PREFIX):
        return window == MODEL_PREFIX + model
    family = next((name for name in FAMILIES if window.endswith("_" + name)), None)
    return family is None or family in model


def capacity(token: TokenState, concurrency: int, now_ms: int) -> int:
    """Jobs it may hold at once. A login that has not answered lately takes one: its refresh must not race (claude-code#43392)."""
    if token.quarantined:
        return 0
    if token.kind is TokenKind.LOGIN and now_ms - token.warm_ms > WARM_FOR_MS:
        return min(1, concurrency)
    return concurrency


def choose(
    tokens: Iterable[TokenState], *, model: str, concurrency: int, now_ms: int, avoid: Collection[str] = ()
) -> TokenState | None:
    """Round robin over the free tokens, away from high utilisation and, if another is free, from `avoid`."""
    free = [
        token
        for token in tokens
        if token.running < capacity(token, concurrency, now_ms) and not cooling_until(token, model, now_ms)
    ]
    return min(
        free, key=lambda token: (token.fingerprint in avoid, _is_high(token, now_ms), token.last_used), default=None
    )


def _is_high(token: TokenState, now_ms: int) -> bool:
    return any(w.utilization >= HIGH_UTILIZATION and w.resets_at_ms > now_ms for w in token.windows.values())


def next_reset_ms(tokens: Iterable[TokenState], model: str, now_ms: int) -> int | None:
    """When the first of `tokens` may be used again for `model`; None if one may be used now or none ever."""
    resets: list[int] = []
    for token in tokens:
        if token.quarantined:
            continue
        until = cooling_until(token, model, now_ms)
        if not until:
            return None
        resets.append(until)
    return min(resets, default=None)


def apply(token: TokenState, note: TokenNote, now_ms: int) -> TokenState:
    """`token` after learning `note`. Cool-downs that are over are dropped on the way."""
    cooldowns = {window: until for window, until in token.cooldowns.items() if _is_ahead(until, now_ms)}
    streaks = _remembered(token.streaks, note, now_ms)
    limits_hit = token.limits_hit
    if note.cool_window is not None:
        hit = _hit(streaks.get(note.cool_window), note, now_ms)
        until = max(hit.until_ms, cooldowns.get(note.cool_window, 0))
        cooldowns[note.cool_window] = until
        streaks[note.cool_window] = replace(hit, until_ms=until)
        limits_hit += 1
    quarantined = "" if note.restore else (note.quarantine or token.quarantined)
    return replace(
        token,
        cooldowns={} if note.restore else cooldowns,
        streaks={} if note.restore else streaks,
        quarantined=quarantined,
        quarantined_ms=(token.quarantined_ms or now_ms) if quarantined else 0,
        warm_ms=now_ms if note.warm else token.warm_ms,
        windows={**token.windows, **note.windows},
        limits_hit=limits_hit,
        seen_ms=now_ms,
    )


def _remembered(streaks: Mapping[str, Streak], note: TokenNote, now_ms: int) -> dict[str, Streak]:
    """An answer ends every streak whose rest is over; so does time."""
    oldest_ms = now_ms if note.warm else now_ms - AGAIN_MS
    latest_ms = now_ms + MAX_COOLDOWN_MS
    return {window: streak for window, streak in streaks.items() if oldest_ms < streak.until_ms <= latest_ms}


def _hit(before: Streak | None, note: TokenNote, now_ms: int) -> Streak:
    """Jobs that run into a window while it cools met the same limit; one that does so right afterwards met it again."""
    until_ms = min(note.cool_until_ms, now_ms + MAX_COOLDOWN_MS)
    if before is None:
        return Streak(until_ms=until_ms)
    times = before.times + (before.until_ms <= now_ms)
    if times and note.cool_least_ms:
        until_ms = max(until_ms, now_ms + min(MAX_GROWN_MS, note.cool_least_ms * 2 ** min(times, 16)))
    return Streak(until_ms=until_ms, times=times)


def out_of_use(tokens: Iterable[TokenState]) -> str:
    """What is wrong with those of `tokens` that are quarantined, each once; "" if none is."""
    found = (f"{one.name} ({one.fingerprint}): {one.quarantined.rstrip('.')}" for one in tokens if one.quarantined)
    return "; ".join(dict.fromkeys(found))


def is_forgotten(token: TokenState, before_ms: int) -> bool:
    """Whether nobody has held it since, and nothing is known of it that would matter if it came again."""
    is_resting = any(until_ms >= before_ms for until_ms in token.cooldowns.values())
    return token.seen_ms < before_ms and not is_resting and not token.quarantined


def lesson(outcome: Outcome, *, model: str, now_ms: int) -> TokenNote | None:
    """What an attempt's outcome says about the token it used; None for nothing."""
    match outcome.failure:
        case Failure.USAGE_LIMIT | Failure.LIMIT_TEXT:
            rest_ms = outcome.retry_after_ms or DEFAULT_COOLDOWN_MS
            return TokenNote(
                cool_window=outcome.limit_window,
                cool_until_ms=max(outcome.resets_at_ms or now_ms + rest_ms, now_ms + 1_000),
                cool_least_ms=THROTTLE_MS if outcome.resets_at_ms else rest_ms,
            )
        case Failure.RATE_LIMITED:
            rest_ms = outcome.retry_after_ms or THROTTLE_MS
            return TokenNote(cool_window=THROTTLE_WINDOW, cool_until_ms=now_ms + rest_ms, cool_least_ms=rest_ms)
        case Failure.AUTHENTICATION:
            return TokenNote(quarantine=outcome.message or "authentication failed")
        case Failure.CREDIT:
            return TokenNote(quarantine=outcome.message or "no credit left")
        case Failure.FORBIDDEN:
            return TokenNote(cool_window=MODEL_PREFIX + model, cool_until_ms=now_ms + FORBIDDEN_COOLDOWN_MS)
        case Failure.NONE:
            return TokenNote(warm=True)
        case _:
            return None


def states_of(offers: Iterable[str], known: Mapping[str, TokenState], held: Collection[str]) -> list[TokenState]:
    """The offered tokens that a worker holds, in the order they were offered."""
    return [known[fp] for fp in offers if fp in held and fp in known]
