"""open_app: the one place where the parts are put together. They are made here and run by `lifecycle`."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from claude_jobs.domain.token import Credential
from claude_jobs.factory_generation import GenerationPart
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import RetryRules
from claude_jobs.policy.slots import slots
from claude_jobs.runner.adopted import kill_adopted
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.executable import find_claude
from claude_jobs.runner.mcp_config import Access, sweep_all
from claude_jobs.runner.paths import Home
from claude_jobs.runner.sweep import sweep
from claude_jobs.runner.warm import WarmPool, WarmRules
from claude_jobs.services import machine
from claude_jobs.services.bell import Bell
from claude_jobs.services.cli_budget import CliBudget
from claude_jobs.services.database import StoreThread
from claude_jobs.services.desk import AttemptRules, Desk
from claude_jobs.services.generation_batch import BatchBook
from claude_jobs.services.jobs import JobManager
from claude_jobs.services.liveness import Liveness
from claude_jobs.services.login import LoginProbe
from claude_jobs.services.oversight import Oversight
from claude_jobs.services.recursion import RecursionManager, lineage_key, lineage_secret
from claude_jobs.services.request import RequestRules
from claude_jobs.services.results import ResultFiles
from claude_jobs.services.tokens import MultiTokenManager
from claude_jobs.services.worker import Worker, WorkerRules
from claude_jobs.settings import Settings
from claude_jobs.stores.base import Limits
from claude_jobs.stores.sqlite.store import open_sqlite

LOCAL_POOL = "local"
"""The pool of everything in an embedded store: it is on one machine by nature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The parts, open."""

    settings: Settings
    home: Home
    desk: Desk
    jobs: JobManager
    worker: Worker
    recursion: RecursionManager
    generation: GenerationPart
    batches: BatchBook
    oversight: Oversight
    keeper_pid: int
    submitter: str


@asynccontextmanager
async def open_app(
    settings: Settings,
    home: Home,
    *,
    keeper_pid: int = 0,
    is_reachable: bool = False,
    on_credentials: Callable[[Sequence[Credential]], None] | None = None,
) -> AsyncGenerator[App]:
    """All parts for one process, closed in the end. The worker is made but not run.

    Args:
        keeper_pid: Our parent if it is a keeper, whose other children are then orphans of jobs; 0 if it is not.
        is_reachable: Whether this process will listen on the home's socket, so that its jobs can spawn jobs.
        on_credentials: Told the credentials of callers whenever they change (the keeper holds them).

    Raises:
        StoreError: The state directory or its database cannot be used.
    """
    home.prepare()
    owner = uuid.uuid4().hex[:12]
    store = await asyncio.to_thread(open_sqlite, home.db_dir)
    key = lineage_key(home.lineage_key_file)
    database = StoreThread()
    made: list[JobManager] = []
    made_recursion: list[RecursionManager] = []
    generation = GenerationPart(settings, home, lambda: made[0])
    try:
        tokens = MultiTokenManager(
            store=store,
            database=database,
            env_file=home.env_file,
            is_logged_in=LoginProbe(lambda path: find_claude(settings.cli or None, path)),
            clock=now_ms,
            on_change=on_credentials or (lambda _: None),
        )
        desk = Desk(
            store=store,
            database=database,
            tokens=tokens,
            runner=ClaudeCli(
                settings.cli or None,
                pool=WarmPool(
                    rules=WarmRules(max_idle=slots(machine.cores(), settings.slots)), free_bytes=machine.free_bytes
                ),
                free_bytes=machine.free_bytes,
                max_live=settings.max_processes,
                worktrees=home.worktrees_dir,
                access=_access(home, owner) if is_reachable else None,
            ),
            results=ResultFiles(home.results_dir),
            bell=Bell(),
            work=Bell(),
            rules=_attempt_rules(settings, home, owner),
            lineage_secret=partial(lineage_secret, key),
            clock=now_ms,
            jitter=random.random,
            budget=CliBudget(generation.till, now_ms),
            wake=lambda job_id: made_recursion[0].wake(job_id),
        )
        liveness = Liveness(home.workers_dir, owner)
        await asyncio.to_thread(sweep_all, home.lineage_dir, liveness.dead)
        worker = Worker(
            owner=owner,
            desk=desk,
            liveness=liveness,
            sweep=lambda dead, processes: sweep(f"{home.home_id}:{dead}:", processes, home.lineage_dir / dead),
            collect=lambda oldest: kill_adopted(keeper_pid, oldest) if keeper_pid else (),
            rules=WorkerRules(
                slots=settings.slots,
                max_live=settings.max_processes,
                pools=(LOCAL_POOL,),
                keep_s=settings.keep_days * 86_400,
            ),
        )
        recursion = RecursionManager(
            store=store,
            database=database,
            limits=_recursion_limits(settings),
            key=key,
            home_id=home.home_id,
            keeper_pid=keeper_pid,
            clock=now_ms,
            hold=worker.hold,
            go_on=worker.go_on,
        )
        made_recursion.append(recursion)
        jobs = JobManager(
            desk=desk,
            rules=_request_rules(settings, home),
            recursion=recursion,
            queue_size=settings.queue_size,
            running=worker.attempt,
            clear_away=worker.clear_away,
            slots=lambda: worker.slots,
        )
        made.append(jobs)
        yield App(
            settings=settings,
            home=home,
            desk=desk,
            jobs=jobs,
            worker=worker,
            recursion=recursion,
            generation=generation,
            batches=BatchBook(home.batches_dir),
            oversight=Oversight(generation.gate_parts, now_ms),
            keeper_pid=keeper_pid,
            submitter=f"uid:{os.getuid()}",
        )
    finally:
        await generation.close()
        await database(store.close)
        database.close()


def _attempt_rules(settings: Settings, home: Home, owner: str) -> AttemptRules:
    return AttemptRules(
        limits=Limits(
            per_token=settings.token_concurrency,
            at_depth=settings.max_at_depth,
            depth=settings.max_depth,
            total=settings.max_total,
        ),
        retry=RetryRules(delay_ms=round(settings.retry_delay_s * 1000)),
        timeout_ceiling_s=settings.timeout_s,
        stall_s=settings.stall_s,
        mark_prefix=f"{home.home_id}:{owner}",
    )


def _access(home: Home, owner: str) -> Access:
    return Access(home=str(home.configured), directory=home.lineage_dir / owner)


def _recursion_limits(settings: Settings) -> RecursionLimits:
    return RecursionLimits(
        depth=settings.max_depth,
        at_depth=settings.max_at_depth,
        total=settings.max_total,
        rate=settings.max_spawn_rate,
    )


def _request_rules(settings: Settings, home: Home) -> RequestRules:
    return RequestRules(
        model=settings.model,
        max_attempts=settings.retry_attempts,
        timeout_ceiling_s=settings.timeout_s,
        pool=LOCAL_POOL,
        max_depth=settings.max_depth,
        worktrees=home.worktrees_dir,
        trusted_dirs=settings.trusted_dirs,
        allow_bypass=settings.allow_bypass,
    )


def now_ms() -> int:
    """Wall clock in milliseconds."""
    return time.time_ns() // 1_000_000
