"""The model's queue: what comes in, what is handed out, what would be handed out next."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from claude_jobs.domain.job import OWNED, QUEUED, Grant, Job, JobState
from claude_jobs.domain.token import TokenState
from claude_jobs.policy import tokens as token_rules
from claude_jobs.policy.recursion import RATE_WINDOW_MS, Tree
from claude_jobs.stores import lifecycle, waits
from claude_jobs.stores.acceptance import accept, submitted_event
from claude_jobs.stores.base import Admission, AdmitRequest, Receipt, SubmitRequest
from claude_jobs.stores.memory.world import Batch, World


def submit(world: World, request: SubmitRequest) -> tuple[Receipt, ...]:
    """See JobStore."""
    accepted = accept(Register(world), request)
    for job in accepted.new:
        world.attempts[job.id] = []
        world.totals[job.root_id] = job.ordinal
        world.put(job, request.now_ms, submitted_event(job))
    if accepted.new and request.batch_id:
        world.batches[request.batch_id] = Batch(request.max_parallel, request.fail_fast)
    return accepted.receipts


class Register:
    """stores.acceptance.Register, and that of stores.reopening, over all jobs."""

    def __init__(self, world: World) -> None:
        self._world = world

    def queued(self) -> int:
        return len(self._world.with_state(*QUEUED))

    def find_key(self, submitter: str, key: str) -> Job | None:
        jobs = self._world.jobs.values()
        return next((job for job in jobs if key and (job.submitter, job.key) == (submitter, key)), None)

    def find(self, job_id: str) -> Job | None:
        return self._world.jobs.get(job_id)

    def state(self, job_id: str) -> JobState | None:
        return self._world.states().get(job_id)

    def below(self, job: Job) -> list[Job]:
        return [other for other in self._world.tree([job.id]) if other is not job]

    def tree(self, root_id: str, now_ms: int) -> Tree:
        nested = [job for job in self._world.jobs.values() if job.root_id == root_id and job.parent_id is not None]
        recent = sorted(job.created_ms for job in nested if job.created_ms > now_ms - RATE_WINDOW_MS)
        return Tree(total=self._world.totals[root_id], recent_ms=tuple(recent))

    def session_user(self, session_id: str) -> str | None:
        return next((job.id for job in self._world.unfinished() if job.session_id == session_id), None)


def admit(world: World, request: AdmitRequest) -> Admission:
    """See JobStore."""
    now_ms = request.now_ms
    lost = [job for job in world.with_state(*OWNED) if job.owner in request.dead]
    for job in lost:
        world.settle(job, *lifecycle.lost_disposition(job), now_ms)
    for job in world.with_state(JobState.DELAYED):
        if lifecycle.is_due(job, now_ms):
            world.put(lifecycle.promoted(job), now_ms)
    late = [job for job in world.jobs.values() if job.deadline_ms is not None and job.deadline_ms <= now_ms]
    expired = [job for job in late if job.state in QUEUED]
    for job in expired:
        why = waits.missed(job, request, world.token_states(), world.states())
        world.settle(job, *lifecycle.expiry_disposition(why), now_ms)
    world.follow(now_ms)
    grants = _pick(world, request)
    return Admission(
        grants=grants,
        next_ms=_next_ms(world, request),
        reaped=tuple(job.id for job in lost),
        expired=tuple(job.id for job in expired),
        overdue=tuple(job.id for job in late if job.owner == request.owner),
    )


def _pick(world: World, request: AdmitRequest) -> tuple[Grant, ...]:
    grants: list[Grant] = []
    for job in _in_order(world, request):
        running = request.limits.running
        if len(grants) >= request.free or (running is not None and world.running("g") >= running):
            break
        token = _token_for(world, job, request) if _may_run(world, job, request) else None
        if token and _is_beyond(job, request):
            world.put(lifecycle.held_back(job, request.now_ms), request.now_ms)
        elif token:
            grants.append(_admit(world, job, request, token))
    return tuple(grants)


def _in_order(world: World, request: AdmitRequest) -> list[Job]:
    ready = sorted(world.with_state(JobState.READY), key=lambda job: job.rank)
    return sorted(ready, key=lambda job: -job.depth) if request.nested_first else ready


def _may_run(world: World, job: Job, request: AdmitRequest) -> bool:
    cap = request.limits.at_depth
    has_place = cap is None or world.running(f"d:{job.depth}") < cap
    batch = world.batches.get(job.batch_id)
    max_parallel = batch.max_parallel if batch else None
    is_free = max_parallel is None or world.running(f"b:{job.batch_id}") < max_parallel
    return _is_served(job, request) and has_place and is_free


def _is_served(job: Job, request: AdmitRequest) -> bool:
    deepest = request.limits.depth
    is_within = deepest is None or job.depth <= deepest
    return job.pool in request.pools and is_within and (job.depth > 0 or not request.nested_first)


def _is_beyond(job: Job, request: AdmitRequest) -> bool:
    return request.limits.total is not None and job.ordinal > request.limits.total


def _token_for(world: World, job: Job, request: AdmitRequest, *, is_idle: bool = False) -> TokenState | None:
    states = world.token_states()
    if is_idle:
        states = {fp: replace(state, running=0) for fp, state in states.items()}
    return token_rules.choose(
        token_rules.states_of(job.offers, states, request.held),
        model=job.spec.model,
        concurrency=request.limits.per_token,
        now_ms=request.now_ms,
        avoid=lifecycle.avoided(job, next(iter(world.attempts[job.id][-1:]), None)),
    )


def _admit(world: World, job: Job, request: AdmitRequest, token: TokenState) -> Grant:
    job = lifecycle.admitted(job, owner=request.owner, token=token.fingerprint)
    world.use(token.fingerprint)
    world.attempts[job.id].append(lifecycle.opened(job, request.now_ms))
    world.put(job, request.now_ms, lifecycle.admitted_event(job, request.now_ms))
    return Grant(job=job, epoch=job.epoch, token=job.token)


def _next_ms(world: World, request: AdmitRequest) -> int | None:
    states, now_ms = world.token_states(), request.now_ms
    times = [job.not_before_ms for job in world.with_state(JobState.DELAYED)]
    times += [job.deadline_ms for job in world.unfinished()]
    for job in world.with_state(JobState.READY):
        if _may_run(world, job, request):
            offered = token_rules.states_of(job.offers, states, request.held)
            times.append(token_rules.next_reset_ms(offered, job.spec.model, now_ms))
    return min((time for time in times if time is not None and time > now_ms), default=None)


def peek(world: World, request: AdmitRequest, limit: int) -> tuple[Job, ...]:
    """See JobStore."""
    if request.limits.at_depth == 0 or request.limits.running == 0:
        return ()
    taken: Counter[str] = Counter()
    chosen: list[Job] = []
    for job in _in_order(world, request):
        batch = world.batches.get(job.batch_id)
        max_parallel = batch.max_parallel if batch else None
        is_full = max_parallel is not None and world.running(f"b:{job.batch_id}") + taken[job.batch_id] >= max_parallel
        is_next = _is_served(job, request) and not is_full and not _is_beyond(job, request)
        if is_next and _token_for(world, job, request, is_idle=True):
            taken[job.batch_id] += 1
            chosen.append(job)
    return tuple(chosen[:limit])
