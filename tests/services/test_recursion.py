"""A job that waits gives its permits back, and never waits for itself. The key behind the secrets."""

from __future__ import annotations

import asyncio
import itertools
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support_processes import PATIENCE_S

from claude_jobs.domain.job import Dependency, Job, JobSpec, JobState, Outcome, Submission
from claude_jobs.domain.token import TokenKind
from claude_jobs.errors import JobNotFound, NotPermitted, StoreUnavailable
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.services.database import StoreThread
from claude_jobs.services.recursion import KEY_BYTES, RecursionManager, lineage_key, lineage_secret
from claude_jobs.stores.base import AdmitRequest, JobStore, Limits, SubmitRequest
from claude_jobs.stores.sqlite.store import open_sqlite

OWNER = "here"


@dataclass
class Bench:
    """A store with jobs in it, and the manager over it."""

    store: JobStore
    manager: RecursionManager
    told: list[tuple[str, str]]
    clock: itertools.count[int] = field(default_factory=lambda: itertools.count(1_000))

    def submit(self, parent: str | None = None, *needs: str) -> str:
        """A new job's id."""
        item = Submission(
            spec=JobSpec(prompt=f"work {next(self.clock)}", model="m", cwd="/"),
            offers=("token",),
            submitter="me",
            pool="local",
            parent_id=parent,
            depends_on=tuple(Dependency(name=one, job_id=one) for one in needs),
        )
        (receipt,) = self.store.submit(SubmitRequest(submissions=(item,), now_ms=next(self.clock)))
        return receipt.job.id

    def admit(self) -> list[str]:
        """Give out all that may run, and begin it."""
        request = AdmitRequest(
            owner=OWNER,
            free=100,
            pools=("local",),
            held=frozenset({"token"}),
            limits=Limits(per_token=100),
            now_ms=next(self.clock),
        )
        grants = self.store.admit(request).grants
        for grant in grants:
            assert self.store.begin(grant.job.id, grant.epoch, None, next(self.clock))
        return [grant.job.id for grant in grants]

    def running(self, parent: str | None = None) -> str:
        job_id = self.submit(parent)
        assert job_id in self.admit()
        return job_id

    def end(self, job_id: str) -> None:
        done = Disposition(trigger=Trigger.SUCCEED)
        assert self.store.finish(
            job_id, self.store.get(job_id).epoch, Outcome(text="done"), done, None, next(self.clock)
        )

    def state(self, job_id: str) -> JobState:
        return self.store.get(job_id).state


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store, database = open_sqlite(tmp_path), StoreThread()
    store.register_tokens([("token", "token", TokenKind.OAUTH)], 1)
    told: list[tuple[str, str]] = []
    clock = itertools.count(1_000)
    manager = RecursionManager(
        store=store,
        database=database,
        limits=RecursionLimits(),
        key=b"k" * KEY_BYTES,
        home_id="home",
        keeper_pid=0,
        clock=lambda: next(clock),
        hold=lambda job_id: told.append(("hold", job_id)),
        go_on=lambda job_id: told.append(("go on", job_id)),
    )
    yield Bench(store=store, manager=manager, told=told, clock=clock)
    database.close()
    store.close()


async def test_a_job_that_waits_is_blocked_and_its_permits_are_free(bench: Bench) -> None:
    parent = bench.running()
    child = bench.submit(parent)

    async with bench.manager.waiting(parent, child):
        held = (bench.state(parent), bench.store.get(parent).permits, list(bench.told))

    assert held == (JobState.BLOCKED, (), [("hold", parent)])
    assert bench.state(parent) is JobState.RUNNING
    assert bench.store.get(parent).permits
    assert bench.told == [("hold", parent), ("go on", parent)]


async def test_it_goes_on_when_the_last_of_its_waits_ends(bench: Bench) -> None:
    parent = bench.running()
    children = [bench.submit(parent) for _ in range(3)]
    states: list[JobState] = []
    async with AsyncExitStack() as last:
        await last.enter_async_context(bench.manager.waiting(parent, children[0]))
        for child in children:
            async with bench.manager.waiting(parent, child):
                states.append(bench.state(parent))
            states.append(bench.state(parent))

    assert set(states) == {JobState.BLOCKED}
    assert bench.state(parent) is JobState.RUNNING
    assert bench.told == [("hold", parent), ("go on", parent)]


