"""Batches that can be sent again: answers that were given are kept in a file of the batch, and not made a second time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

if TYPE_CHECKING:  # the worker makes the book when it starts, and reads requests later or never
    from claude_jobs.services.generation_api import Ask, EconomyOrder, Generation
    from claude_jobs.services.generation_request import Batch, BatchEntry

View = dict[str, object]

KEEP_S = 7 * 86_400
"""How long after its last answer a batch can be resumed."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Answers beyond this are given but not kept: they would be read into memory at once."""
_SWEEP_S = 3_600.0

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class BatchSummary:
    """What became of a batch so far. `cost_nusd` counts this run; `unpriced` answers have no known price."""

    items: int
    answered: int = 0
    failed: int = 0
    resumed: int = 0
    unpriced: int = 0
    cost_nusd: int = 0

    def count(self, view: View) -> None:
        """One more item."""
        if "error" in view:
            self.failed += 1
            return
        self.answered += 1
        self.resumed += bool(view.get("resumed"))
        nusd = cast("View", view["answer"])["cost_nusd"]
        if isinstance(nusd, int):
            self.cost_nusd += nusd
        else:
            self.unpriced += 1

    def view(self) -> View:
        """As JSON. `cost_usd` is the sum of the known prices."""
        return {**asdict(self), "cost_usd": self.cost_nusd / 1_000_000_000}


class BatchBook:
    """Answers of batches that have a key, one file (0600) for each, appended as they come: a crash loses none that was written.

    It holds what the response cache does not: answers with a high temperature, and for longer. Errors are not kept.
    A file that cannot be read or written only means that an answer is made again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._swept_s = float("-inf")

    async def known(self, name: str, entries: Iterable[BatchEntry]) -> dict[str, View]:
        """By key, the answers that are there for exactly these requests, as they are told a second time."""
        await self._sweep()
        return await asyncio.to_thread(self._known, name, entries)

    def _known(self, name: str, entries: Iterable[BatchEntry]) -> dict[str, View]:
        kept = _read(self._path(name))
        found: dict[str, View] = {}
        for entry in entries:
            line = kept.get(entry.key)
            if line is not None and line.get("request") == _fingerprint(entry.ask):
                age_s = round(max(0.0, time.time() - cast("float", line["at"])), 3)
                free = {"cost_usd": 0.0, "cost_nusd": 0, "price": "cached", "cached": "batch", "age_s": age_s}
                found[entry.key] = {**cast("View", line["answer"]), **free}
        return found

    async def keep(self, name: str, entry: BatchEntry, answer: View) -> None:
        """Write one answer down."""
        line = {"key": entry.key, "request": _fingerprint(entry.ask), "at": time.time(), "answer": answer}
        try:
            await asyncio.to_thread(_append, self._path(name), b"\n" + json.dumps(line).encode("ascii"))
        except OSError as error:
            log.warning("batch.not_kept", error=error.strerror)

    def _path(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.jsonl"

    async def _sweep(self) -> None:
        now_s = time.monotonic()
        if now_s - self._swept_s >= _SWEEP_S:
            self._swept_s = now_s
            await asyncio.to_thread(_remove_old, self._directory, time.time() - KEEP_S)


async def run_batch(generation: Generation, batch: Batch, book: BatchBook) -> AsyncGenerator[View]:
    """Items as they come: first those that are known from an earlier run, then each when it is answered."""
    from claude_jobs.services.generation_view import batch_item_view

    entries = batch.entries
    name = ""
    known: dict[str, View] = {}
    if batch.batch_key:
        caller = entries[0].ask.caller
        name = "\0".join((caller.submitter, caller.inside_job, batch.batch_key))  # nobody else finds it
        known = await book.known(name, entries)
    left = [index for index, entry in enumerate(entries) if entry.key not in known]
    for index, entry in enumerate(entries):
        if entry.key in known:
            yield {"index": index, "key": entry.key, "resumed": True, "answer": known.pop(entry.key)}
    asks = [entries[index].ask for index in left]
    if not asks:
        return
    order = _order(batch, name) if batch.economy else None
    if order is not None:
        order = replace(order, labels=tuple(order.labels[index] for index in left))
    async with aclosing(generation.batch(asks, max_parallel=batch.max_parallel, economy=order)) as items:
        async for item in items:
            index = left[item.index]
            entry = entries[index]
            view = {**batch_item_view(item, entry.key), "index": index}
            if name and "answer" in view:
                await book.keep(name, entry, cast("View", view["answer"]))
            yield view


def _order(batch: Batch, name: str) -> EconomyOrder:
    """Without a key of its own, a batch is known by all that is in it, and by who asks."""
    from claude_jobs.services.generation_api import EconomyOrder

    labels = tuple(
        hashlib.sha256(f"{entry.key}\0{_fingerprint(entry.ask)}".encode()).hexdigest()[:32] for entry in batch.entries
    )
    caller = batch.entries[0].ask.caller
    known_by = name or "\0".join((caller.submitter, caller.inside_job, "", *labels))
    return EconomyOrder(name=known_by, labels=labels, cancel=batch.cancel_on_leave)


def _fingerprint(ask: Ask) -> str:
    """Of everything that can change the answer, and of who pays."""
    request = asdict(ask.request)
    del request["metadata"]
    text = json.dumps([ask.org, ask.fallbacks, request], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, View]:
    """Lines by key, the last one of each. Each was written with a line break before it: half a line spoils no other."""
    try:
        lines = path.read_bytes().splitlines() if path.stat().st_size <= MAX_FILE_BYTES else []
    except OSError:
        return {}
    kept: dict[str, View] = {}
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"key", "request", "at", "answer"} <= line.keys():
            kept[str(line["key"])] = cast("View", line)  # pyright: ignore[reportUnknownArgumentType]
    return kept


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size + len(line) <= MAX_FILE_BYTES:
            os.write(fd, line)
    finally:
        os.close(fd)


def _remove_old(directory: Path, before_s: float) -> None:
    try:
        for path in directory.glob("*.jsonl"):
            if path.stat().st_mtime < before_s:
                path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("batch.not_swept", error=error.strerror)
