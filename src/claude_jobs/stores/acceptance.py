"""What becomes of a request to accept jobs: keys, lineage, limits, budgets, dependencies, sessions. Nothing is stored here.

Every store asks the same questions (`Register`) inside its transaction and stores the jobs that come back.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from claude_jobs.domain.event import EventKind, NewEvent, Scalar
from claude_jobs.domain.job import TERMINAL, Dependency, Job, JobSpec, JobState, Reason, Submission
from claude_jobs.domain.usage import Usage, nusd
from claude_jobs.errors import InvalidRequest, JobNotFound, KeyConflict, QueueFull
from claude_jobs.policy import recursion
from claude_jobs.policy.dependencies import Verdict, verdict
from claude_jobs.policy.rank import rank
from claude_jobs.policy.recursion import Tree
from claude_jobs.stores.base import Receipt, SubmitRequest

ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LENGTH = 5
TRIES_PER_LENGTH = 4
OF_REQUEST = "#"
"""Before the index of a job of the same request, in place of an id."""


class Register(Protocol):
    """What a store knows about the jobs it has already."""

    def queued(self) -> int:
        """Jobs that wait for their turn."""
        ...

    def find_key(self, submitter: str, key: str) -> Job | None:
        """The whole job that owns an idempotency key."""
        ...

    def find(self, job_id: str) -> Job | None:
        """The whole job."""
        ...

    def state(self, job_id: str) -> JobState | None:
        """Where a job stands; None if there is none of that id."""
        ...

    def below(self, job: Job) -> Sequence[Job]:
        """All its descendants."""
        ...

    def tree(self, root_id: str, now_ms: int) -> Tree:
        """What is counted of a tree."""
        ...

    def session_user(self, session_id: str) -> str | None:
        """The unfinished job that runs, or will run, in a session."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """`new` are to be stored, in this order; the receipts name them and the ones that were there before."""

    receipts: tuple[Receipt, ...]
    new: tuple[Job, ...]


def accept(register: Register, request: SubmitRequest) -> Accepted:
    """What a request comes to. Raises what JobStore.submit raises."""
    return _Acceptance(register, request).decide()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a new job belongs: its ancestors, root first, and its number in their tree."""

    chain: tuple[Job, ...] = ()
    ordinal: int = 1


