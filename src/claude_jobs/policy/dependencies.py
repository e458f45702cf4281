"""Pure rules for jobs that wait for other jobs: when a dependency is met, and which graphs can never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from claude_jobs.domain.job import TERMINAL, DependencyMode, DependencyOn, JobState


class Verdict(StrEnum):
    """Where a waiting job stands. FAILED: its condition can never be met any more."""

    PENDING = "pending"
    MET = "met"
    FAILED = "failed"


def verdict(states: Sequence[JobState], needs: DependencyMode, on: DependencyOn) -> Verdict:
    """What the states of its dependencies mean for a job. No dependencies are always met."""
    if not states:
        return Verdict.MET
    good = TERMINAL if on is DependencyOn.END else frozenset({JobState.SUCCEEDED})
    met = sum(state in good for state in states)
    lost = sum(state in TERMINAL and state not in good for state in states)
    needed = len(states) if needs is DependencyMode.ALL else 1
    if met >= needed:
        return Verdict.MET
    return Verdict.FAILED if len(states) - lost < needed else Verdict.PENDING


def find_cycle(edges: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The first circle in a graph of name -> names it depends on, e.g. ("a", "b", "a"); () if there is none.

    Names without an entry of their own depend on nothing. O(nodes + edges), not recursive: plans may be long chains.
    """
    done: set[str] = set()
    for start in edges:
        if start in done:
            continue
        path: dict[str, Iterator[str]] = {start: iter(edges[start])}
        while path:
            name, following = next(reversed(path.items()))
            for target in following:
                if target in path:
                    names = list(path)
                    return (*names[names.index(target) :], target)
                if target not in done:
                    path[target] = iter(edges.get(target, ()))
                    break
            else:
                done.add(name)
                del path[name]
    return ()
