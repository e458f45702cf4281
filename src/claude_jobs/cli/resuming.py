"""Which jobs of a plan an earlier run has done already: what is kept, run again or handed in. Pure decisions; the batch command acts.

A run is known by the keys of its jobs: plan, run, content, name. The content of a job is its fields and that of
the jobs it waits for, so a change reaches everything behind it. So does an answer that is about to be another one:
what went by the old answer is handed in once more, as the next version (`+1`) of the same content.
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
        outdated: Jobs of the earlier run that have ended and that a job handed in now takes the place of.
        dropped: Jobs of the earlier run that go on and are no longer in the plan.
        batch_id: The earlier run's batch, which what is handed in now joins; "" if there is none.
    """

    steps: tuple[Step, ...]
    batch_id: str = ""
    replaced: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
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
    steps: dict[int, Step] = {}
    by_id: dict[str, Step] = {}
    for item in (item for wave in plan.waves() for item in wave):
        before = [by_id[name] for name in item.waits_for if name in by_id]
        steps[item.at] = by_id[item.id] = latest.step(plan, item, *stamps[item.at], before)
    return latest.decision([steps[item.at] for item in plan.items], {name for name, _ in stamps})


class _Run:
    """The jobs of one run, newest first."""

    def __init__(self, run: str, jobs: Sequence[Job]) -> None:
        self._run = run
        self._jobs = jobs
        self._by_id = {job["job_id"]: job for job in jobs}
        self._latest: dict[tuple[str, str], Job] = {}
        for job in jobs:
            _, _, content, name = _parts(job)
            self._latest.setdefault((name, _version(content)[0]), job)
        self._names = {name for name, _ in self._latest}

    def step(self, plan: Plan, item: Item, name: str, stamp: str, before: Sequence[Step]) -> Step:
        """What becomes of one item.

        Args:
            before: What becomes of those it waits for.
        """
        found = self._latest.get((name, stamp))
        if found is None:
            why = "it has changed, or what it waits for" if name in self._names else "it is new"
            return Step(item=item, action="handed in", why=why, key=_key(plan, self._run, stamp, name))
        action, why = _as_it_stands(found["state"])
        if stale := self._stale(found, action, before):
            content = f"{stamp}+{_version(_parts(found)[2])[1] + 1}"
            key = _key(plan, self._run, content, name)
            return Step(item=item, action="handed in", why=f"{why}, but waits for {stale}", key=key)
        return Step(item=item, action=action, why=why, job_id=found["job_id"])

    def _stale(self, job: Job, action: Action, before: Sequence[Step]) -> str:
        """Which of those it waits for has, or will have, another answer than the one this job goes by, in words."""
        for step in before:
            if step.action == "handed in":
                return f"{step.item.name}, which is handed in"
            if action == "run again" or job.get("reason") == "dependency":
                continue  # it has yet to hear an answer of that job
            if step.action == "run again":
                return f"{step.item.name}, which is run again"
            if self._was_reopened_since(job, step.job_id):
                return f"{step.item.name}, which was run again since"
        return ""

    def _was_reopened_since(self, job: Job, needed_id: str) -> bool:
        """By hand, or by a resume that came no further."""
        reopened_ms, finished_ms = self._by_id[needed_id].get("reopened_ms"), job.get("finished_ms")
        return reopened_ms is not None and finished_ms is not None and reopened_ms > finished_ms

    def decision(self, steps: Sequence[Step], names: set[str]) -> Decision:
        """With what becomes of the jobs that no step stands for."""
        used = {step.job_id for step in steps}
        loose = [job for job in self._jobs if job["job_id"] not in used]
        taken = [job for job in loose if _parts(job)[3] in names]
        return Decision(
            steps=tuple(steps),
            batch_id=self._jobs[0]["batch_id"],
            replaced=tuple(job["job_id"] for job in taken if job["state"] in _UNFINISHED),
            outdated=tuple(job["job_id"] for job in taken if job["state"] not in _UNFINISHED),
            dropped=tuple(job["job_id"] for job in loose if job not in taken and job["state"] in _UNFINISHED),
        )


def _as_it_stands(state: str) -> tuple[Action, str]:
    """What becomes of a job that was asked for already, and why."""
    if state == "succeeded":
        return "kept", "it has succeeded"
    if state in _UNFINISHED:
        return "left running", f"it is {state}"
    return "run again", "it was cancelled" if state == "cancelled" else f"it {state}"


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


def _version(content: str) -> tuple[str, int]:
    """A content without its version, and that: how often it was handed in once more."""
    stamp, _, version = content.partition("+")
    return stamp, int(version or 0)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