class _Acceptance:
    """One request; what it makes counts for the rest of it."""

    def __init__(self, register: Register, request: SubmitRequest) -> None:
        self._register = register
        self._request = request
        self._ids: list[str] = []
        self._old: dict[str, Job] = {}
        self._new: dict[str, Submission] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._chains: dict[str, tuple[Job, ...]] = {}
        self._trees: dict[str, Tree] = {}
        self._sessions: set[str] = set()

    def decide(self) -> Accepted:
        for item in self._request.submissions:
            self._ids.append(self._recognise(item))
        places = {job_id: self._place(item) for job_id, item in self._new.items()}
        self._share_budgets()
        made = {job_id: self._make(job_id, item, places[job_id]) for job_id, item in self._new.items()}
        self._check_room()
        seen: set[str] = set()
        receipts: list[Receipt] = []
        for job_id in self._ids:
            receipts.append(
                Receipt(job=made.get(job_id) or self._old[job_id], is_new=job_id in made and job_id not in seen)
            )
            seen.add(job_id)
        return Accepted(receipts=tuple(receipts), new=tuple(made.values()))

    def _recognise(self, item: Submission) -> str:
        """The id of the job that a submission stands for."""
        name = (item.submitter, item.key)
        twin_id = self._keys.get(name)
        if twin_id:
            _check_twin(self._new[twin_id], item)
            return twin_id
        existing = self._register.find_key(*name) if item.key else None
        if existing:
            check_same(existing, item)
            self._old[existing.id] = existing
            return existing.id
        job_id = new_id(lambda taken: taken in self._new or self._register.state(taken) is not None)
        self._new[job_id] = item
        if item.key:
            self._keys[name] = job_id
        return job_id

    def _place(self, item: Submission) -> _Place:
        if item.parent_id is None:
            return _Place()
        now_ms, limits = self._request.now_ms, self._request.recursion
        chain = self._chain(item.parent_id)
        root_id = chain[-1].root_id
        tree = self._trees.get(root_id) or self._register.tree(root_id, now_ms)
        if limits is not None:
            recursion.check(chain, item, tree, limits, now_ms)
        self._trees[root_id] = Tree(total=tree.total + 1, recent_ms=(*tree.recent_ms, now_ms))
        return _Place(chain=chain, ordinal=tree.total + 1)

    def _chain(self, parent_id: str) -> tuple[Job, ...]:
        if parent_id not in self._chains:
            parent = self._register.find(parent_id)
            if parent is None:
                raise JobNotFound(parent_id)
            check_parent(parent)
            links = [parent]
            while (above := links[-1].parent_id) is not None and (job := self._register.find(above)) is not None:
                links.append(job)
            self._chains[parent_id] = tuple(reversed(links))
        return self._chains[parent_id]

    def _share_budgets(self) -> None:
        """Those that name a budget come first; what stays is shared evenly by the others and their parent."""
        if self._request.recursion is None:
            return
        for parent_id, chain in self._chains.items():
            parent = chain[-1]
            if parent.spec.max_cost_usd is None:
                continue
            left_nusd = recursion.left_nusd(parent, self._register.below(parent)) or 0
            items = [(job_id, item) for job_id, item in self._new.items() if item.parent_id == parent_id]
            items.sort(key=lambda pair: pair[1].spec.max_cost_usd is None)
            for place, (job_id, item) in enumerate(items):
                funded = recursion.share(item, left_nusd, len(items) - place, chain=chain)
                left_nusd -= nusd(funded.spec.max_cost_usd or 0)
                self._new[job_id] = funded

    def _make(self, job_id: str, item: Submission, place: _Place) -> Job:
        resolved = replace(item, depends_on=tuple(self._resolved(one) for one in item.depends_on))
        self._check_session(item)
        return accepted(
            resolved,
            job_id=job_id,
            parent=place.chain[-1] if place.chain else None,
            ordinal=place.ordinal,
            is_waiting=self._is_waiting(resolved),
            batch_id=self._request.batch_id,
            now_ms=self._request.now_ms,
        )

    def _resolved(self, dependency: Dependency) -> Dependency:
        if not dependency.job_id.startswith(OF_REQUEST):
            return dependency
        index = dependency.job_id.removeprefix(OF_REQUEST)
        if not index.isdecimal() or int(index) >= len(self._ids):
            message = f"{dependency.job_id!r} is none of the {len(self._ids)} jobs of this request. Count from #0."
            raise InvalidRequest(message, field="depends_on")
        return replace(dependency, job_id=self._ids[int(index)])

    def _is_waiting(self, item: Submission) -> bool:
        states = {one.job_id: self._state(one.job_id) for one in item.depends_on}
        found = verdict(tuple(states.values()), item.needs, item.on)
        if found is Verdict.FAILED:
            failed = TERMINAL - {JobState.SUCCEEDED}
            lost = [f"{job_id} {state.value}" for job_id, state in states.items() if state in failed]
            message = (
                f"This job could never run: it needs the success of jobs that have ended without ({', '.join(lost[:5])}). "
                "Retry them first, or ask for their end only (on=end)."
            )
            raise InvalidRequest(message, field="depends_on")
        return found is Verdict.PENDING

    def _state(self, job_id: str) -> JobState:
        if job_id in self._new:
            return JobState.WAITING
        state = self._register.state(job_id)
        if state is None:
            raise JobNotFound(job_id)
        return state

    def _check_session(self, item: Submission) -> None:
        if not item.session_id:
            return
        user = "another job of this request" if item.session_id in self._sessions else None
        check_session(item.session_id, user or self._register.session_user(item.session_id), field="resume")
        self._sessions.add(item.session_id)

    def _check_room(self) -> None:
        limit, queued = self._request.queue_size, self._register.queued()
        if self._new and queued + len(self._new) > limit:
            raise QueueFull(limit=limit, queued=queued, asked=len(self._new))


