"""Calls at the SQLite gate, and processes that make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from claude_jobs.domain.generation import Cost, Route, Tokens
from claude_jobs.policy.quota import Quota, Scope, Unit
from claude_jobs.stores.gate import CacheEntry, CachePut, CallRecord, LookAsk, ReserveAsk, Settlement

TESTS = Path(__file__).parent.parent
NOW = 1_800_000_000_000
ROUTE = Route(provider="openai", model="gpt-5.5", key="0123456789ab")
MINUTE = 60_000


def quota(limit: int) -> Quota:
    """Tokens of one organization in a month."""
    return Quota(scope=Scope.ORG, subject="acme", unit=Unit.TOKENS, limit=limit, window="month")


def ask(reservation: str, amount: int, limit: int = 10**9, *, now_ms: int = NOW, owner: str = "test") -> ReserveAsk:
    """A reservation of tokens."""
    return ReserveAsk(id=reservation, owner=owner, now_ms=now_ms, quotas=((quota(limit), amount),))


def settlement(reservation: str, tokens: int, *, at_ms: int = NOW) -> Settlement:
    """Its end, with a line of the ledger."""
    return Settlement(id=reservation, now_ms=NOW, tokens=tokens, record=record(reservation, at_ms=at_ms))


def record(call_id: str, *, at_ms: int = NOW, org: str = "acme") -> CallRecord:
    """A line of the ledger."""
    return CallRecord(
        id=call_id, at_ms=at_ms, org=org, route=ROUTE, outcome="ok", tokens=Tokens(input=1), cost=Cost(nusd=1)
    )


def look(key: str, *, now_ms: int = NOW, owner: str = "test", lease_ms: int = MINUTE) -> LookAsk:
    """A look for a cached answer."""
    return LookAsk(
        key=key,
        org="acme",
        provider=ROUTE.provider,
        model=ROUTE.model,
        now_ms=now_ms,
        owner=owner,
        lease_ms=lease_ms,
    )


def put(key: str, value: bytes = b"answer", *, seq: int = 0, most: int = 1_000, now_ms: int = NOW) -> CachePut:
    """An answer to store, fresh for an hour."""
    entry = CacheEntry(
        key=key,
        org="acme",
        provider=ROUTE.provider,
        model=ROUTE.model,
        value=value,
        created_ms=now_ms,
        fresh_until_ms=now_ms + 60 * MINUTE,
        stale_until_ms=now_ms + 120 * MINUTE,
    )
    return CachePut(entry=entry, seq=seq, max_entries=most, max_bytes=10**9)


PRELUDE = """
import asyncio, os, random, resource, sys, time
from dataclasses import replace
from pathlib import Path
from gate.sqlite_asks import *
from claude_jobs.errors import StoreUnavailable
from claude_jobs.policy.breaker import BreakerRules, Verdict
from claude_jobs.services.gate import GateThread
from claude_jobs.stores.gate import Landing, LedgerQuery, Refused
from claude_jobs.stores.sqlite.gate import open_gate
directory, me = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()  # all start together
store = open_gate(directory, lock_wait_s=60)
"""


def start(directory: Path, script: str, me: str, *more: str) -> subprocess.Popen[str]:
    """A process that waits for `go` and then runs the script on the gate `store`."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(directory), me, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        text=True,
    )


def go(child: subprocess.Popen[str]) -> None:
    """Let it begin."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def line(child: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def outputs(children: list[subprocess.Popen[str]]) -> list[list[str]]:
    """What each said until its end, which must be a good one."""
    said = [child.communicate(timeout=150)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return said
