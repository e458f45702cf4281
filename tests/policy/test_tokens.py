"""Which token an attempt gets, and what answers teach about tokens, for any set of tokens."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given
from policy.strategies import FINGERPRINTS, MODELS, NOW, notes, outcomes, token_states

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.token import TokenKind, TokenNote, TokenState, Window
from claude_jobs.policy.retry import MOVES
from claude_jobs.policy.tokens import (
    AGAIN_MS,
    HIGH_UTILIZATION,
    MAX_COOLDOWN_MS,
    MAX_GROWN_MS,
    THROTTLE_MS,
    WARM_FOR_MS,
    apply,
    capacity,
    choose,
    cooling_until,
    lesson,
    next_reset_ms,
    out_of_use,
    states_of,
)

model = st.sampled_from(MODELS)
concurrency = st.integers(0, 4)
avoid = st.sets(st.sampled_from(FINGERPRINTS))


def is_free(token: TokenState, model: str, concurrency: int) -> bool:
    return token.running < capacity(token, concurrency, NOW) and not cooling_until(token, model, NOW)


@given(token_states(), model, concurrency, avoid)
def test_a_free_token_is_chosen_exactly_when_there_is_one(
    tokens: list[TokenState], model: str, concurrency: int, avoid: set[str]
) -> None:
    chosen = choose(tokens, model=model, concurrency=concurrency, now_ms=NOW, avoid=avoid)
    free = [token for token in tokens if is_free(token, model, concurrency)]

    assert (chosen is None) == (not free)
    if chosen:
        assert chosen in free
        assert not chosen.quarantined
        assert chosen.running < concurrency
        assert chosen.fingerprint not in avoid or {token.fingerprint for token in free} <= avoid


def test_the_round_is_fair() -> None:
    tokens = {name: TokenState(fingerprint=name, name=name, kind=TokenKind.OAUTH) for name in FINGERPRINTS}
    dealt: list[str] = []
    for turn in range(40):
        chosen = choose(tokens.values(), model="opus", concurrency=100, now_ms=NOW)
        assert chosen is not None
        tokens[chosen.fingerprint] = replace(chosen, last_used=turn + 1)
        dealt.append(chosen.fingerprint)

    assert dealt == [*FINGERPRINTS] * 10


def test_a_nearly_used_up_token_is_the_last_resort() -> None:
    full = {"five_hour": Window(utilization=HIGH_UTILIZATION, resets_at_ms=NOW + 1)}
    tired = TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH, windows=full)
    fresh = TokenState(fingerprint="b", name="b", kind=TokenKind.OAUTH, last_used=9)

    assert choose([tired, fresh], model="opus", concurrency=1, now_ms=NOW) is fresh
    assert choose([tired], model="opus", concurrency=1, now_ms=NOW) is tired
    assert choose([tired, fresh], model="opus", concurrency=1, now_ms=NOW + 1) is tired


def test_a_cold_login_takes_one_job_and_a_warm_one_as_many_as_others() -> None:
    cold = TokenState(fingerprint="a", name="a", kind=TokenKind.LOGIN)

    warm = replace(cold, warm_ms=NOW)
    later = NOW + WARM_FOR_MS + 1

    assert [capacity(cold, 8, NOW), capacity(cold, 0, NOW)] == [1, 0]
    assert [capacity(warm, 8, NOW), capacity(warm, 8, later)] == [8, 1]


@given(token_states(), model)
def test_the_next_reset_is_when_the_first_one_may_be_used(tokens: list[TokenState], model: str) -> None:
    reset = next_reset_ms(tokens, model, NOW)
    usable = [token for token in tokens if not token.quarantined]

    if reset is not None:
        assert reset > NOW
        assert all(cooling_until(token, model, reset - 1) for token in usable)
        assert not all(cooling_until(token, model, reset) for token in usable)
    else:
        assert not usable or not all(cooling_until(token, model, NOW) for token in usable)


def test_a_familys_window_cools_that_family_only() -> None:
    token = TokenState(
        fingerprint="a",
        name="a",
        kind=TokenKind.OAUTH,
        cooldowns={"seven_day_opus": NOW + 5, "model:haiku": NOW + 7},
    )

    found = [cooling_until(token, name, NOW) for name in ("claude-opus-5", "sonnet", "haiku", "claude-haiku-5")]
    assert found == [NOW + 5, 0, NOW + 7, 0]


def test_a_rest_that_was_noted_under_a_clock_far_ahead_is_none() -> None:
    far = TokenNote(cool_window="five_hour", cool_until_ms=NOW + 400 * 86_400_000 + 5_000)
    near = TokenNote(cool_window="five_hour", cool_until_ms=NOW + 5_000)
    token = apply(TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH), far, NOW + 400 * 86_400_000)
    again = apply(token, near, NOW)

    assert [cooling_until(one, "sonnet", NOW) for one in (token, again)] == [0, NOW + 5_000]


@given(token_states(), notes)
def test_what_is_learned_is_kept_within_bounds(tokens: list[TokenState], note: TokenNote) -> None:
    for token in tokens:
        after = apply(token, note, NOW)

        assert all(until > NOW or until == note.cool_until_ms for until in after.cooldowns.values())
        assert all(
            until <= max(NOW + MAX_COOLDOWN_MS, *token.cooldowns.values(), 0) for until in after.cooldowns.values()
        )
        assert after.warm_ms == (NOW if note.warm else token.warm_ms)
        assert (after.fingerprint, after.running, after.last_used) == (
            token.fingerprint,
            token.running,
            token.last_used,
        )
        if note.restore:
            assert (after.quarantined, dict(after.cooldowns)) == ("", {})
        elif token.quarantined:
            assert after.quarantined


@given(outcomes, model)
def test_a_limit_parks_its_token_and_success_warms_it(outcome: Outcome, model: str) -> None:
    note = lesson(outcome, model=model, now_ms=NOW)
    token = TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH)
    after = apply(token, note, NOW) if note else token

    if outcome.failure in MOVES and outcome.limit_window == "":
        assert cooling_until(after, model, NOW) > NOW
    if outcome.failure is Failure.FORBIDDEN:
        assert cooling_until(after, model, NOW)
        assert not cooling_until(after, "another", NOW)
    assert bool(after.quarantined) == (outcome.failure in {Failure.AUTHENTICATION, Failure.CREDIT})
    assert (after.warm_ms == NOW) == outcome.succeeded


def rests(outcome: Outcome, *, after_ms: int, hits: int, answers: bool = False) -> list[int]:
    """How long a token rests each time if it fails like this `after_ms` after its last rest."""
    token, now = TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH), NOW
    found: list[int] = []
    for _ in range(hits):
        note = lesson(outcome, model="opus", now_ms=now)
        assert note is not None
        token = apply(token, note, now)
        rest = cooling_until(token, "opus", now) - now
        found.append(rest)
        now += rest + after_ms
        if answers:
            token = apply(token, TokenNote(warm=True), now - 1)
    return found


THROTTLED = Outcome(failure=Failure.RATE_LIMITED)
STALE = Outcome(failure=Failure.USAGE_LIMIT, limit_window="five_hour", resets_at_ms=NOW - 60_000)
UNANNOUNCED = Outcome(failure=Failure.LIMIT_TEXT)


def test_a_limit_that_is_met_again_after_its_rest_rests_longer_each_time() -> None:
    assert rests(THROTTLED, after_ms=2_000, hits=4) == [THROTTLE_MS * n for n in (1, 2, 4, 8)]
    assert rests(STALE, after_ms=2_000, hits=4) == [1_000, *(THROTTLE_MS * n for n in (2, 4, 8))]
    assert rests(UNANNOUNCED, after_ms=2_000, hits=3) == [300_000, 600_000, 1_200_000]
    assert rests(THROTTLED, after_ms=2_000, hits=30)[-1] == MAX_GROWN_MS


def test_a_rest_does_not_grow_after_an_answer_or_a_long_while() -> None:
    assert set(rests(THROTTLED, after_ms=2_000, hits=4, answers=True)) == {THROTTLE_MS}
    assert set(rests(THROTTLED, after_ms=AGAIN_MS, hits=4)) == {THROTTLE_MS}


def test_jobs_that_meet_a_limit_together_met_it_once() -> None:
    note = lesson(THROTTLED, model="opus", now_ms=NOW)
    assert note is not None
    token = TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH)
    for late_ms in range(8):
        token = apply(token, note, NOW + late_ms)

    assert cooling_until(token, "opus", NOW) == NOW + THROTTLE_MS
    assert token.streaks["requests"].times == 0


def test_an_announced_reset_that_is_later_is_believed() -> None:
    hours = 5 * 3_600_000
    announced = Outcome(failure=Failure.USAGE_LIMIT, limit_window="five_hour", resets_at_ms=NOW + hours)
    first = lesson(announced, model="opus", now_ms=NOW)
    again = lesson(replace(announced, resets_at_ms=NOW + 2 * hours), model="opus", now_ms=NOW + hours + 1)
    assert first is not None
    assert again is not None

    token = apply(TokenState(fingerprint="a", name="a", kind=TokenKind.OAUTH), first, NOW)
    token = apply(token, again, NOW + hours + 1)

    assert cooling_until(token, "opus", NOW + hours + 1) == NOW + 2 * hours


def test_a_quarantine_knows_its_cause_and_since_when() -> None:
    token = TokenState(fingerprint="abc", name="CLAUDE_CODE_TOKEN1", kind=TokenKind.OAUTH)
    first = apply(token, TokenNote(quarantine="revoked"), NOW)
    second = apply(first, TokenNote(quarantine="revoked, too"), NOW + 5)

    assert (first.quarantined_ms, second.quarantined_ms) == (NOW, NOW)
    assert apply(second, TokenNote(restore=True), NOW + 6).quarantined_ms == 0
    assert out_of_use([first, token]) == "CLAUDE_CODE_TOKEN1 (abc): revoked"
    assert out_of_use([token]) == ""


@given(token_states(), st.lists(st.sampled_from(FINGERPRINTS)), st.sets(st.sampled_from(FINGERPRINTS)))
def test_only_offered_and_held_tokens_are_seen(tokens: list[TokenState], offers: list[str], held: set[str]) -> None:
    known = {token.fingerprint: token for token in tokens}

    found = [token.fingerprint for token in states_of(offers, known, held)]

    assert found == [name for name in offers if name in held and name in known]
