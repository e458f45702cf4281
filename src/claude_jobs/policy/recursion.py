"""Pure rules for jobs that spawn jobs: how many, how deep, how fast, with how much money. No clock, no IO.

What a child may do (tools, directory, permissions) is in policy.narrowing.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from claude_jobs.domain.job import Job, JobSpec, Submission
from claude_jobs.domain.usage import nusd, usd
from claude_jobs.errors import NotPermitted, RecursionRefused

RATE_WINDOW_MS = 60_000
"""CLAUDE_JOBS_MAX_SPAWN_RATE counts the spawns of so long."""
MAX_RETRIES_BY_JOB = 3
"""Retries are no new jobs of their tree, so nothing else would end a job that runs its children again and again."""
SHOWN_LINKS = 12
"""A longer chain is shown by its two ends."""
SHOWN_LABEL = 40
_YOURSELF = "Do the rest of the work yourself in this job, or return what should be done as your answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class RecursionLimits:
    """Limits of one tree of jobs. 0 means 0: nothing may be spawned.

    Attributes:
        depth: Deepest depth, a root's being 0; CLAUDE_MAX_RECURSION_DEPTH.
        at_depth: Jobs that run at once at one depth; CLAUDE_MAX_CONCURRENT_AT_DEPTH. It queues, so `check` leaves it to `admit`.
        total: Jobs ever made in a tree, root included, retries not; CLAUDE_MAX_TOTAL_JOBS.
        rate: Nested jobs a tree may make within RATE_WINDOW_MS; CLAUDE_JOBS_MAX_SPAWN_RATE.
    """

    depth: int = 3
    at_depth: int = 8
    total: int = 30
    rate: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What the store counts of one tree.

    Attributes:
        total: Jobs ever made in it, root included, retries not.
        recent_ms: `created_ms` of its nested jobs within RATE_WINDOW_MS, oldest first.
    """

    total: int
    recent_ms: tuple[int, ...] = ()


def check(chain: Sequence[Job], submission: Submission, tree: Tree, limits: RecursionLimits, now_ms: int) -> None:
    """Whether one more job may be made below the last of `chain`.

    The store calls it once per submission, in the transaction that makes the job, and counts each accepted one into
    `tree` before the next: so n siblings of one request are held against the limits as n.

    Args:
        chain: The asking job and its ancestors, root first, parent last.

    Raises:
        RecursionRefused: limit "nest", "depth", "cycle", "total" or "rate" (only the last can pass with time: retry_after_s).
    """
    _check_allowed(chain)
    _check_depth(chain, limits)
    _check_cycle(chain, submission)
    _check_total(chain, tree, limits)
    _check_rate(chain, tree, limits, now_ms)


def _check_allowed(chain: Sequence[Job]) -> None:
    if chain and chain[-1].spec.forbids_nest:
        raise _refused(
            chain,
            "nest",
            0,
            f"Job {chain[-1].id} was submitted with nest=false (--no-nest), so it spawns no jobs.",
            f"{_YOURSELF} Whoever submits it may leave nest=false out.",
        )


def _check_depth(chain: Sequence[Job], limits: RecursionLimits) -> None:
    depth = chain[-1].depth + 1 if chain else 0
    if depth > limits.depth:
        raise _refused(
            chain,
            "depth",
            limits.depth,
            f"This job would be at depth {depth}; CLAUDE_MAX_RECURSION_DEPTH={limits.depth} allows no deeper one.",
            f"{_YOURSELF} The operator may raise CLAUDE_MAX_RECURSION_DEPTH.",
        )


def _check_cycle(chain: Sequence[Job], submission: Submission) -> None:
    key = task_key(submission.spec)
    same = next((job for job in chain if task_key(job.spec) == key), None)
    if same is not None:
        raise _refused(
            chain,
            "cycle",
            0,
            f"This job would be its own ancestor: {link(same)} has the same task, directory and model already.",
            "Do this task yourself, or spawn a smaller part of it with a prompt that names just that part.",
        )


