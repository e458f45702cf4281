"""Jobs in chains and trees for the tests of recursion and narrowing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from claude_jobs.domain.job import Job, JobSpec, JobState, Progress, Submission
from claude_jobs.domain.usage import Usage

NOW = 1_800_000_000_000
_SPEC = JobSpec(prompt="do it", model="opus", cwd="/work")


def spec(**fields: Any) -> JobSpec:
    """A small job's."""
    return replace(_SPEC, **fields)


def submission(**fields: Any) -> Submission:
    """One with these fields in its spec."""
    return Submission(spec=spec(**{"prompt": "something else", **fields}), offers=("aaa",), submitter="u", pool="p")


def job(job_id: str, parent: Job | None = None, *, cost: int = 0, label: str = "", **fields: Any) -> Job:
    """A running job with these fields in its spec; its task is its own, `cost` is in nano-dollars."""
    return Job(
        id=job_id,
        spec=spec(**{"prompt": f"task of {job_id}", **fields}),
        state=JobState.RUNNING,
        root_id=parent.root_id if parent else job_id,
        depth=parent.depth + 1 if parent else 0,
        parent_id=parent.id if parent else None,
        offers=("aaa",),
        submitter="u",
        pool="p",
        session_id="s",
        rank=0,
        created_ms=NOW,
        queued_since_ms=NOW,
        usage=Usage(cost_nusd=cost),
        label=label,
    )


def ended(running: Job) -> Job:
    """The job after its success."""
    return replace(running, state=JobState.SUCCEEDED)


def spending(running: Job, cost_nusd: int) -> Job:
    """The job with so much spent in its present attempt."""
    return replace(running, progress=Progress(cost_nusd=cost_nusd))


def chain(*names: str) -> list[Job]:
    """Jobs, each the parent of the next."""
    made: list[Job] = []
    for name in names:
        made.append(job(name, made[-1] if made else None))
    return made
