"""`batch`: many jobs from a plan file, all accepted or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from claude_jobs.cli import batches, exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.following import follow_batch
from claude_jobs.cli.plan import Plan, read_plan
from claude_jobs.cli.plan_run import Run, carried_out, decided, draw, rows, tell
from claude_jobs.cli.resuming import Decision
from claude_jobs.cli.spawn import job_options, rehearsal_options, request_fields, site
from claude_jobs.cli.waiting import counted


@click.command()
@click.argument("source", metavar="PLAN")
@click.option("--max-parallel", type=click.IntRange(min=1), help="At most so many of them at once.")
@click.option("--fail-fast", is_flag=True, help="When one fails, cancel the rest.")
@click.option("--resume", is_flag=True, help="Go on with the latest run of this plan: only what is missing runs.")
@click.option("--dry-run", is_flag=True, help="Check the plan and print it as it would run; send nothing.")
@job_options
@click.option("--wait/--detach", default=False, help="Follow them to their end and print the answers.")
@rehearsal_options
@output.json_option
def batch(
    source: str,
    max_parallel: int | None,
    fail_fast: bool,
    resume: bool,
    dry_run: bool,
    wait: bool,
    rehearsal: bool,
    rehearsal_script: Path | None,
    as_json: bool,
    **options: object,
) -> int:
    """Hand many jobs to the queue, all or none.

    PLAN is a file, or `-` for stdin: YAML or JSON with a list of jobs, or a mapping with `jobs`, `defaults`, `name`,
    `max_parallel` and `on_failure: continue|fail_fast`; or JSON lines, one job each. A job is a prompt, or a mapping with
    `prompt` and any field of a job: `id`, `depends_on: [id]`, `needs: all|any`, `on: success|end`, model, tools, …
    `{{id.result}}` in a prompt is another job's answer. The options given here hold for jobs that say nothing else.
    """
    if resume and (rehearsal or rehearsal_script):
        raise click.UsageError("A rehearsal keeps nothing, so it has nothing to --resume.")
    plan = read_plan(source, request_fields(options), max_parallel=max_parallel, fail_fast=fail_fast)
    if dry_run:
        return _dry_run(plan, resume=resume, as_json=as_json)
    with site(rehearsal=rehearsal, script=rehearsal_script) as environ, Connection(environ) as worker:
        decision = decided(plan, worker if resume else None)
        if resume:
            tell(decision)
        run = carried_out(plan, decision, worker)
        if run.answer:
            jobs = run.answer["jobs"]
            output.note(f"Batch {run.batch_id}: {len(jobs)} jobs, {counted(jobs)}; paid by {run.answer['payer']}.")
        if wait or environ is not None:
            return _finish(worker, run, source, as_json=as_json)
    _hand_over(run, decision, as_json=as_json)
    return exits.OK


def _dry_run(plan: Plan, *, resume: bool, as_json: bool) -> int:
    decision = None
    if resume:
        with Connection() as worker:
            decision = decided(plan, worker)
    if as_json:
        steps = {step.item.at: step for step in decision.steps} if decision else {}
        output.emit({"name": plan.name, "max_parallel": plan.max_parallel, "jobs": rows(plan, steps)})
    else:
        draw(plan, decision)
    return exits.OK


def _hand_over(run: Run, decision: Decision, *, as_json: bool) -> None:
    if as_json:
        output.emit({"batch_id": run.batch_id, "jobs": [], **run.answer, "steps": _steps(run, decision)})
        return
    output.text("\n".join(run.ids))
    if run.batch_id:
        output.note(f"What there is of them so far: claude-jobs result {run.batch_id}")


def _steps(run: Run, decision: Decision) -> list[dict[str, Any]]:
    return [
        {"name": step.item.name, "job_id": job_id, "action": step.action, "why": step.why}
        for step, job_id in zip(decision.steps, run.ids, strict=True)
    ]


def _finish(worker: Connection, run: Run, source: str, *, as_json: bool) -> int:
    query: dict[str, object] = {"batch_id": run.batch_id} if run.is_whole else {"job_ids": list(run.ids)}
    try:
        report = follow_batch(worker, query)
    except KeyboardInterrupt:
        back = f"result {run.batch_id} --wait" if run.is_whole else f"batch {source} --resume --wait"
        output.note(f"The jobs go on. Get back to them with: claude-jobs {back}")
        raise
    jobs = batches.by_ids(worker, run.ids)
    return batches.show(worker, jobs, report, batch_id=run.batch_id, as_json=as_json)
