"""Jobs, outcomes and tokens for the property tests of the policies."""

from __future__ import annotations

import hypothesis.strategies as st

from claude_jobs.domain.job import Failure, Job, JobSpec, JobState, Outcome
from claude_jobs.domain.token import Streak, TokenKind, TokenNote, TokenState, Window
from claude_jobs.domain.usage import Usage
from claude_jobs.policy.retry import MAX_TROUBLES, PATIENCE_MS

NOW = 1_800_000_000_000
MODELS = ("opus", "claude-sonnet-5", "haiku")
FINGERPRINTS = ("aaa", "bbb", "ccc", "ddd")
TIMES = st.integers(NOW - 100_000, NOW + 100_000)
WINDOWS: st.SearchStrategy[str] = st.sampled_from(
    ("", "five_hour", "seven_day", "seven_day_opus", "seven_day_sonnet", "model:opus")
)

outcomes = st.builds(
    Outcome,
    failure=st.sampled_from(Failure),
    message=st.text(max_size=5),
    retry_after_ms=st.none() | st.integers(0, 10**7),
    turns=st.integers(0, 2),
    duration_ms=st.sampled_from((0, 500, 400_000)),
    resets_at_ms=st.none() | TIMES,
    limit_window=WINDOWS,
)


@st.composite
def jobs(draw: st.DrawFn, *, cancelled: bool | None = None) -> Job:
    """A running job."""
    token = draw(st.sampled_from(FINGERPRINTS))
    offers = draw(st.lists(st.sampled_from(FINGERPRINTS), unique=True))
    is_cancelled = draw(st.booleans()) if cancelled is None else cancelled
    return Job(
        id="j-aaaaa",
        spec=JobSpec(prompt="p", model="opus", cwd="/", max_attempts=draw(st.integers(1, 6))),
        state=JobState.RUNNING,
        root_id="j-aaaaa",
        depth=0,
        offers=(token, *(one for one in offers if one != token)),
        submitter="u",
        pool="p",
        session_id="s",
        rank=0,
        created_ms=NOW,
        queued_since_ms=NOW,
        usage=Usage(),
        attempts=draw(st.integers(0, 6)),
        moves=draw(st.integers(0, 25)),
        losses=draw(st.integers(0, 12)),
        trouble=draw(st.sampled_from((Failure.NONE, *PATIENCE_MS))),
        trouble_ms=draw(st.sampled_from((0, 1_000, 60_000, 10**7))),
        troubles=draw(st.integers(0, MAX_TROUBLES)),
        refused_by=tuple(draw(st.lists(st.sampled_from(FINGERPRINTS), unique=True, max_size=2))),
        token=token,
        deadline_ms=draw(st.none() | TIMES),
        cancel_why="stop" if is_cancelled else None,
    )


@st.composite
def token_states(draw: st.DrawFn) -> list[TokenState]:
    """Some tokens with different names."""
    names = draw(st.lists(st.sampled_from(FINGERPRINTS), unique=True))
    return [
        TokenState(
            fingerprint=name,
            name=name,
            kind=draw(st.sampled_from(TokenKind)),
            running=draw(st.integers(0, 4)),
            last_used=draw(st.integers(0, 9)),
            cooldowns=draw(st.dictionaries(WINDOWS, TIMES, max_size=3)),
            streaks=draw(
                st.dictionaries(WINDOWS, st.builds(Streak, until_ms=TIMES, times=st.integers(0, 99)), max_size=3)
            ),
            quarantined=draw(st.sampled_from(("", "", "revoked"))),
            warm_ms=draw(st.sampled_from([0, 1])),
            windows=draw(st.dictionaries(WINDOWS, windows(), max_size=2)),
        )
        for name in names
    ]


def windows() -> st.SearchStrategy[Window]:
    """Windows, full and not, over and not."""
    return st.builds(Window, utilization=st.floats(0, 1), resets_at_ms=TIMES)


notes = st.builds(
    TokenNote,
    warm=st.booleans(),
    windows=st.dictionaries(WINDOWS, windows(), max_size=2),
    cool_window=st.none() | WINDOWS,
    cool_until_ms=st.integers(0, NOW * 2),
    quarantine=st.sampled_from(("", "no credit")),
    restore=st.booleans(),
)
