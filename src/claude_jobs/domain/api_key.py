"""Keys of provider APIs. A Claude subscription token is none of these and never becomes one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key of one provider.

    Attributes:
        provider: Its name in `policy.providers`.
        name: The variable it came in ("OPENAI_API_KEY2"), which may be shown.
        secret: The key; in memory only.
    """

    provider: str
    name: str
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """What may be stored or shown: a prefix of its hash."""
        return hashlib.sha256(f"{self.provider}\0{self.secret}".encode()).hexdigest()[:12]
