"""Chaos on one machine: fronts that ask for everything at once, workers that are killed, stopped and sent astray.

Everything random comes from one seed: what is asked for, what is broken, and when. The operating system's scheduling is
not in our hands, so a seed replays the storm, not each interleaving.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from support_processes import end, wait_until
from support_worker import SECRETS, Place, kill_hard, place

from chaos.remains import strangers
from chaos.stand_ins import KINDS, ONE_JOB, SPAWN, served, talker
from claude_jobs.errors import ClaudeJobsError, KeyConflict, RecursionRefused, WorkerLost
from claude_jobs.rpc.client import Client
from claude_jobs.runner import proctree

SLOTS = 6
LIMITS = {
    "CLAUDE_JOBS_SLOTS": str(SLOTS),
    "CLAUDE_JOBS_TOKEN_CONCURRENCY": "4",
    "CLAUDE_MAX_RECURSION_DEPTH": "2",
    "CLAUDE_MAX_CONCURRENT_AT_DEPTH": "7",
    "CLAUDE_MAX_TOTAL_JOBS": "6",
    "CLAUDE_JOBS_MAX_SPAWN_RATE": "60",
    "CLAUDE_QUEUE_SIZE": "400",
    "CLAUDE_JOBS_STALL_SECONDS": "3",
    "CLAUDE_JOBS_DRAIN_SECONDS": "1",
    "CLAUDE_JOBS_LOG_LEVEL": "warning",
}
CLOCK_RANGE_S = 90.0
SETTLE_S = 240.0
ODD_WORKERS = 2
AGAIN, AHEAD = "conversations in a used process", "in one started ahead"


@dataclass
class Storm:
    """One storm and what its fronts were told.

    Attributes:
        is_warm: Its stand-in holds many conversations in one process, and is started ahead.
        accepted: Ids that a front was given for a submission.
        batches: max_parallel of each batch that a front was given for one.
        keys: Job ids that each idempotency key was answered with.
        done: How often each thing was done.
    """

    here: Place
    seed: int
    seconds: float
    disk: Path | None = None
    is_warm: bool = False
    accepted: list[str] = field(default_factory=list[str])
    batches: dict[str, int | None] = field(default_factory=dict[str, int | None])
    keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    done: Counter[str] = field(default_factory=Counter[str])
    odd: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    errors: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def stranger_s(self) -> str:
        """How long strangers of this storm sleep, by which they are told from others."""
        return f"600.{self.seed}"

    def blow(self) -> None:
        """The whole storm, from the first front to the calm after it."""
        agents = [(self._front, n) for n in range(3)] + [(self._breaker, 100), (self._odd_workers, 200)]
        threads = [threading.Thread(target=self._guarded, args=(agent, number)) for agent, number in agents]
        for thread in threads:
            thread.start()
        try:
            self._over.wait(self.seconds)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        self._calm()

    def _guarded(self, agent: Callable[[random.Random], None], number: int) -> None:
        try:
            agent(random.Random(f"{self.seed}:{number}"))
        except Exception as error:  # noqa: BLE001 - told at the end: a thread's own death is a finding, not a crash of the storm
            self.errors.append(f"{agent.__name__}: {type(error).__name__}: {error}")
            self._over.set()

    # Fronts

    def _front(self, dice: random.Random) -> None:
        """One front after another, each of which asks for a few things and hangs up."""
        while not self._over.is_set():
            try:
                client = self.here.client()
                for _ in range(dice.randint(1, 12)):
                    self._ask(dice, client)
                    if self._over.wait(dice.uniform(0.0, 0.3)):
                        break
                client.close()
            except ClaudeJobsError as error:
                self._count(f"front met {error.code}")
                self._over.wait(0.2)

    def _ask(self, dice: random.Random, client: Client) -> None:
        ask = dice.choices(
            (self._submit, self._submit_graph, self._submit_key, self._cancel, self._retry, self._look),
            (6, 3, 3, 1, 1, 2),
        )[0]
        try:
            ask(dice, client)
            self._count(ask.__name__)
        except (WorkerLost, KeyConflict, RecursionRefused):
            raise
        except ClaudeJobsError as error:
            self._count(f"{ask.__name__} met {error.code}")

    def _submit(self, dice: random.Random, client: Client) -> None:
        self._send(client, [self._item(dice)])

    def _submit_graph(self, dice: random.Random, client: Client) -> None:
        """A batch in which jobs depend on earlier ones."""
        items = [self._item(dice) | {"id": f"n{n}"} for n in range(dice.randint(2, 9))]
        for n, item in enumerate(items[1:], 1):
            item["depends_on"] = [f"n{m}" for m in range(n) if dice.random() < 0.3]
            item["needs"], item["on"] = dice.choice(("all", "any")), dice.choice(("success", "end"))
        with self._lock:
            joined = dice.choice(list(self.batches)) if self.batches and dice.random() < 0.2 else ""
            cap = self.batches[joined] if joined else dice.choice((None, 1, 2, 4))
        self._send(client, items, max_parallel=cap, fail_fast=dice.random() < 0.2, batch_id=joined)

    def _submit_key(self, dice: random.Random, client: Client) -> None:
        """The same key again and again, also from other fronts: one job."""
        number = dice.randint(0, 15)
        item = {"prompt": f"quick, of key {number}", "key": f"key-{number}"}
        (job_id,) = self._send(client, [item])
        with self._lock:
            self.keys.setdefault(item["key"], set()).add(job_id)

    def _item(self, dice: random.Random) -> dict[str, Any]:
        kind = dice.choice(KINDS)
        item: dict[str, Any] = {"prompt": f"{kind} {dice.random()}", "priority": dice.randint(-3, 3)}
        if self.is_warm and kind not in SPAWN and dice.random() < 0.6:
            item["tools"] = []  # such share their processes
        if dice.random() < 0.1:
            item["deadline"] = dice.choice(("2s", "30s"))
        if dice.random() < 0.1:
            item["not_before"] = "1s"
        return item

    def _send(self, client: Client, items: list[dict[str, Any]], **more: object) -> list[str]:
        for item in items:
            item["cwd"] = str(self.here.work)
        answer = cast("dict[str, Any]", client.call("submit", {"items": items, "batch": len(items) > 1, **more}, 30))
        ids = [str(job["job_id"]) for job in answer["jobs"]]
        with self._lock:
            self.accepted += ids
            if len(items) > 1:
                self.batches[str(answer["batch_id"])] = cast("int | None", more.get("max_parallel"))
        return ids

    def _some(self, dice: random.Random, count: int) -> list[str]:
        with self._lock:
            return dice.sample(self.accepted, min(count, len(self.accepted)))

    def _cancel(self, dice: random.Random, client: Client) -> None:
        client.call("cancel", {"job_ids": self._some(dice, 2)}, 30)

    def _retry(self, dice: random.Random, client: Client) -> None:
        states = ["failed", "cancelled", "expired"]
        listed = cast("dict[str, Any]", client.call("jobs", {"states": states, "limit": 50}, 30))["jobs"]
        if listed:
            client.call("retry", {"job_ids": [dice.choice(listed)["job_id"]], "tree": dice.random() < 0.5}, 30)

    def _look(self, dice: random.Random, client: Client) -> None:
        client.call("jobs", {"limit": 50}, 30)
        for job_id in self._some(dice, 1):
            client.call("result", {"job_id": job_id, "wait_s": dice.uniform(0, 1)}, 30)

    # What goes wrong

    def _breaker(self, dice: random.Random) -> None:
        while not self._over.wait(dice.uniform(0.3, 2.0)):
            what = dice.choices(
                (self._kill_worker, self._kill_keeper, self._kill_both, self._freeze, self._kill_claude, self._drain)
                + ((self._fill_disk,) if self.disk else ()),
                (3, 1, 1, 3, 4, 1) + ((1,) if self.disk else ()),
            )[0]
            what(dice)
            self._count(what.__name__)

    def _pids(self) -> dict[str, int]:
        """The keeper and the resident worker, as the kernel shows them: nobody is asked who might be dead."""
        found: dict[str, int] = {}
        for pid in self.here.own_processes():
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"keeper.py" in argv:
                    found["keeper"] = pid
                elif b"_worker" in argv:
                    found["worker"] = pid
        return found

    def _kill_worker(self, dice: random.Random) -> None:
        kill_hard(*(pid for name, pid in self._pids().items() if name == "worker"))

    def _kill_keeper(self, dice: random.Random) -> None:
        kill_hard(*(pid for name, pid in self._pids().items() if name == "keeper"))

    def _kill_both(self, dice: random.Random) -> None:
        kill_hard(*self._pids().values())

    def _drain(self, dice: random.Random) -> None:
        for name, pid in self._pids().items():
            if name == "worker":
                end(pid, signal.SIGTERM)

    def _freeze(self, dice: random.Random) -> None:
        pids = [*self._pids().values(), *(child.pid for child in self.odd if child.poll() is None)]
        for pid in pids[:1] if not pids else [dice.choice(pids)]:
            end(pid, signal.SIGSTOP)
            self._over.wait(dice.uniform(0.2, 2.5))
            end(pid, signal.SIGCONT)

    def _kill_claude(self, dice: random.Random) -> None:
        marked = proctree.marked(f"{self.here.home.home_id}:")
        if marked:
            kill_hard(dice.choice(marked).pid)

    def _fill_disk(self, dice: random.Random) -> None:
        assert self.disk is not None
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 65_536)
        self._over.wait(dice.uniform(0.2, 1.5))
        filler.unlink()

    def _odd_workers(self, dice: random.Random) -> None:
        """Further workers on the same store, with clocks that jump; killed and replaced now and then."""
        try:
            while not self._over.is_set():
                while len([child for child in self.odd if child.poll() is None]) < ODD_WORKERS:
                    self._start_odd(dice)
                if not self._over.wait(dice.uniform(2.0, 8.0)):
                    victim = dice.choice(self.odd)
                    victim.send_signal(dice.choice((signal.SIGKILL, signal.SIGTERM)))
                    self._count("odd worker ended")
        finally:
            for child in self.odd:
                end(child.pid, signal.SIGCONT)
                child.terminate()

    def _start_odd(self, dice: random.Random) -> None:
        script = Path(__file__).with_name("odd_worker.py")
        argv = [sys.executable, str(script), str(dice.randint(0, 1 << 30)), str(CLOCK_RANGE_S)]
        env = {name: value for name, value in self.here.env.items() if not name.startswith("CLAUDE_CODE_TOKEN")}
        log = (self.here.root / "odd.log").open("ab")
        child = subprocess.Popen(argv, env=env, cwd=self.here.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.odd.append(child)
        self.here.children.append(child)

    # After it

    def _calm(self) -> None:
        """Nobody breaks anything any more: everything accepted comes to its end."""
        for child in self.odd:
            child.wait(60)
        wait_until(self._is_quiet, SETTLE_S)
        again, ahead = served(self.here.root)
        self.done.update({AGAIN: again, AHEAD: ahead})
        self.done["strangers nobody could find"] = len(strangers(self.stranger_s))

    def _is_quiet(self) -> bool:
        try:
            counts = self.here.call("jobs", limit=1)["counts"]
        except ClaudeJobsError:
            time.sleep(0.5)
            return False
        time.sleep(0.2)
        return not any(counts.get(state, 0) for state in ("queued", "running", "blocked"))

    def _count(self, what: str) -> None:
        with self._lock:
            self.done[what.strip("_")] += 1


@contextlib.contextmanager
def storm(root: Path, *, seed: int, seconds: float) -> Generator[Storm]:
    """A storm that has not begun. Its home lies on a small file system of its own where we may mount one.

    Every other seed has a claude that holds many conversations.
    """
    with _small_disk(root) as disk:
        home = (disk or root) / "jobs"
        home.mkdir(mode=0o700)
        (home / ".env").write_text("".join(f"CLAUDE_CODE_TOKEN{n}={s}\n" for n, s in enumerate(SECRETS, 1)))
        (home / ".env").chmod(0o600)
        with place(root, tokens=len(SECRETS), **{**LIMITS, "CLAUDE_JOBS_HOME": str(home)}) as here:
            storming = Storm(here, seed, seconds, disk, is_warm=bool(seed % 2))
            here.stand_in(ONE_JOB.format(root=root, stranger_s=storming.stranger_s))
            if storming.is_warm:
                here.env["CLAUDE_JOBS_CLI"] = str(talker(root, storming.stranger_s))
            try:
                yield storming
            finally:
                kill_hard(*(proc.pid for proc in strangers(storming.stranger_s)))


@contextlib.contextmanager
def _small_disk(root: Path) -> Generator[Path | None]:
    disk = root / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", str(disk)]
    mount = shutil.which("mount") if sys.platform == "linux" and os.getuid() == 0 else None
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
