"""Batches that were handed in to providers, a file (0600) for each: whoever asks again after a crash waits for the same batch.

A file holds ids and hashes, no prompt, no answer and no secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import structlog

log = structlog.get_logger()

KEEP_S = 28 * 86_400
"""Anthropic keeps results for 29 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentItem:
    """A request of a batch.

    Attributes:
        id: Of the call; the provider knows the request by it.
        label: Names the item and all that can change its answer.
        reservation: What it holds in the gate; settled once, whoever does it.
    """

    id: str
    label: str
    reservation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SentBatch:
    """A batch of the provider. `batch_id` is "" while it is handed in, `key` the fingerprint of the key that sent it."""

    name: str
    provider: str
    model: str
    key: str
    batch_id: str
    at_ms: int
    items: tuple[SentItem, ...]


class EconomyBook:
    """The files, in a directory (0700) made on first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def batches(self, name: str) -> list[SentBatch]:
        """Those that were handed in under that name."""
        return await asyncio.to_thread(_read_all, self._directory, _hashed(name))

    async def keep(self, batch: SentBatch) -> None:
        """Write it down, in place of what was written of it before. Raises OSError."""
        await asyncio.to_thread(_write, self._path(batch), json.dumps(asdict(batch)).encode("ascii"))

    async def forget(self, batch: SentBatch) -> None:
        """All of it is delivered."""
        try:
            await asyncio.to_thread(self._path(batch).unlink, missing_ok=True)
        except OSError as error:
            log.warning("economy.not_forgotten", error=error.strerror)

    def _path(self, batch: SentBatch) -> Path:
        return self._directory / f"{_hashed(batch.name)}-{batch.items[0].id}.json"


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _read_all(directory: Path, prefix: str) -> list[SentBatch]:
    found: list[SentBatch] = []
    try:
        for path in sorted(directory.glob("*.json")):
            if path.stat().st_mtime < time.time() - KEEP_S:
                path.unlink(missing_ok=True)
            elif path.name.startswith(f"{prefix}-"):
                found += _read(path)
    except OSError as error:
        log.warning("economy.not_read", error=error.strerror)
    return found


def _read(path: Path) -> list[SentBatch]:
    try:
        data = cast("Mapping[str, object]", json.loads(path.read_bytes()))
        items = tuple(SentItem(**one) for one in cast("list[dict[str, str]]", data["items"]))
        batch = SentBatch(**{**data, "items": items})  # pyright: ignore[reportArgumentType] - as it was written
    except (ValueError, TypeError, LookupError):
        log.warning("economy.unreadable", file=path.name)
        return []
    if not batch.batch_id:
        log.warning("economy.ended_while_handing_in", provider=batch.provider, items=len(items))
        return []
    return [batch]