async def test_many_waits_that_begin_and_end_at_once_block_once(bench: Bench) -> None:
    parent = bench.running()
    children = [bench.submit(parent) for _ in range(20)]
    everyone = asyncio.Barrier(len(children))

    async def wait(child: str) -> JobState:
        async with bench.manager.waiting(parent, child):
            await everyone.wait()
            return bench.state(parent)

    states = await asyncio.gather(*(wait(child) for child in children))

    assert set(states) == {JobState.BLOCKED}
    assert bench.state(parent) is JobState.RUNNING
    assert bench.told == [("hold", parent), ("go on", parent)]


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 10])
async def test_a_wait_that_is_cancelled_anywhere_unblocks(bench: Bench, rounds: int) -> None:
    """The client hung up: at the check, at the block, or later; and again, while it was being unblocked."""
    parent = bench.running()
    child = bench.submit(parent)

    async def wait() -> None:
        async with bench.manager.waiting(parent, child):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    for _ in range(rounds):
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with bench.manager.waiting(parent, child):
        assert bench.state(parent) is JobState.BLOCKED

    assert bench.state(parent) is JobState.RUNNING
    assert [what for what, _ in bench.told[-2:]] == ["hold", "go on"]


async def test_a_wait_whose_job_ended_or_was_taken_over_just_ends(bench: Bench) -> None:
    ended, lost = bench.running(), bench.running()
    target = bench.submit()

    async with bench.manager.waiting(ended, target), bench.manager.waiting(lost, target):
        bench.end(ended)
        request = AdmitRequest(
            owner="there",
            free=0,
            pools=("local",),
            held=frozenset(),
            limits=Limits(),
            now_ms=next(bench.clock),
            dead=frozenset({OWNER}),
        )
        bench.store.admit(request)

    assert bench.state(ended) is JobState.SUCCEEDED
    assert bench.state(lost) is JobState.READY


async def test_the_block_is_in_the_log(bench: Bench) -> None:
    parent = bench.running()
    async with bench.manager.waiting(parent, bench.submit(parent)):
        pass

    kinds = [event.kind.value for event in bench.store.read(0, parent)]
    assert kinds[-2:] == ["blocked", "unblocked"]


async def refused(bench: Bench, job_id: str, target_id: str) -> str:
    with pytest.raises(NotPermitted) as caught:
        async with bench.manager.waiting(job_id, target_id):
            raise AssertionError("it may not wait")
    assert bench.state(job_id) in (JobState.RUNNING, JobState.BLOCKED)
    return caught.value.message


async def test_nobody_waits_for_itself_or_for_an_ancestor(bench: Bench) -> None:
    root = bench.running()
    child = bench.running(root)
    leaf = bench.running(child)

    assert f"{leaf!r} cannot wait for {leaf!r}" in await refused(bench, leaf, leaf)
    assert f"{child} spawned {leaf}" in await refused(bench, leaf, child)
    assert f"{root} spawned {child} spawned {leaf}" in await refused(bench, leaf, root)
    assert bench.told == []


async def test_waits_in_a_circle_are_refused_and_shown(bench: Bench) -> None:
    one, two, three = bench.running(), bench.running(), bench.running()

    async with bench.manager.waiting(one, two), bench.manager.waiting(two, three):
        shown = await refused(bench, three, one)
        async with bench.manager.waiting(one, three):
            pass

    assert f"{three} waits for {one} waits for {two} waits for {three}" in shown
    async with bench.manager.waiting(three, one):
        assert bench.state(three) is JobState.BLOCKED


