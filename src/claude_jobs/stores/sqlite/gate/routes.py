"""What is known of each route: its circuit and the state of its key, in one row."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from claude_jobs.domain.generation import Route
from claude_jobs.policy import breaker, keys
from claude_jobs.policy.breaker import CircuitState, Phase
from claude_jobs.policy.keys import KeyState
from claude_jobs.stores.gate import Refused, RefusedBy, ReserveAsk, Settlement

_COLUMNS = """r.phase, r.buckets, r.faults_in_a_row, r.open_until_ms, r.opened, r.probes, r.probes_ok,
    r.cooling_until_ms, r.requests_limit, r.requests_left, r.requests_reset_ms,
    r.tokens_limit, r.tokens_left, r.tokens_reset_ms, d.why"""
_FROM = "FROM routes r LEFT JOIN dead_keys d ON d.provider = r.provider AND d.key = r.key"
_LOAD = f"SELECT {_COLUMNS} {_FROM} WHERE r.provider = ? AND r.model = ? AND r.key = ?"
_ALL = f"""SELECT r.provider, r.model, r.key, {_COLUMNS} {_FROM}
    ORDER BY r.provider, r.model, r.key"""
_SAVE = f"INSERT OR REPLACE INTO routes VALUES ({', '.join('?' * 18)})"  # noqa: S608
_DEATH = "SELECT why FROM dead_keys WHERE provider = ? AND key = ?"
_KILL = "INSERT OR IGNORE INTO dead_keys VALUES (?, ?, ?, ?)"


_PHASES = {phase.value: phase for phase in Phase}
Known = tuple[CircuitState, KeyState]
MOST_REMEMBERED = 1_024
_remembered: dict[tuple[Any, ...], Known] = {}
"""States by the rows that say them: what was written is usually what is read next."""


def load(connection: sqlite3.Connection, route: Route) -> Known:
    """Both states of a route; those of a new one if nothing is known."""
    row = connection.execute(_LOAD, (route.provider, route.model, route.key)).fetchone()
    if row is not None:
        return _read(row)
    death = connection.execute(_DEATH, (route.provider, route.key)).fetchone()
    return CircuitState(), KeyState(dead=death[0] if death else "")


def _read(row: tuple[Any, ...]) -> Known:
    """A row as states. Often it is the one that was read or written before."""
    found = _remembered.get(row)
    if found is None:
        found = _parse(row)
        _remember(row, found)
    return found


def _remember(row: tuple[Any, ...], known: Known) -> None:
    if len(_remembered) >= MOST_REMEMBERED:
        _remembered.clear()
    _remembered[row] = known


def _parse(row: tuple[Any, ...]) -> Known:
    phase, buckets, faults, open_until_ms, opened, probes, probes_ok, cooling_until_ms, *limits, why = row
    circuit = CircuitState(
        phase=_PHASES[phase],
        buckets=tuple(map(tuple, json.loads(buckets))),
        faults_in_a_row=faults,
        open_until_ms=open_until_ms,
        opened=opened,
        probes=tuple(map(tuple, json.loads(probes))),
        probes_ok=probes_ok,
    )
    requests_limit, requests_left, requests_reset_ms, tokens_limit, tokens_left, tokens_reset_ms = limits
    key = KeyState(
        cooling_until_ms=cooling_until_ms,
        dead=why or "",
        requests_limit=requests_limit,
        requests_left=requests_left,
        requests_reset_ms=requests_reset_ms,
        tokens_limit=tokens_limit,
        tokens_left=tokens_left,
        tokens_reset_ms=tokens_reset_ms,
    )
    return circuit, key


def save(connection: sqlite3.Connection, route: Route, known: Known, now_ms: int) -> None:
    """Write both states. A death is not among them: `kill`."""
    circuit, key = known
    probes = json.dumps(circuit.probes) if circuit.probes else "[]"
    row = (
        *(circuit.phase.value, json.dumps(circuit.buckets), circuit.faults_in_a_row, circuit.open_until_ms),
        *(circuit.opened, probes, circuit.probes_ok, key.cooling_until_ms),
        *(key.requests_limit, key.requests_left, key.requests_reset_ms),
        *(key.tokens_limit, key.tokens_left, key.tokens_reset_ms),
    )
    connection.execute(_SAVE, (route.provider, route.model, route.key, now_ms, *row))
    _remember((*row, key.dead or None), known)


def admit(known: Known, route: Route, ask: ReserveAsk) -> tuple[Known, bool] | Refused:
    """Both states once the attempt begins and whether it is a probe, or which of them is against it."""
    circuit, key = known
    admitted = keys.admit(key, ask.needs_tokens, ask.now_ms)
    if isinstance(admitted, int):
        by = RefusedBy.DEAD_KEY if key.dead else RefusedBy.COOLING
        return Refused(by=by, counter=_speak(route), retry_at_ms=admitted)
    passed = breaker.admit(circuit, ask.now_ms, ask.id, ask.breaker)
    if isinstance(passed, int):
        return Refused(by=RefusedBy.CIRCUIT, counter=_speak(route), retry_at_ms=passed)
    circuit, is_probe = passed
    return (circuit, admitted), is_probe


def _speak(route: Route) -> str:
    return "/".join(part for part in (route.provider, route.model, route.key) if part)


def hear(connection: sqlite3.Connection, route: Route, settlement: Settlement) -> None:
    """What an attempt's end says of its circuit and key."""
    known = circuit, key = load(connection, route)
    now_ms, luck = settlement.now_ms, breaker.luck(settlement.id)
    circuit = breaker.record(circuit, now_ms, settlement.verdict, settlement.id, settlement.breaker, luck)
    if settlement.headers is not None:
        key = keys.heard(key, settlement.headers, now_ms)
    if settlement.cool_until_ms:
        key = keys.cooled(key, settlement.cool_until_ms)
    if settlement.is_key_dead:
        key = keys.killed(key, settlement.why)
        connection.execute(_KILL, (route.provider, route.key, route.model, key.dead))
    if (circuit, key) != known:
        save(connection, route, (circuit, key), now_ms)


def all_known(connection: sqlite3.Connection) -> list[tuple[Route, Known]]:
    """Every route that was heard of."""
    return [
        (Route(provider=provider, model=model, key=key), _read(tuple(row)))
        for provider, model, key, *row in connection.execute(_ALL)
    ]


def revive(connection: sqlite3.Connection, fingerprint: str) -> None:
    """See GateStore."""
    connection.execute("DELETE FROM dead_keys WHERE key = ?", (fingerprint,))
