"""A worker that starts what it is told in a claude's place, and says of each front which job it runs in. Run by a real keeper."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from claude_jobs.domain.job import Failure, Job, JobSpec, Outcome, ProcessRef, Submission
from claude_jobs.domain.token import TokenKind
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Emit
from claude_jobs.rpc.server import Server
from claude_jobs.rpc.table import caller_of
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home
from claude_jobs.services.database import StoreThread
from claude_jobs.services.recursion import RecursionManager, lineage_key
from claude_jobs.stores.base import AdmitRequest, Limits, SubmitRequest
from claude_jobs.stores.sqlite.store import open_sqlite

Params = Mapping[str, Any]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Bench:
    """The parts of a worker that know about lineage, and nothing else of one."""

    def __init__(self) -> None:
        self.home = Home.resolve(os.environ)
        self.store = open_sqlite(self.home.db_dir)
        self.children: list[subprocess.Popen[bytes]] = []
        self.recursion = RecursionManager(
            store=self.store,
            database=StoreThread(),
            limits=RecursionLimits(),
            key=lineage_key(self.home.lineage_key_file),
            home_id=self.home.home_id,
            keeper_pid=os.getppid(),
            clock=now_ms,
            hold=lambda _: None,
            go_on=lambda _: None,
        )
        self.store.register_tokens([("token", "token", TokenKind.OAUTH)], now_ms())

    async def identify(self, hello: Hello) -> str:
        said = hello.lineage
        return await self.recursion.identify(
            job_id=said.job if said else "",
            epoch=said.epoch if said else 0,
            secret=said.secret if said else "",
            pid=hello.peer_pid,
        )

    async def who(self, params: Params, hello: Hello, emit: Emit) -> object:
        caller = caller_of(hello, "me")
        return {"inside": caller.inside_job, "credentials": len(caller.credentials), "profile": len(caller.profile)}

    async def job(self, params: Params, hello: Hello, emit: Emit) -> object:
        """A job that `owner` holds and begins, with no process yet."""
        item = Submission(
            spec=JobSpec(prompt="work", model="m", cwd="/"), offers=("token",), submitter="me", pool="local"
        )
        self.store.submit(SubmitRequest(submissions=(item,), now_ms=now_ms()))
        return self._admitted(params.get("owner", "mine"))

    def _admitted(self, owner: str) -> dict[str, object]:
        request = AdmitRequest(
            owner=owner,
            free=1,
            pools=("local",),
            held=frozenset({"token"}),
            limits=Limits(per_token=100),
            now_ms=now_ms(),
        )
        (grant,) = self.store.admit(request).grants
        assert self.store.begin(grant.job.id, grant.epoch, None, now_ms())
        return self._told(grant.job)

    def _told(self, job: Job) -> dict[str, object]:
        return {
            "job_id": job.id,
            "epoch": job.epoch,
            "secret": self.recursion.secret(job.id, job.epoch),
            "mark": f"{self.home.home_id}:{job.owner}:{job.id}:{job.epoch}",
        }

    async def run(self, params: Params, hello: Hello, emit: Emit) -> object:
        """Start `argv` as a child of ours with the environment `env`: the job's claude."""
        child = subprocess.Popen(params["argv"], env=params["env"], stdin=subprocess.DEVNULL, start_new_session=True)
        self.children.append(child)
        return child.pid

    async def record(self, params: Params, hello: Hello, emit: Emit) -> object:
        """Put a process on record as that of a job's attempt."""
        proc = proctree.look(params["pid"])
        assert proc is not None
        ref = ProcessRef(pid=proc.pid, pgid=proc.pgid, started_ticks=proc.started_ticks, boot_id=proctree.boot_id())
        return self.store.begin(params["job_id"], params["epoch"], ref, now_ms())

    async def end(self, params: Params, hello: Hello, emit: Emit) -> object:
        """End a job's attempt; with `again` it begins its next one at once."""
        again = bool(params.get("again"))
        outcome = Outcome(failure=Failure.CRASHED, message="gone") if again else Outcome(text="done")
        disposition = Disposition(
            trigger=Trigger.RETRY_NOW if again else Trigger.SUCCEED, failure=outcome.failure, message=outcome.message
        )
        assert self.store.finish(params["job_id"], params["epoch"], outcome, disposition, None, now_ms())
        return self._admitted("mine") if again else {}


async def mcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
    """Answers each line with who asks."""
    while await reader.readline():
        writer.write(json.dumps({"inside": hello.inside_job}).encode() + b"\n")
        await writer.drain()


async def main() -> None:
    keeper = socket.socket(fileno=int(sys.argv[sys.argv.index("--keeper-fd") + 1]))
    bench = Bench()
    methods = {"who": bench.who, "job": bench.job, "run": bench.run, "record": bench.record, "end": bench.end}
    server = Server(home=bench.home, version="0.1.0", worker="mine", methods=methods, mcp=mcp, identify=bench.identify)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        asyncio.get_running_loop().add_reader(keeper.fileno(), lambda: keeper.recv(65536) or stop.set())
        await stop.wait()
        asyncio.get_running_loop().remove_reader(keeper.fileno())
        server.abort()
        await serving
    for child in bench.children:
        child.kill()
        child.wait()
    keeper.close()


asyncio.run(main())
