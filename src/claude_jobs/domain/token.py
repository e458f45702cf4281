"""Credentials and what is known about them. The secret itself lives in `Credential` only, which is never stored or shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class TokenKind(StrEnum):
    """How a credential reaches the CLI and who pays for it."""

    OAUTH = "oauth"
    """A subscription token (`claude setup-token`), CLAUDE_CODE_OAUTH_TOKEN."""
    API_KEY = "api_key"
    """Pay-as-you-go, ANTHROPIC_API_KEY."""
    LOGIN = "login"
    """The CLI's own login in its config directory; we hold no secret."""
    CLOUD = "cloud"
    """Bedrock or Vertex: the profile carries everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One way to pay for a job.

    Attributes:
        name: Where it came from ("CLAUDE_CODE_TOKEN2"), for people.
        secret: "" for LOGIN and CLOUD.
        profile: Variables that travel with it, sorted pairs: base URL, Bedrock, Vertex, config dir, and those of the
            submitter that no file may hold (runner.environment.split).
    """

    name: str
    kind: TokenKind
    secret: str = field(default="", repr=False)
    profile: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def fingerprint(self) -> str:
        """12 hex digits of a sha256 over kind, secret and profile: what may be stored, logged and shown."""
        parts = [self.kind.value, self.secret, *(f"{k}={v}" for k, v in self.profile)]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One usage window of a subscription as the API last reported it (0.0 to 1.0)."""

    utilization: float
    resets_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Streak:
    """A window that was hit.

    Attributes:
        until_ms: When its last cool-down ends or ended.
        times: How often in a row it was hit again right after one.
    """

    until_ms: int
    times: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """What the store knows about a token.

    Attributes:
        running: Jobs that hold it now.
        last_used: Counter value of its last admission; the smallest is next in the round.
        cooldowns: Window name -> time until which it must not be used. "" applies to every model; a window
            that names a model family ("seven_day_opus") applies to that family only; "model:<id>" parks one model.
        streaks: The latest hits by window name, for as long as they matter to the next.
        quarantined: Why it is out of use altogether, "" if it is not.
        quarantined_ms: Since when, 0 if it is not.
        warm_ms: When an answer last came back, 0 for never (matters for LOGIN: its refresh must not race).
        windows: Utilisation by window name.
    """

    fingerprint: str
    name: str
    kind: TokenKind
    running: int = 0
    last_used: int = 0
    cooldowns: Mapping[str, int] = field(default_factory=dict[str, int])
    streaks: Mapping[str, Streak] = field(default_factory=dict[str, Streak])
    quarantined: str = ""
    quarantined_ms: int = 0
    warm_ms: int = 0
    windows: Mapping[str, Window] = field(default_factory=dict[str, Window])
    jobs: int = 0
    limits_hit: int = 0
    cost_nusd: int = 0
    seen_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenNote:
    """Something learned about a token, applied by policy.tokens.apply.

    Attributes:
        cool_least_ms: Shortest rest if the window is hit again right after its last one, before doubling; 0 for none.
    """

    warm: bool = False
    windows: Mapping[str, Window] = field(default_factory=dict[str, Window])
    cool_window: str | None = None
    cool_until_ms: int = 0
    cool_least_ms: int = 0
    quarantine: str = ""
    restore: bool = False
