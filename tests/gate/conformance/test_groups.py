"""Operations that share a commit."""

from __future__ import annotations

import pytest
from gate.builders import NOW, ROUTE, Gate, line, quota

from claude_jobs.errors import InvalidRequest
from claude_jobs.stores.gate import Refused, Reserved

TOKENS = quota(100)


def test_operations_in_a_group_see_each_other(gate: Gate) -> None:
    with gate.store.group():
        gate.had("a", (TOKENS, 60))
        assert isinstance(gate.ask("b", (TOKENS, 60)), Refused)
        assert gate.stands(TOKENS) == (0, 60)
        gate.settle("a", tokens=10, record=line("a"))
        assert isinstance(gate.ask("b", (TOKENS, 60)), Reserved)
        assert gate.store.call("a") is not None

    assert gate.stands(TOKENS) == (10, 60)


def test_one_that_fails_undoes_only_itself(gate: Gate) -> None:
    with gate.store.group():
        gate.had("a", (TOKENS, 60))
        with pytest.raises(InvalidRequest):
            gate.ask("b", (TOKENS, 1), (quota(5, window="fortnight"), 1), route=ROUTE)
        gate.had("c", (TOKENS, 5))

    assert gate.stands(TOKENS) == (0, 65)
    assert gate.store.renew(["a", "b", "c"], NOW + 9) == ("a", "c")


def test_an_error_between_operations_keeps_those_before_it(gate: Gate) -> None:
    """Each is whole by itself."""
    with pytest.raises(RuntimeError), gate.store.group():
        gate.had("a", (TOKENS, 60))
        raise RuntimeError

    assert gate.stands(TOKENS) == (0, 60)


def test_looks_in_a_group_see_what_was_stored_in_it(gate: Gate) -> None:
    with gate.store.group():
        lead = gate.look("k")
        gate.store_answer("k", seq=lead.seq)
        assert gate.has("k")
        assert gate.store.invalidate(key="k") == 1
        assert not gate.has("k")


def test_an_empty_group_is_nothing(gate: Gate) -> None:
    with gate.store.group():
        pass

    assert gate.store.calls() == ()
