"""What the runner is told of an attempt: the prompt with the results it asks for, its times, what it may spend."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from claude_jobs.domain.job import Job
from claude_jobs.domain.token import Credential
from claude_jobs.domain.usage import nusd
from claude_jobs.policy import estimate, templates, timeouts
from claude_jobs.policy.recursion import left_nusd
from claude_jobs.runner.order import Order
from claude_jobs.services.desk import Desk
from claude_jobs.stores.base import JobFilter


async def order_of(desk: Desk, job: Job, epoch: int, credential: Credential) -> Order:
    """What the runner is told: the prompt with the results it asks for, the times it may take, the proof of its lineage.

    Raises:
        InvalidRequest: The prompt became too long with these results.
        JobNotFound: One of these jobs was deleted.
    """
    rules = desk.rules
    kind = estimate.kind(job.spec)
    limits = timeouts.limits(
        job.spec,
        timeouts=job.timeouts,
        ceiling_s=rules.timeout_ceiling_s,
        run_times_ms=await desk.database(desk.store.run_times, kind),
    )
    left_s = inf if job.deadline_ms is None else max(0.0, (job.deadline_ms - desk.clock()) / 1000)
    return Order(
        job_id=job.id,
        epoch=epoch,
        spec=replace(job.spec, prompt=await _told(desk, job)),
        session_id=job.session_id,
        credential=credential,
        timeout_s=min(limits[0], left_s),
        ceiling_s=min(limits[1], left_s),
        stall_s=rules.stall_s,
        home_mark=f"{rules.mark_prefix}:{job.id}:{epoch}",
        org=job.org,
        spent_nusd=job.usage.cost_nusd + await _given_nusd(desk, job),
        lineage_secret=desk.lineage_secret(job.id, epoch) if job.spec.nest else "",
    )


async def _given_nusd(desk: Desk, job: Job) -> int:
    """What a job with a budget has given to its children: no longer its own to spend."""
    if job.spec.max_cost_usd is None or job.spec.forbids_nest:
        return 0
    page = await desk.database(desk.store.list, JobFilter(root_id=job.root_id, limit=desk.rules.limits.total or 1_000))
    below = [one for one in page.jobs if one.depth > job.depth]
    left = left_nusd(job, below)
    return 0 if left is None else max(0, nusd(job.spec.max_cost_usd) - job.usage.cost_nusd - left)


async def _told(desk: Desk, job: Job) -> str:
    """The prompt with the results of other jobs in it."""
    wanted = templates.references(job.spec.prompt)
    if not wanted:
        return job.spec.prompt
    known = {needed.name: needed.job_id for needed in job.depends_on}
    results: dict[str, templates.Finding] = {}
    for name in wanted:
        source = await desk.database(desk.store.get, known.get(name, name))
        text = source.outcome.text if source.outcome else ""
        results[name] = templates.Finding(job_id=source.id, state=source.state.value, text=text)
    return templates.render(job.spec.prompt, results)
