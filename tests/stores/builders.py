"""Short ways to say submissions, requests and outcomes in store tests. Times are milliseconds from `NOW`."""

from __future__ import annotations

from dataclasses import dataclass

from claude_jobs.domain.job import (
    Dependency,
    DependencyMode,
    DependencyOn,
    Failure,
    Grant,
    Job,
    JobSpec,
    Outcome,
    Submission,
)
from claude_jobs.domain.token import TokenKind, TokenNote
from claude_jobs.domain.usage import Usage
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import Disposition, RetryRules, decide
from claude_jobs.policy.tokens import lesson
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import Admission, AdmitRequest, JobStore, Limits, Receipt, SubmitRequest

NOW = 1_800_000_000_000
POOL = "host:a"
TOKENS = ("aaa", "bbb", "ccc")


def spec(prompt: str = "do it", model: str = "opus", *, max_cost_usd: float | None = None) -> JobSpec:
    """A small job."""
    return JobSpec(prompt=prompt, model=model, cwd="/tmp", max_cost_usd=max_cost_usd)


def item(
    prompt: str = "do it",
    *,
    model: str = "opus",
    offers: tuple[str, ...] = TOKENS,
    key: str = "",
    priority: int = 0,
    parent_id: str | None = None,
    pool: str = POOL,
    not_before_ms: int | None = None,
    deadline_ms: int | None = None,
    label: str = "",
    labels: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    needs: DependencyMode = DependencyMode.ALL,
    on: DependencyOn = DependencyOn.SUCCESS,
    max_cost_usd: float | None = None,
    session_id: str = "",
) -> Submission:
    """One submission; `after` names what it depends on."""
    return Submission(
        spec=spec(prompt, model, max_cost_usd=max_cost_usd),
        depends_on=tuple(Dependency(name=job_id, job_id=job_id) for job_id in after),
        needs=needs,
        on=on,
        session_id=session_id,
        offers=offers,
        submitter="uid:1",
        pool=pool,
        key=key,
        priority=priority,
        parent_id=parent_id,
        not_before_ms=not_before_ms,
        deadline_ms=deadline_ms,
        label=label,
        labels=labels,
    )


def batch(
    *items: Submission,
    now_ms: int = NOW,
    batch_id: str = "",
    max_parallel: int | None = None,
    queue_size: int = 1_000,
    fail_fast: bool = False,
    recursion: RecursionLimits | None = None,
) -> SubmitRequest:
    """One request."""
    return SubmitRequest(
        submissions=items,
        now_ms=now_ms,
        batch_id=batch_id,
        max_parallel=max_parallel,
        queue_size=queue_size,
        fail_fast=fail_fast,
        recursion=recursion,
    )


def asking(
    *,
    owner: str = "w1",
    free: int = 10,
    now_ms: int = NOW,
    held: tuple[str, ...] = TOKENS,
    running: int | None = None,
    per_token: int = 8,
    dead: tuple[str, ...] = (),
    pools: tuple[str, ...] = (POOL,),
    at_depth: int | None = None,
    depth: int | None = None,
    total: int | None = None,
    nested_first: bool = False,
) -> AdmitRequest:
    """A worker asking for work."""
    return AdmitRequest(
        owner=owner,
        free=free,
        pools=pools,
        held=frozenset(held),
        limits=Limits(running=running, per_token=per_token, at_depth=at_depth, depth=depth, total=total),
        now_ms=now_ms,
        dead=frozenset(dead),
        nested_first=nested_first,
    )


@dataclass(frozen=True)
class Desk:
    """A store with the usual tokens known, and what tests do to it in one line."""

    store: JobStore

    def know(self, *fingerprints: str, kind: TokenKind = TokenKind.OAUTH) -> None:
        """Register tokens; the usual ones if none is named."""
        self.store.register_tokens([(fp, fp.upper(), kind) for fp in fingerprints or TOKENS], NOW)

    def submit(self, *items: Submission, now_ms: int = NOW) -> list[Job]:
        """Submit with no cap."""
        receipts: tuple[Receipt, ...] = self.store.submit(batch(*items, now_ms=now_ms))
        return [receipt.job for receipt in receipts]

    def one(self, submission: Submission | None = None) -> Job:
        """Submit one job."""
        return self.submit(submission or item())[0]

    def grant(self, request: AdmitRequest | None = None) -> Grant:
        """Admit, and expect exactly one grant."""
        (grant,) = self.admit(request).grants
        return grant

    def admit(self, request: AdmitRequest | None = None) -> Admission:
        """Admit as w1 with ten free slots."""
        return self.store.admit(request or asking())

    def run(self, request: AdmitRequest | None = None) -> Grant:
        """Admit one job and begin it."""
        grant = self.grant(request)
        assert self.store.begin(grant.job.id, grant.epoch, None, NOW)
        return grant

    def start(self, request: AdmitRequest | None = None) -> dict[str, Grant]:
        """Admit and begin whatever can run; the grants by job."""
        grants = {grant.job.id: grant for grant in self.admit(request).grants}
        for job_id, grant in grants.items():
            assert self.store.begin(job_id, grant.epoch, None, NOW)
        return grants

    def complete(self, job: Job, failure: Failure = Failure.NONE, *, now_ms: int = NOW) -> Job:
        """Run a job that is next, and end it: with success, or for good with `failure`."""
        (grant,) = self.admit(asking(free=1, now_ms=now_ms)).grants
        assert grant.job.id == job.id
        assert self.store.begin(job.id, grant.epoch, None, now_ms)
        return self.close(grant, failure, now_ms=now_ms)

    def close(self, grant: Grant, failure: Failure = Failure.NONE, *, now_ms: int = NOW) -> Job:
        """End a running job: with success, or for good with `failure`."""
        trigger = Trigger.SUCCEED if failure is Failure.NONE else Trigger.FAIL
        outcome = Outcome(failure=failure, text="done", duration_ms=7)
        disposition = Disposition(trigger=trigger, failure=failure)
        assert self.store.finish(grant.job.id, grant.epoch, outcome, disposition, None, now_ms)
        return self.store.get(grant.job.id)

    def end(self, grant: Grant, outcome: Outcome | None = None, *, now_ms: int = NOW, jitter: float = 0.5) -> bool:
        """Finish as the worker would: policy decides over what the store says about the job."""
        outcome = outcome or Outcome(text="done", usage=Usage(output_tokens=3, cost_nusd=5))
        job = self.store.get(grant.job.id)
        disposition = decide(job, outcome, RetryRules(), now_ms=now_ms, jitter=jitter)
        note = lesson(outcome, model=job.spec.model, now_ms=now_ms)
        return self.store.finish(job.id, grant.epoch, outcome, disposition, note, now_ms)

    def finish(self, grant: Grant, disposition: Disposition, outcome: Outcome | None = None) -> bool:
        """Finish with a disposition of the test's own."""
        return self.store.finish(grant.job.id, grant.epoch, outcome or Outcome(), disposition, None, NOW)


def limited(resets_at_ms: int = NOW + 60_000) -> Outcome:
    """An attempt that hit its token's usage limit."""
    return Outcome(failure=Failure.USAGE_LIMIT, message="limit", limit_window="five_hour", resets_at_ms=resets_at_ms)


def failed(failure: Failure = Failure.SERVER_ERROR) -> Outcome:
    """An attempt that failed."""
    return Outcome(failure=failure, message=f"it was {failure.value}")


def cooling(until_ms: int = NOW + 60_000) -> TokenNote:
    """What a usage limit says about a token."""
    return TokenNote(cool_window="five_hour", cool_until_ms=until_ms)