def new_id(is_taken: Callable[[str], bool]) -> str:
    """A short, speakable id that is not taken; longer where the short ones are crowded."""
    tries = 0
    while True:
        length = ID_LENGTH + tries // TRIES_PER_LENGTH
        job_id = "j-" + "".join(secrets.choice(ID_ALPHABET) for _ in range(length))
        if not is_taken(job_id):
            return job_id
        tries += 1


def check_same(existing: Job, submission: Submission) -> None:
    """Whether a submission asks for the same as the job that has its key.

    Raises:
        KeyConflict: It asks for something else.
    """
    asked = submission.spec
    if existing.parent_id is not None and asked.max_cost_usd is None:
        asked = replace(asked, max_cost_usd=existing.spec.max_cost_usd)  # its share of the parent's budget
    if _asked(existing.spec) != _asked(asked):
        raise KeyConflict(key=submission.key, job_id=existing.id)


def _check_twin(first: Submission, second: Submission) -> None:
    if (_asked(first.spec), first.depends_on) != (_asked(second.spec), second.depends_on):
        message = f"Two jobs of this batch have the key {first.key!r} and ask for different things. Use two keys."
        raise InvalidRequest(message, field="key")


def _asked(spec: JobSpec) -> JobSpec:
    """The environment is captured, not asked for."""
    return replace(spec, env=())


def check_parent(parent: Job) -> None:
    """Raises InvalidRequest if a job may no longer get children."""
    if parent.is_terminal or parent.cancel_why is not None:
        word = parent.state.value if parent.is_terminal else "being cancelled"
        message = f"Job {parent.id!r} is {word}: it cannot have new children. Submit the job without a parent."
        raise InvalidRequest(message, field="parent_id")


def check_session(session_id: str, user: str | None, *, field: str) -> None:
    """Raises InvalidRequest if somebody else is about to write into a session."""
    if user:
        message = (
            f"Session {session_id!r} is in use by {user}, which has not ended. "
            "Wait for its end, or go on in a copy (fork=true)."
        )
        raise InvalidRequest(message, field=field)


def accepted(
    submission: Submission,
    *,
    job_id: str,
    parent: Job | None,
    ordinal: int,
    is_waiting: bool,
    batch_id: str,
    now_ms: int,
) -> Job:
    """The job that a submission becomes. A child is never behind its parent: that one cannot end before it."""
    is_early = submission.not_before_ms is not None and submission.not_before_ms > now_ms
    own_rank = rank(now_ms, submission.priority)
    return Job(
        id=job_id,
        spec=submission.spec,
        state=JobState.WAITING if is_waiting else JobState.DELAYED if is_early else JobState.READY,
        reason=Reason.DEPENDENCY if is_waiting else Reason.NONE,
        root_id=parent.root_id if parent else job_id,
        depth=parent.depth + 1 if parent else 0,
        ordinal=ordinal,
        depends_on=submission.depends_on,
        needs=submission.needs,
        on=submission.on,
        offers=submission.offers,
        submitter=submission.submitter,
        pool=submission.pool,
        session_id=submission.session_id or str(uuid.uuid4()),
        session_cost_nusd=submission.session_cost_nusd,
        rank=min(own_rank, parent.rank) if parent else own_rank,
        created_ms=now_ms,
        queued_since_ms=now_ms,
        usage=Usage(),
        parent_id=submission.parent_id,
        batch_id=batch_id,
        key=submission.key,
        priority=submission.priority,
        label=submission.label,
        labels=submission.labels,
        org=submission.org,
        not_before_ms=submission.not_before_ms,
        deadline_ms=submission.deadline_ms,
    )


def submitted_event(job: Job) -> NewEvent:
    """Says what was accepted."""
    batch: dict[str, Scalar] = {"batch_id": job.batch_id} if job.batch_id else {}
    data: dict[str, Scalar] = {
        "state": job.state.value,
        "model": job.spec.model,
        "priority": job.priority,
        **batch,
        "parent_id": job.parent_id,
        "root_id": job.root_id,
        "depth": job.depth,
        "ordinal": job.ordinal,
    }
    return NewEvent(kind=EventKind.SUBMITTED, data=data)