def _check_total(chain: Sequence[Job], tree: Tree, limits: RecursionLimits) -> None:
    if tree.total + 1 > limits.total:
        raise _refused(
            chain,
            "total",
            limits.total,
            f"This tree has made {tree.total} jobs; CLAUDE_MAX_TOTAL_JOBS={limits.total} allows no more, ended ones included.",
            f"{_YOURSELF} The operator may raise CLAUDE_MAX_TOTAL_JOBS.",
        )


def _check_rate(chain: Sequence[Job], tree: Tree, limits: RecursionLimits, now_ms: int) -> None:
    if not chain:
        return
    # A stamp from a clock that ran ahead counts as made just now: it must not hold the tree back for longer.
    recent = [min(at_ms, now_ms) for at_ms in tree.recent_ms if at_ms > now_ms - RATE_WINDOW_MS]
    if len(recent) + 1 <= limits.rate:
        return
    name = f"CLAUDE_JOBS_MAX_SPAWN_RATE={limits.rate}"
    what = f"This tree has spawned {len(recent)} jobs within {RATE_WINDOW_MS // 1000} s; {name} allows no more."
    if limits.rate <= 0:
        raise _refused(
            chain, "rate", limits.rate, what, f"{_YOURSELF} The operator may raise CLAUDE_JOBS_MAX_SPAWN_RATE."
        )
    wait_s = (sorted(recent)[len(recent) - limits.rate] + RATE_WINDOW_MS - now_ms) / 1000
    out = f"Ask again in {wait_s:.0f} s for what is still needed, fewer and larger jobs. {_YOURSELF}"
    raise _refused(chain, "rate", limits.rate, what, out, retry_after_s=wait_s)


def task_key(spec: JobSpec) -> str:
    """What makes two jobs the same task: prompt (case, white space and compatibility forms aside), cwd and model."""
    prompt = " ".join(unicodedata.normalize("NFKC", spec.prompt).casefold().split())
    return hashlib.sha256("\0".join((prompt, spec.cwd, spec.model)).encode("utf-8", "replace")).hexdigest()


def left_nusd(parent: Job, descendants: Sequence[Job]) -> int | None:
    """What a job may still give away of its budget, in nano-dollars, never below 0; None if it has no budget.

    Args:
        descendants: All jobs below it, of any depth, or those of them that the caller knows to matter: a child that
            ended counts with what it *and those below it* cost or may still cost, a live one with its whole budget.
    """
    if parent.spec.max_cost_usd is None:
        return None
    children: dict[str | None, list[Job]] = {}
    for job in descendants:
        children.setdefault(job.parent_id, []).append(job)
    charges: dict[str, int] = {}
    for job in sorted(descendants, key=lambda job: -job.depth):
        below = sum(charges[child.id] for child in children.get(job.id, ()))
        charges[job.id] = _charge(job, below)
    given = sum(charges[child.id] for child in children.get(parent.id, ()))
    return max(0, nusd(parent.spec.max_cost_usd) - _cost(parent) - given)


def _charge(job: Job, below: int) -> int:
    spent = _cost(job) + below
    if job.is_terminal or job.spec.max_cost_usd is None:
        return spent
    return max(nusd(job.spec.max_cost_usd), spent)


def _cost(job: Job) -> int:
    running = 0 if job.is_terminal else job.progress.cost_nusd
    return job.usage.cost_nusd + running


def share(submission: Submission, left_nusd: int | None, siblings: int, *, chain: Sequence[Job] = ()) -> Submission:
    """The submission with its part of what its parent has left.

    Args:
        left_nusd: From `left_nusd`, anew for each submission, those accepted before it counted.
        siblings: Submissions of the same request that still want a part, this one included: each gets as much as stays
            with the parent.
        chain: As for `check`, for the error.

    Raises:
        RecursionRefused: limit "budget": it asks for more than is left, or nothing is left.
    """
    if left_nusd is None:
        return submission
    asked = submission.spec.max_cost_usd
    part = left_nusd // (siblings + 1) if asked is None else nusd(asked)
    if asked is not None and part > left_nusd:
        what = f"max_cost_usd={asked:g} is more than the ${usd(left_nusd):.6f} that is left of this job's budget."
        out = "Ask for less, do the work yourself, or wait for other children to end: what they did not use comes back."
        raise _refused(chain, "budget", usd(left_nusd), what, out)
    if part <= 0:
        what = "Nothing is left to give away of this job's budget (max_cost_usd)."
        raise _refused(chain, "budget", usd(left_nusd), what, _YOURSELF)
    return replace(submission, spec=replace(submission.spec, max_cost_usd=usd(part)))


