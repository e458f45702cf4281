"""Who asks: what a front told about itself in its hello, as values the services work with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One connected front.

    Attributes:
        cwd: Its working directory; jobs that name none run there.
        env: Its allow-listed environment, sorted pairs.
        profile: Variables that belong to its credentials (base URL, Bedrock, Vertex), sorted pairs.
        credentials: (name, kind, secret) in order of use; see policy.credentials.
        keys: (name, secret) of keys for providers, in order of use.
        submitter: Whose idempotency keys its submissions carry.
        inside_job: The job it runs in, as RecursionManager.identify found; "" for none.
    """

    cwd: str
    submitter: str
    inside_job: str = ""
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    profile: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    credentials: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
