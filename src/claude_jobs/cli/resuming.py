"""Which jobs of a plan an earlier run has done already: what is kept, run again or handed in. Pure decisions; the batch command acts.

A run is known by the keys of its jobs: plan, run, content, name. The content of a job is its fields and that of
the jobs it waits for, so a change reaches everything behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import click

from claude_jobs.cli.plan import Item, Plan
from claude_jobs.policy.templates import renamed

Job = dict[str, Any]
Action = Literal["kept", "left running", "run again", "handed in"]

_LABEL_CHARS = 200
_UNFINISHED = frozenset({"queued", "running", "blocked"})
_ASIDE = frozenset({"key", "label", "labels"})
"""Fields that do not change what a job does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one item.

    Attributes:
        job_id: The job of the earlier run that stands for it, "" if it is handed in.
        key: The idempotency key under which it is handed in, "" if it is not.
        why: In words for people.
    """

    item: Item
    action: Action
    why: str
    job_id: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a plan.

    Attributes:
        steps: In the order of the plan.
        replaced: Jobs of the earlier run that go on and that a job handed in now takes the place of.
        dropped: Jobs of the earlier run that go on and are no longer in the plan.
    """

    steps: tuple[Step, ...]
    replaced: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def those(self, action: Action) -> list[Step]:
        """The steps of one kind."""
        return [step for step in self.steps if step.action == action]


def plan_label(path: Path) -> str:
    """The label of all jobs of a plan file; a path that is too long for a label is told apart by its hash."""
    label = f"plan:{path}"
    if len(label) <= _LABEL_CHARS:
        return label
    return f"plan:{_hash(str(path))}:…{str(path)[-150:]}"


def first(plan: Plan, run: str, cwd: str) -> Decision:
    """All of it is handed in."""
    why = "there is no earlier run"
    steps = [
        Step(item=item, action="handed in", why=why, key=str(item.fields.get("key") or _key(plan, run, stamp, name)))
        for item, (name, stamp) in zip(plan.items, _stamps(plan, cwd), strict=True)
    ]
    return Decision(steps=tuple(steps))


def again(plan: Plan, known: Sequence[Job], run: str, cwd: str) -> Decision:
    """The plan against the latest run of it.

    Args:
        known: All jobs with the plan's label, newest first, each with its `key`.
        run: Names the run if there is no earlier one.

    Raises:
        click.UsageError: A job has a key of its own, by which the plan's run cannot be told.
    """
    for item in plan.items:
        if "key" in item.fields:
            raise click.UsageError(f"Job {item.name!r} has a `key`. --resume goes by keys of its own: take it out.")
    earlier = [job for job in known if _parts(job)]
    if not earlier:
        return first(plan, run, cwd)
    run = _parts(earlier[0])[1]
    latest = _Run(run, [job for job in earlier if _parts(job)[1] == run])
    stamps = _stamps(plan, cwd)
    steps = [latest.step(plan, item, name, stamp) for item, (name, stamp) in zip(plan.items, stamps, strict=True)]
    return latest.decision(steps, {name for name, _ in stamps})


class _Run:
    """The jobs of one run."""

    def __init__(self, run: str, jobs: Sequence[Job]) -> None:
        self._run = run
        self._jobs = jobs
        self._by_content: dict[tuple[str, str], Job] = {}
        for job in jobs:
            _, _, stamp, name = _parts(job)
            self._by_content[name, stamp] = job
        self._names = {name for name, _ in self._by_content}

    def step(self, plan: Plan, item: Item, name: str, stamp: str) -> Step:
        """What becomes of one item."""
        found = self._by_content.get((name, stamp))
        if found is None:
            why = "it has changed, or what it waits for" if name in self._names else "it is new"
            return Step(item=item, action="handed in", why=why, key=_key(plan, self._run, stamp, name))
        state = found["state"]
        if state == "succeeded":
            return Step(item=item, action="kept", why="it has succeeded", job_id=found["job_id"])
        if state in _UNFINISHED:
            return Step(item=item, action="left running", why=f"it is {state}", job_id=found["job_id"])
        why = "it was cancelled" if state == "cancelled" else f"it {state}"
        return Step(item=item, action="run again", why=why, job_id=found["job_id"])

    def decision(self, steps: Sequence[Step], names: set[str]) -> Decision:
        """With what becomes of the jobs that no step stands for."""
        used = {step.job_id for step in steps}
        loose = [job for job in self._jobs if job["state"] in _UNFINISHED and job["job_id"] not in used]
        return Decision(
            steps=tuple(steps),
            replaced=tuple(job["job_id"] for job in loose if _parts(job)[3] in names),
            dropped=tuple(job["job_id"] for job in loose if _parts(job)[3] not in names),
        )


def request_of(step: Step, steps: Sequence[Step], labels: Sequence[str]) -> dict[str, object]:
    """The request that hands an item in: what it waits for and is not handed in with it is named by its job's id."""
    ids = {one.item.id: one.job_id for one in steps if one.item.id and one.job_id}
    names = {name: ids[name] for name in step.item.waits_for if name in ids}
    fields = dict(step.item.fields)
    fields["prompt"] = renamed(str(fields["prompt"]), names)
    if "depends_on" in fields:
        fields["depends_on"] = [names.get(name, name) for name in cast("list[str]", fields["depends_on"])]
    own = cast("Sequence[str]", fields.get("labels", ()))
    return {**fields, "labels": [*own, *labels], "key": step.key}


def _stamps(plan: Plan, cwd: str) -> list[tuple[str, str]]:
    """(name, content) of each item. Items without an id are named by their content and told apart by their order."""
    by_id: dict[str, str] = {}
    stamps: dict[int, str] = {}
    for wave in plan.waves():
        for item in wave:
            own = {name: value for name, value in item.fields.items() if name not in _ASIDE}
            own["cwd"] = str(Path(cwd, str(own.get("cwd", ""))).expanduser())
            before = [by_id.get(name, name) for name in item.waits_for]
            stamps[item.at] = _hash(json.dumps([own, before], sort_keys=True, default=str))
            if item.id:
                by_id[item.id] = stamps[item.at]
    seen: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    for item in plan.items:
        stamp = stamps[item.at]
        seen[stamp] += 1
        found.append((item.id or f"#{seen[stamp]}-{stamp}", stamp))
    return found


def _key(plan: Plan, run: str, stamp: str, name: str) -> str:
    return f"plan:{_hash(str(plan.path))[:8]}:{run}:{stamp}:{name}"


def _parts(job: Job) -> list[str]:
    """[plan, run, content, name] of a key of ours, [] of another."""
    parts = str(job.get("key", "")).split(":", 4)
    return parts[1:] if len(parts) == 5 and parts[0] == "plan" else []


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
