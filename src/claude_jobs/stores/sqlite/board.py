"""The tokens as one transaction sees them: states with their running jobs counted, and what changes about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from claude_jobs.domain.token import TokenKind, TokenNote, TokenState
from claude_jobs.policy import tokens as rules
from claude_jobs.stores import codec
from claude_jobs.stores.sqlite.rows import Rows


class Board:
    """All known tokens, read once; `running` is kept up to date by `use`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        found = rows.execute("SELECT t.doc, c.n FROM tokens t LEFT JOIN counters c ON c.key = 't:' || t.fingerprint")
        states = (replace(codec.from_json(TokenState, doc), running=n or 0) for doc, n in found)
        self.states = {state.fingerprint: state for state in states}

    def use(self, fingerprint: str) -> None:
        """One more job holds it; it goes to the end of the round."""
        state = self.states[fingerprint]
        latest = max(token.last_used for token in self.states.values())
        self._put(replace(state, last_used=latest + 1, jobs=state.jobs + 1, running=state.running + 1))

    def note(self, fingerprint: str, note: TokenNote, now_ms: int) -> None:
        """Apply what was learned about a token, if it is known."""
        if fingerprint in self.states:
            self._put(rules.apply(self.states[fingerprint], note, now_ms))

    def add_cost(self, fingerprint: str, cost_nusd: int) -> None:
        """Book what an attempt cost."""
        if fingerprint in self.states and cost_nusd:
            state = self.states[fingerprint]
            self._put(replace(state, cost_nusd=state.cost_nusd + cost_nusd))

    def register(self, tokens: Sequence[tuple[str, str, TokenKind]], now_ms: int) -> None:
        """Make tokens known; those already known keep their state."""
        for fingerprint, name, kind in tokens:
            known = self.states.get(fingerprint) or TokenState(fingerprint=fingerprint, name=name, kind=kind)
            self._put(replace(known, name=name, seen_ms=now_ms))

    def _put(self, state: TokenState) -> None:
        self.states[state.fingerprint] = state
        doc = codec.dumps(codec.encode(state, without=("running",)))
        self._rows.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", state.fingerprint, doc)
