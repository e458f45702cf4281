"""A plan against the worker: what an earlier run has done is kept, the rest is run again or handed in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from claude_jobs.cli import output
from claude_jobs.cli.batches import listed
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.plan import Plan
from claude_jobs.cli.resuming import Decision, Step, again, first, plan_label, request_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan that runs.

    Attributes:
        ids: Its jobs, in the order of the plan.
        batch_id: All of it is in this one.
        answer: The worker's answer to what was handed in now, {} if nothing was.
        is_whole: Nothing else is in its batch.
    """

    ids: tuple[str, ...]
    batch_id: str
    answer: dict[str, Any]
    is_whole: bool


def decided(plan: Plan, worker: Connection | None) -> Decision:
    """What becomes of each item.

    Args:
        worker: To look for an earlier run of the plan; None to start anew.
    """
    run, cwd = secrets.token_hex(6), str(Path.cwd())
    if worker is None:
        return first(plan, run, cwd)
    if plan.path is None:
        raise click.UsageError("--resume needs a plan file: what comes from stdin has no name to find it by.")
    known = listed(worker, {"label": plan_label(plan.path), "keys": True})
    return again(plan, known, run, cwd)


def carried_out(plan: Plan, decision: Decision, worker: Connection) -> Run:
    """Does it: first what is replaced ends, then what failed runs again, then the rest is handed in, all or none.

    It is one batch, so that `max_parallel` and `fail_fast` hold over all of it; as the plan says them now, from the start.
    """
    _replace(decision.replaced, worker)
    if decision.batch_id:
        worker.call("set_batch", {"batch_id": decision.batch_id, **_rules(plan)})
    if failed := [step.job_id for step in decision.those("run again")]:
        reopened = worker.call("retry", {"job_ids": failed}, again=False)["jobs"]
        # What never ran because of a job that runs again comes back with it, wanted or not.
        _replace([job["job_id"] for job in reopened if job["job_id"] in decision.outdated], worker)
    new = decision.those("handed in")
    answer: dict[str, Any] = worker.call("submit", _submission(plan, decision, new)) if new else {}
    ids = dict(zip((step.item.at for step in new), (job["job_id"] for job in answer.get("jobs", ())), strict=True))
    return Run(
        ids=tuple(step.job_id or ids[step.item.at] for step in decision.steps),
        batch_id=answer.get("batch_id", decision.batch_id),
        answer=answer,
        is_whole=not decision.batch_id and len(new) == len(decision.steps),
    )


def _replace(job_ids: Sequence[str], worker: Connection) -> None:
    if job_ids:
        worker.call("cancel", {"job_ids": list(job_ids), "why": "replaced by a newer version of its plan"})


def _submission(plan: Plan, decision: Decision, new: Sequence[Step]) -> dict[str, object]:
    labels = [name for name in (plan.name, plan_label(plan.path) if plan.path else "") if name]
    return {
        "items": [request_of(step, decision.steps, labels) for step in new],
        "batch": True,
        "batch_id": decision.batch_id,
        **_rules(plan),
    }


def _rules(plan: Plan) -> dict[str, object]:
    return {"max_parallel": plan.max_parallel, "fail_fast": plan.fail_fast}


def tell(decision: Decision) -> None:
    """Say what becomes of each item."""
    for step in decision.steps:
        job = f" ({step.job_id})" if step.job_id else ""
        output.note(output.safe(f"{step.item.name}{job}: {step.action}; {step.why}"))
    for job_id in decision.replaced:
        output.note(f"{job_id}: cancelled; a newer version takes its place")
    for job_id in decision.dropped:
        output.note(f"{job_id}: no longer in the plan, goes on. To stop it: claude-jobs cancel {job_id}")


def draw(plan: Plan, decision: Decision | None) -> None:
    """The plan as it would run."""
    steps = {step.item.at: step for step in decision.steps} if decision else {}
    columns = {"wave": "WAVE", "job": "JOB", "model": "MODEL", "waits": "WAITS FOR"}
    columns |= {"step": "WHAT"} if steps else {}
    output.table(rows(plan, steps), {**columns, "prompt": "PROMPT"}, empty="")
    cap = f"at most {plan.max_parallel} at once" if plan.max_parallel else "as many at once as there are places"
    failure = "the first failure cancels the rest" if plan.fail_fast else "a failure stops only what waits for it"
    output.note(f"{len(plan.items)} jobs, {cap}; {failure}. Nothing was sent.")


def rows(plan: Plan, steps: dict[int, Step]) -> list[dict[str, Any]]:
    """The items, those first that can run first."""
    found: list[dict[str, Any]] = []
    for wave, items in enumerate(plan.waves(), start=1):
        for item in items:
            how = "any of " if item.fields.get("needs") == "any" and len(item.waits_for) > 1 else ""
            step = steps.get(item.at)
            found.append(
                {
                    "wave": str(wave),
                    "job": item.name,
                    "model": str(item.fields.get("model", "")),
                    "waits": how + ", ".join(item.waits_for),
                    "step": f"{step.action}: {step.why}" if step else "",
                    "prompt": " ".join(str(item.fields["prompt"]).split())[:80],
                }
            )
    return found