def check_steers(asker: str, job_id: str, above: Sequence[Job]) -> None:
    """A job steers its descendants and nobody else. Raises NotPermitted.

    Args:
        above: The ancestors of `job_id`.
    """
    if all(job.id != asker for job in above):
        message = f"Job {asker!r} may do this to jobs that it spawned, and {job_id!r} is none of them."
        raise NotPermitted(message, field="job_ids")


def check_retries(above: Sequence[Job], job: Job) -> None:
    """Whether a job may have `job`, which is below it, run once more. `above` as for `check`.

    Raises:
        RecursionRefused: limit "retries".
    """
    if job.reopened >= MAX_RETRIES_BY_JOB:
        raise RecursionRefused(
            f"Job {job.id!r} was run again {job.reopened} times already, and a job may ask for at most "
            f"{MAX_RETRIES_BY_JOB}. Return what fails; your user can run `claude-jobs retry {job.id}`.",
            limit="retries",
            value=MAX_RETRIES_BY_JOB,
            chain=tuple(one.id for one in above),
        )


def check_affords(payer: Job, others: Sequence[Job], job: Job) -> None:
    """Whether an ended job may have its budget once more: what it did not use went back, and may have been given away.

    Args:
        payer: The job above it that its budget is taken out of.
        others: All jobs below the payer, but without `job` and those below it.

    Raises:
        RecursionRefused: limit "budget".
    """
    left = left_nusd(payer, others)
    budget = job.spec.max_cost_usd
    if left is None or budget is None or nusd(budget) <= left:
        return
    raise RecursionRefused(
        f"Job {job.id!r} had ${budget:g} of the budget of job {payer.id!r}, and only ${usd(left):.6f} of that is left. "
        "Wait for other children to end: what they did not use comes back. Or spawn the work anew: it gets a part of the rest.",
        limit="budget",
        value=usd(left),
        chain=(payer.id, job.id),
    )


def room(root_id: str, total: int, limits: RecursionLimits) -> str:
    """What is left to spawn in a tree whose jobs run again: what they made the first time stays counted."""
    made = f"Tree {root_id} has made {total} of {limits.total} jobs (CLAUDE_MAX_TOTAL_JOBS), ended ones included:"
    left = max(0, limits.total - total)
    if left:
        return f"{made} it may spawn {left} more."
    return (
        f"{made} what runs again in it can spawn none. Raise the limit, or submit the work anew as a tree of its own."
    )


def link(job: Job) -> str:
    """A job as errors show it: its id, and its label in brackets."""
    label = " ".join(job.label.split())
    if len(label) > SHOWN_LABEL:
        label = label[: SHOWN_LABEL - 1] + "…"
    return f"{job.id} [{label}]" if label else job.id


def shown(chain: Sequence[Job]) -> str:
    """The chain in one line, root first; the middle of a very long one is left out."""
    links = [link(job) for job in chain]
    if len(links) > SHOWN_LINKS:
        half = SHOWN_LINKS // 2
        links[half:-half] = [f"… {len(links) - 2 * half} more …"]
    return " > ".join(links)


def _refused(
    chain: Sequence[Job], limit: str, value: float, what: str, way_out: str, retry_after_s: float | None = None
) -> RecursionRefused:
    lineage = f"Chain: {shown(chain)} > the new job. " if chain else ""
    return RecursionRefused(
        f"{what} {lineage}{way_out}",
        limit=limit,
        value=value,
        chain=tuple(job.id for job in chain),
        retry_after_s=retry_after_s,
    )
