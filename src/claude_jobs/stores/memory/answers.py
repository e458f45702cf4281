"""The model's cache: entries in the order of their use, flights, and what was invalidated. See GateStore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from claude_jobs.stores.gate import CacheEntry, CachePut, CacheStats, Landing, Look, LookAsk

FORGET_MS = 600_000
"""After so long nobody waits for an error any more, and a flight that was not landed is forgotten."""
SKEW_MS = 1_000
"""An error that landed further in the future was stored before the clock was set back: nobody waits for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """The latest of its key. `until_ms` is 0 once it landed; `error` is that of the last one that landed with one."""

    owner: str
    fence: int
    until_ms: int
    error: str = ""
    failed_ms: int = 0


class Answers:
    """Cached answers and flights."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[CacheEntry, int]] = {}
        self._flights: dict[str, Flight] = {}
        self._gone: dict[tuple[str, str, str, str], int] = {}
        self._seq = 0
        self._fence = 0
        self._counts: Counter[str] = Counter()

    def look(self, ask: LookAsk) -> Look:
        """See GateStore. A miss is counted for who then makes the answer."""
        entry, flight = self._servable(ask), self._flights.get(ask.key)
        is_flying = flight is not None and flight.until_ms > ask.now_ms
        if entry is not None and ask.now_ms < entry.fresh_until_ms:
            return Look(what="hit", entry=entry, seq=self._seq)
        if entry is not None:
            fence = self._claimed(ask) if ask.owner and not is_flying else 0
            return Look(what="stale", entry=entry, fence=fence, seq=self._seq)
        if flight is not None and 0 < ask.since_ms < flight.failed_ms <= ask.now_ms + SKEW_MS:
            return Look(what="failed", error=flight.error, seq=self._seq)
        if flight is not None and is_flying and ask.owner:
            # Who looks again for what it makes itself has lost it: a caller that was cancelled, an answer never heard.
            is_own = flight.owner == ask.owner
            return Look(what="lead" if is_own else "follow", fence=flight.fence if is_own else 0, seq=self._seq)
        if not ask.owner:
            return Look(what="miss", seq=self._seq)
        self._counts["misses"] += 1
        return Look(what="lead", fence=self._claimed(ask), seq=self._seq)

    def _servable(self, ask: LookAsk) -> CacheEntry | None:
        entry, seq = self._entries.get(ask.key, (None, 0))
        return (
            entry
            if entry and self._is_live(entry, seq) and ask.now_ms < max(entry.fresh_until_ms, entry.stale_until_ms)
            else None
        )

    def _is_live(self, entry: CacheEntry, seq: int) -> bool:
        patterns = product(("", entry.org), ("", entry.provider), ("", entry.model), ("", entry.key))
        return all(self._gone.get(pattern, 0) <= seq for pattern in patterns)

    def _claimed(self, ask: LookAsk) -> int:
        """The flight is the asker's from now on. Those who still wait for the one before get its error nevertheless."""
        self._fence += 1
        before = self._flights.get(ask.key, Flight(owner="", fence=0, until_ms=0))
        self._flights[ask.key] = replace(before, owner=ask.owner, fence=self._fence, until_ms=ask.now_ms + ask.lease_ms)
        return self._fence

    def renew(self, flights: Sequence[tuple[str, int]], until_ms: int) -> None:
        """See GateStore."""
        for key, fence in flights:
            flight = self._flights.get(key)
            if flight is not None and flight.fence == fence and flight.until_ms:
                self._flights[key] = replace(flight, until_ms=until_ms)

    def land(self, landing: Landing, now_ms: int) -> None:
        """End the flight, if it is still the one that holds the fence."""
        flight = self._flights.get(landing.key)
        if flight is None or flight.fence != landing.fence or not flight.until_ms:
            return
        landed = replace(flight, until_ms=0)
        if landing.error:
            landed = replace(landed, error=landing.error, failed_ms=now_ms)
        self._flights[landing.key] = landed

    def put(self, put: CachePut) -> None:
        """Store the entry as the last used one, and make room.

        Not stored: what was invalidated since its look, and what is larger than the whole cache.
        """
        entry, size = put.entry, len(put.entry.value)
        if size > put.max_bytes or put.max_entries < 1 or not self._is_live(entry, put.seq):
            return
        self._entries.pop(entry.key, None)
        self._entries[entry.key] = (entry, put.seq)
        self._counts["stores"] += 1
        while len(self._entries) > put.max_entries or self._bytes() > put.max_bytes:
            del self._entries[next(iter(self._entries))]
            self._counts["evictions"] += 1

    def _bytes(self) -> int:
        return sum(len(entry.value) for entry, _ in self._entries.values())

    def touch(self, keys: Sequence[str], *, stale: int) -> None:
        """See GateStore."""
        for key in keys:
            if key in self._entries:
                self._entries[key] = self._entries.pop(key)
        self._counts["stale_hits"] += stale
        self._counts["hits"] += len(keys) - stale

    def invalidate(self, pattern: tuple[str, str, str, str]) -> int:
        """`pattern` is org, provider, model, key; "" is any. What it concerns takes up room until it is cleaned away.

        But a single entry, named by its key, goes at once.
        """
        before = [key for key, (entry, seq) in self._entries.items() if self._is_live(entry, seq)]
        self._seq += 1
        self._gone[pattern] = self._seq
        self._counts["invalidations"] += 1
        gone = [key for key in before if not self._is_live(*self._entries[key])]
        for key in gone if pattern[3] else ():
            del self._entries[key]
        return len(gone)

    def stats(self) -> CacheStats:
        """See GateStore."""
        return CacheStats(
            entries=len(self._entries),
            bytes=self._bytes(),
            hits=self._counts["hits"],
            stale_hits=self._counts["stale_hits"],
            misses=self._counts["misses"],
            stores=self._counts["stores"],
            evictions=self._counts["evictions"],
            invalidations=self._counts["invalidations"],
        )

    def clean(self, now_ms: int) -> int:
        """Drop entries that can no longer be served, which are counted, and flights that are over."""
        ended_ms = now_ms - FORGET_MS
        self._flights = {
            key: flight
            for key, flight in self._flights.items()
            if flight.until_ms >= ended_ms or flight.failed_ms >= ended_ms
        }
        dead = [
            key
            for key, (entry, seq) in self._entries.items()
            if entry.stale_until_ms <= now_ms or not self._is_live(entry, seq)
        ]
        for key in dead:
            del self._entries[key]
        return len(dead)
