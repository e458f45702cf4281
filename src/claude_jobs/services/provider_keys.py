"""Which keys a call may use: its caller's own, else those of the user's own `.env`, else what was lent to this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from dotenv import dotenv_values

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.policy import providers as rules
from claude_jobs.services.caller import Caller

MAX_FILE_BYTES = 256 * 1024
LOOK_S = 1.0
"""How often the user's file is looked at for a change, while calls come."""


class ProviderKeys:
    """Keys in memory, by provider. Call it on one event loop only."""

    def __init__(self, env_file: Path, *, serves_jobs: bool = False) -> None:
        self._env_file = env_file
        self._serves_jobs = serves_jobs
        self._own: tuple[ApiKey, ...] = ()
        self._stamp: tuple[int, int] | None = None
        self._looked_s = float("-inf")
        self._parsed: dict[tuple[tuple[str, str], ...], tuple[ApiKey, ...]] = {}
        self._lent: tuple[ApiKey, ...] = ()

    def lend(self, keys: Sequence[tuple[str, str]]) -> None:
        """What callers without keys of their own may use from now on: those of whoever opened HTTP."""
        self._lent = _keys(keys) or self._lent

    async def of(self, provider: str, caller: Caller) -> tuple[ApiKey, ...]:
        """In the order of use; () if there is none. A job gets none, unless the operator allows it."""
        if caller.inside_job and not self._serves_jobs:
            return ()
        await self._refresh()
        for source in (self._of_caller(caller), self._own, self._lent):
            found = tuple(key for key in source if key.provider == provider)
            if found:
                return found
        return ()

    def _of_caller(self, caller: Caller) -> tuple[ApiKey, ...]:
        if not caller.keys:
            return ()
        found = self._parsed.get(caller.keys)
        if found is None:
            if len(self._parsed) >= 64:
                self._parsed.clear()
            found = self._parsed[caller.keys] = _keys(caller.keys)
        return found

    async def _refresh(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s < LOOK_S:
            return
        stamp = _stamp(self._env_file)
        if stamp != self._stamp:
            self._own = await asyncio.to_thread(_read, self._env_file)
            self._stamp = stamp
        self._looked_s = now_s  # only now: who comes while the file is read waits for it, too


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return ()
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError):
        return ()
    return _keys(rules.pick_keys({name: value for name, value in values.items() if value}))


def _keys(found: Sequence[tuple[str, str]]) -> tuple[ApiKey, ...]:
    return tuple(
        ApiKey(provider=provider, name=name, secret=secret)
        for name, secret in found
        if (provider := rules.provider_of_key(name))
    )