async def test_a_circle_over_dependencies_is_refused(bench: Bench) -> None:
    waiter = bench.running()
    middle = bench.submit(None, waiter)
    target = bench.submit(None, bench.submit(), middle)
    assert bench.state(target) is JobState.WAITING

    shown = await refused(bench, waiter, target)

    assert f"{waiter} waits for {target} waits for {middle} waits for {waiter}" in shown


async def test_a_circle_over_dependencies_and_waits_is_refused(bench: Bench) -> None:
    """The parent waits for its child; the child would wait for a job that needs the parent."""
    parent = bench.running()
    child = bench.running(parent)
    after = bench.submit(None, parent)

    async with bench.manager.waiting(parent, child):
        shown = await refused(bench, child, after)

    assert f"{child} waits for {after} waits for {parent} waits for {child}" in shown
    async with bench.manager.waiting(child, after):
        assert f"{parent} waits for {child} waits for {after} waits for {parent}" in await refused(bench, parent, child)


async def test_two_that_begin_to_wait_for_each_other_at_once_do_not_both(bench: Bench) -> None:
    one, two = bench.running(), bench.running()
    both = asyncio.Event()

    async def wait(job_id: str, target_id: str) -> bool:
        try:
            async with bench.manager.waiting(job_id, target_id):
                async with asyncio.timeout(PATIENCE_S):
                    await both.wait()
        except NotPermitted:
            both.set()
            return False
        return True

    assert False in await asyncio.gather(wait(one, two), wait(two, one))
    assert {bench.state(one), bench.state(two)} == {JobState.RUNNING}


async def test_a_chain_begins_at_the_root(bench: Bench) -> None:
    root = bench.running()
    child = bench.running(root)
    leaf = bench.submit(child)

    def ids(chain: tuple[Job, ...]) -> list[str]:
        return [job.id for job in chain]

    assert ids(await bench.manager.chain(leaf)) == [root, child, leaf]
    assert ids(await bench.manager.chain(root)) == [root]
    with pytest.raises(JobNotFound):
        await bench.manager.chain("j-nobody")


async def test_a_process_of_nobody_is_outside_also_where_nothing_can_be_known(bench: Bench) -> None:
    """pid 0 is what the kernel says of a peer in another pid namespace."""
    job = bench.running()

    assert await bench.manager.identify(job_id="", epoch=0, secret="", pid=0) == ""
    assert await bench.manager.identify(job_id=job, epoch=1, secret="", pid=0) == job
    assert await bench.manager.identify(job_id=job, epoch=1, secret=bench.manager.secret(job, 1), pid=0) == job
    for epoch, secret in ((2, ""), (2, bench.manager.secret(job, 2)), (1, bench.manager.secret(job, 2))):
        with pytest.raises(NotPermitted):
            await bench.manager.identify(job_id=job, epoch=epoch, secret=secret, pid=0)


def test_secrets_differ_by_key_job_and_epoch() -> None:
    key, other = b"a" * KEY_BYTES, b"b" * KEY_BYTES
    all_of_them = [lineage_secret(k, job, n) for k in (key, other) for job in ("j-1", "j-2") for n in (1, 2, 12)]

    assert len(set(all_of_them)) == len(all_of_them)
    assert {len(secret) for secret in all_of_them} == {64}
    assert lineage_secret(key, "j-1", 1) == all_of_them[0]


def test_many_processes_that_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lineage.key"
    code = (
        "import sys; from pathlib import Path; from claude_jobs.services.recursion import lineage_key; "
        "print(lineage_key(Path(sys.argv[1])).hex())"
    )
    argv = [sys.executable, "-c", code, str(path)]
    makers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    keys = {maker.communicate(timeout=PATIENCE_S)[0].strip() for maker in makers}

    assert keys == {lineage_key(path).hex()}
    assert len(lineage_key(path)) == KEY_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damaged", [b"", b"short", b"x" * 100])
def test_a_damaged_key_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "lineage.key"
    path.write_bytes(damaged)
    path.chmod(0o644)

    assert lineage_key(path) == lineage_key(path) == path.read_bytes()
    assert len(path.read_bytes()) == KEY_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_cannot_be_had_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="remove it"):
        lineage_key(tmp_path)
