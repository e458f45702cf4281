"""From requests to submissions: who asks, from inside which job, with whose credentials, in which order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from claude_jobs.domain.job import Job, Submission
from claude_jobs.errors import InvalidRequest, JobNotFound, KeyConflict, NotPermitted
from claude_jobs.policy.dependencies import find_cycle
from claude_jobs.services.caller import Caller
from claude_jobs.services.desk import Desk
from claude_jobs.services.request import JobRequest, RequestRules, Site, complete

MAX_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is handed to the store, and who pays, in words."""

    submissions: tuple[Submission, ...]
    payer: str


async def prepare(desk: Desk, rules: RequestRules, requests: Sequence[JobRequest], caller: Caller) -> Prepared:
    """Check and complete `requests`.

    Raises:
        AdmissionError: InvalidRequest, NotPermitted or NoTokenAvailable.
        JobNotFound: A job to resume or the job that asks does not exist.
    """
    if not 1 <= len(requests) <= MAX_BATCH:
        message = f"A batch holds 1 to {MAX_BATCH} jobs, not {len(requests)}. Send several batches."
        raise InvalidRequest(message, field="items")
    places = _places(requests)
    parent = await desk.database(desk.store.get, caller.inside_job) if caller.inside_job else None
    offers, payer = await _means(desk, caller, parent)
    sources = [await _source(desk, request, parent) for request in requests]
    now_ms = desk.clock()
    sites = [Site(now_ms=now_ms, parent=parent, source=source, places=places) for source in sources]
    asker = replace(caller, submitter=f"job:{parent.id}") if parent else caller
    submissions = await asyncio.to_thread(_complete, requests, asker, offers, rules, sites)
    _check_circles(requests, submissions)
    if parent is not None:
        await _check_own_tree(desk, submissions, parent)
    return Prepared(submissions=submissions, payer=payer)


async def repeated(desk: Desk, requests: Sequence[JobRequest], caller: Caller) -> tuple[Job, ...]:
    """The jobs that these requests made before, by their keys; none unless that is so for each of them.

    A lost reply can be had again though the world has changed since: a directory or a credential is gone.

    Raises:
        KeyConflict: A key belongs to a job that was asked for something else.
    """
    submitter = f"job:{caller.inside_job}" if caller.inside_job else caller.submitter
    found: list[Job] = []
    for request in requests:
        job = await desk.database(desk.store.find_key, submitter, request.key) if request.key else None
        if job is None:
            return ()
        if (job.spec.prompt, request.model or job.spec.model) != (request.prompt, job.spec.model):
            raise KeyConflict(key=request.key, job_id=job.id)
        found.append(job)
    return tuple(found)


async def _means(desk: Desk, caller: Caller, parent: Job | None) -> tuple[tuple[str, ...], str]:
    """Fingerprints that pay. A job's children use what it was given, whatever its environment holds."""
    if parent is not None:
        return parent.offers, f"the credentials of job {parent.id}"
    offer = await desk.tokens.offer(caller)
    return offer.fingerprints, offer.payer


async def _source(desk: Desk, request: JobRequest, parent: Job | None) -> Job | None:
    """The job whose session a request goes on with."""
    if not request.resume:
        return None
    source = await desk.database(desk.store.get, request.resume)
    if parent is not None and source.root_id != parent.root_id:
        message = f"Job {source.id!r} belongs to another tree: a job resumes jobs of its own tree only."
        raise NotPermitted(message, field="resume")
    if not source.is_terminal:
        message = f"Job {source.id!r} is {source.state.value}; its session can be resumed once it has ended. Wait for it with `result`."
        raise InvalidRequest(message, field="resume")
    if source.started_ms is None:
        message = f"Job {source.id!r} never ran, so it has no session to resume. Run it again with `retry`."
        raise InvalidRequest(message, field="resume")
    return source


def _complete(
    requests: Sequence[JobRequest],
    caller: Caller,
    offers: tuple[str, ...],
    rules: RequestRules,
    sites: Sequence[Site],
) -> tuple[Submission, ...]:
    done: list[Submission] = []
    for index, (request, site) in enumerate(zip(requests, sites, strict=True)):
        try:
            done.append(complete(request, caller, offers, rules, site))
        except (InvalidRequest, NotPermitted) as error:
            if len(requests) == 1:
                raise
            name = f"{index} ({request.id})" if request.id else f"{index}"
            raise type(error)(f"Item {name}: {error.message}", field=f"items.{index}.{error.field}") from None
    return tuple(done)


async def _check_own_tree(desk: Desk, submissions: Sequence[Submission], parent: Job) -> None:
    """A dependency's result can be read by its dependent."""
    others = {needed.job_id for one in submissions for needed in one.depends_on if not needed.job_id.startswith("#")}
    for job_id in sorted(others):
        if (await desk.database(desk.store.get, job_id)).root_id != parent.root_id:
            raise JobNotFound(job_id)


def _places(requests: Sequence[JobRequest]) -> dict[str, int]:
    ids = [request.id for request in requests if request.id]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise InvalidRequest(f"Two jobs have the id {twice[0]!r}. Ids within a batch are different.", field="id")
    return {request.id: index for index, request in enumerate(requests) if request.id}


def _check_circles(requests: Sequence[JobRequest], submissions: Sequence[Submission]) -> None:
    edges = {
        f"#{index}": [needed.job_id for needed in one.depends_on if needed.job_id.startswith("#")]
        for index, one in enumerate(submissions)
    }
    circle = find_cycle(edges)
    if circle:
        names = [requests[int(place[1:])].id or place for place in circle]
        message = f"These jobs wait for each other: {' -> '.join(names)}. Take one of the dependencies out."
        raise InvalidRequest(message, field="depends_on")
