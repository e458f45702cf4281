"""What the shell and other programs may ask over the private socket: names, parameters, answers. Logic is in the services."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import cast

from claude_jobs.domain.job import Job, PublicState
from claude_jobs.domain.token import TokenNote
from claude_jobs.errors import InvalidRequest, NotPermitted
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Emit, Method
from claude_jobs.rpc.packing import unpacked
from claude_jobs.rpc.params import Params, number, string, strings, whole
from claude_jobs.services import views
from claude_jobs.services.caller import Caller
from claude_jobs.services.desk import Desk
from claude_jobs.services.jobs import JobManager, Situation
from claude_jobs.services.models import CLI_MODELS
from claude_jobs.services.request import JobRequest
from claude_jobs.stores.base import JobFilter

MAX_WAIT_S = 7 * 86_400.0
_EVENTS = 1_000
"""Events read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the process itself can be asked to do; made by the factory.

    Attributes:
        lend: The keys of whoever opened HTTP serve those who ask over it.
    """

    health: Callable[[], Awaitable[dict[str, object]]]
    step_aside: Callable[[], Awaitable[None]]
    stop: Callable[[float], Awaitable[None]]
    http: Callable[[int | None], Awaitable[dict[str, object]]]
    lend: Callable[[Sequence[tuple[str, str]]], None]
    default_model: str


def caller_of(hello: Hello, submitter: str) -> Caller:
    """The services' view of a front. What one inside a job has in its environment is the job's, and no new offer."""
    inside = bool(hello.inside_job)
    return Caller(
        cwd=hello.cwd,
        submitter=submitter,
        inside_job=hello.inside_job,
        env=hello.env,
        profile=() if inside else hello.profile,
        credentials=() if inside else hello.credentials,
        keys=() if inside else hello.keys,
    )


def build_methods(*, jobs: JobManager, desk: Desk, control: Control, submitter: str) -> dict[str, Method]:
    """The method table of the private socket."""
    table = _Methods(jobs, desk, control, submitter)
    return {
        "submit": table.submit,
        "set_batch": table.set_batch,
        "jobs": table.list,
        "result": table.result,
        "report": table.report,
        "cancel": table.cancel,
        "retry": table.retry,
        "events": table.events,
        "tokens": table.tokens,
        "restore_token": table.restore_token,
        "hold": table.hold,
        "models": table.models,
        "billing": table.billing,
        "health": table.health,
        "step_aside": table.step_aside,
        "stop": table.stop,
        "http": table.http,
    }


class _Methods:
    def __init__(self, jobs: JobManager, desk: Desk, control: Control, submitter: str) -> None:
        self._jobs = jobs
        self._desk = desk
        self._control = control
        self._submitter = submitter

    def _caller(self, hello: Hello) -> Caller:
        return caller_of(hello, self._submitter)

    def _changes(self, job_id: str, wait_s: float, caller: Caller) -> AsyncGenerator[Situation]:
        return cast("AsyncGenerator[Situation]", self._jobs.wait(job_id, wait_s, caller))

    async def submit(self, params: Params, hello: Hello, emit: Emit) -> object:
        items = params.get("items")
        if not isinstance(items, list):
            raise InvalidRequest("`items` must be a list of jobs.", field="items")
        requests = [_request(item, index) for index, item in enumerate(cast("list[object]", items))]
        cap = whole(params, "max_parallel")
        submitted = await self._jobs.submit(
            requests,
            self._caller(hello),
            is_batch=bool(params.get("batch")),
            max_parallel=cap,
            fail_fast=bool(params.get("fail_fast")),
            batch_id=string(params, "batch_id"),
        )
        jobs: list[dict[str, object]] = []
        for receipt in submitted.receipts:
            view = views.job_view(Situation(job=receipt.job), self._desk.clock())
            jobs.append({**asdict(view), "is_new": receipt.is_new, "key": receipt.job.key})
        return {"jobs": jobs, "payer": submitted.payer, "batch_id": submitted.batch_id}

    async def set_batch(self, params: Params, hello: Hello, emit: Emit) -> object:
        batch_id, cap = string(params, "batch_id"), whole(params, "max_parallel")
        fail_fast = bool(params.get("fail_fast"))
        await self._jobs.set_batch(batch_id, self._caller(hello), max_parallel=cap, fail_fast=fail_fast)
        return {"ok": True}

    async def list(self, params: Params, hello: Hello, emit: Emit) -> object:
        caller = self._caller(hello)
        tree = string(params, "tree")
        query = JobFilter(
            ids=strings(params, "ids"),
            states=tuple(_state(name) for name in strings(params, "states")),
            batch_id=string(params, "batch_id"),
            root_id=(await self._jobs.get(tree, caller)).root_id if tree else "",
            label=string(params, "label"),
            unread_first=bool(params.get("unread_first", True)),
            limit=min(500, max(1, whole(params, "limit") or 20)),
            cursor=string(params, "cursor"),
        )
        page, situations = await self._jobs.list(query, caller)
        counts = await self._jobs.counts()
        jobs = [asdict(views.job_view(situation, self._desk.clock())) for situation in situations]
        if params.get("keys"):
            jobs = [{**job, **_handle(one.job)} for job, one in zip(jobs, situations, strict=True)]
        return {
            "jobs": jobs,
            "cursor": page.cursor,
            "total": page.total,
            "counts": {state.value: count for state, count in counts.by_state.items()},
            "unread": counts.unread,
        }

    async def result(self, params: Params, hello: Hello, emit: Emit) -> object:
        job_id = string(params, "job_id")
        wait_s = min(MAX_WAIT_S, number(params, "wait_s", 0.0))
        last: Situation | None = None
        async with aclosing(self._changes(job_id, wait_s, self._caller(hello))) as changes:
            async for situation in changes:
                last = situation
                if wait_s and not situation.job.is_terminal:
                    await emit(asdict(views.job_view(situation, self._desk.clock())))
        assert last is not None, "wait yields at least once"
        if params.get("mark_read", True):
            last = await self._jobs.mark_read(last)
        offset = max(0, whole(params, "offset") or 0)
        max_chars = max(1, whole(params, "max_chars") or views.PAGE_CHARS)
        return asdict(views.result_view(last, self._desk.clock(), offset=offset, max_chars=max_chars))

    async def cancel(self, params: Params, hello: Hello, emit: Emit) -> object:
        why = string(params, "why") or "cancelled by the user"
        cancelled = await self._jobs.cancel(strings(params, "job_ids"), why, self._caller(hello))
        return {"jobs": [views.cancel_view(one, self._desk.clock()) for one in cancelled]}

    async def retry(self, params: Params, hello: Hello, emit: Emit) -> object:
        tree = bool(params.get("tree"))
        retried = await self._jobs.retry(strings(params, "job_ids"), tree=tree, caller=self._caller(hello))
        now_ms = self._desk.clock()
        jobs = [asdict(views.job_view(Situation(job=job), now_ms)) for job in retried.jobs]
        return {"jobs": jobs, "note": retried.note}

    async def report(self, params: Params, hello: Hello, emit: Emit) -> object:
        query = JobFilter(batch_id=string(params, "batch_id"), ids=strings(params, "job_ids"))
        if not query.batch_id and not query.ids:
            raise InvalidRequest("Name a batch with `batch_id`, or jobs with `job_ids`.", field="batch_id")
        wait_s = min(MAX_WAIT_S, number(params, "wait_s", 0.0))
        return asdict(await self._jobs.report(query, self._caller(hello), wait_s=wait_s))

    async def events(self, params: Params, hello: Hello, emit: Emit) -> object:
        job_id, after = string(params, "job_id"), whole(params, "after") or 0
        many, caller = frozenset(strings(params, "job_ids")), self._caller(hello)
        for name in (many if caller.inside_job else ()) if many else (job_id,):
            await self._jobs.get(name, caller)  # that it exists, and may be read
        if params.get("follow"):
            async for event in self._jobs.follow(after, job_id, caller):
                after = event.seq
                await emit(views.event_view(event))
            return {"after": after}
        while events := await self._jobs.events(after, None if many else job_id, _EVENTS):
            after = events[-1].seq
            for event in events:
                if not many or event.job_id in many:
                    await emit(views.event_view(event))
        return {"after": after}

    async def tokens(self, params: Params, hello: Hello, emit: Emit) -> object:
        states = await self._desk.tokens.states()
        held, now_ms = self._desk.tokens.held(), self._desk.clock()
        shown = [views.token_view(s, is_held=s.fingerprint in held, now_ms=now_ms) for s in states.values()]
        return {"tokens": shown}

    async def restore_token(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        fingerprint = string(params, "fingerprint")
        if fingerprint not in await self._desk.tokens.states():
            raise InvalidRequest(f"No token {fingerprint!r}. See `claude-jobs tokens`.", field="fingerprint")
        await self._desk.tokens.note(fingerprint, TokenNote(restore=True))
        self._desk.work.ring()
        return {"ok": True}

    async def hold(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        await self._desk.tokens.take(unpacked(params.get("credentials")))
        self._desk.work.ring()
        return {"ok": True}

    async def models(self, params: Params, hello: Hello, emit: Emit) -> object:
        return {"models": [asdict(model) for model in CLI_MODELS], "default": self._control.default_model}

    async def billing(self, params: Params, hello: Hello, emit: Emit) -> object:
        offer = await self._desk.tokens.offer(self._caller(hello))
        return {"payer": offer.payer, "fingerprints": list(offer.fingerprints)}

    async def health(self, params: Params, hello: Hello, emit: Emit) -> object:
        return await self._control.health()

    async def step_aside(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        await self._control.step_aside()
        return {"ok": True}

    async def stop(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        await self._control.stop(number(params, "grace_s", 0.0))
        return {"ok": True}

    async def http(self, params: Params, hello: Hello, emit: Emit) -> object:
        _check_outside(hello)
        self._control.lend(() if hello.inside_job else hello.keys)
        return await self._control.http(whole(params, "port"))


def _handle(job: Job) -> dict[str, object]:
    """What programs know a job by, and whether its answer is still the one that others went by."""
    reopened_ms = job.queued_since_ms if job.reopened else None
    return {"key": job.key, "finished_ms": job.finished_ms, "reopened_ms": reopened_ms}


def _check_outside(hello: Hello) -> None:
    """A job does not steer the worker it runs in."""
    if hello.inside_job:
        message = f"Job {hello.inside_job!r} may not do this to the worker it runs in. Ask from a session of your own."
        raise NotPermitted(message, field="lineage")


def _request(item: object, index: int) -> JobRequest:
    if not isinstance(item, dict):
        raise InvalidRequest(f"Item {index} is not an object with a `prompt`.", field=f"items.{index}")
    try:
        return JobRequest.parse(cast("dict[str, object]", item))
    except InvalidRequest as error:
        if index:
            raise InvalidRequest(f"Item {index}: {error.message}", field=f"items.{index}.{error.field}") from None
        raise


def _state(name: str) -> PublicState:
    try:
        return PublicState(name)
    except ValueError:
        known = ", ".join(state.value for state in PublicState)
        raise InvalidRequest(f"Unknown state {name!r}. Known are: {known}.", field="states") from None
