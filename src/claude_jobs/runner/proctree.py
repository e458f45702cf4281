"""Process trees: who descends from whom, who carries our marker, and how to kill exactly those.

Standard library only, and importable alone: the keeper loads this file by its path. Linux reads /proc; elsewhere `ps` is asked.
A process is named by its pid *and* its start time, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

MARK = "CLAUDE_JOBS_MARK"
"""Environment variable that names the attempt a process belongs to."""
MAX_KILL_ROUNDS = 20
FREEZE_ROUNDS = 10
"""Who does not stop meanwhile waits in the kernel for something, and starts nobody either."""
FREEZE_PAUSE_S = 0.001
"""A signal is taken when its process runs next."""
_IS_LINUX = platform.system() == "Linux"
_PROC = Path("/proc")
_PS_TIMEOUT_S = 10
_PS_FRESH_S = 0.05
"""A listing by `ps` takes about as long; who asks whether thirty processes are alive is answered from one."""
_PS_YOUNG_S = 2
"""`ps` tells start times in whole seconds: what is older than this was in every listing of late, if it lived."""
_ENVIRON_CAP = 1 << 20
_LINE_TRIES = 20


@dataclass(frozen=True)
class Proc:
    """One process.

    Attributes:
        started_ticks: Start time: clock ticks since boot on Linux, epoch seconds elsewhere.
        is_dead: A zombie: it runs no code and only waits to be collected.
        is_stopped: By SIGSTOP or the like: it runs no code until it is told to go on.
    """

    pid: int
    ppid: int
    pgid: int
    session: int
    started_ticks: int
    is_dead: bool = False
    is_stopped: bool = False


@cache
def boot_id() -> str:
    """Names this run of the kernel (and pid namespace): start times and pids mean nothing outside it."""
    if _IS_LINUX:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - the link's own target has no path
    done = subprocess.run(["sysctl", "-n", "kern.boottime"], capture_output=True, text=True, timeout=_PS_TIMEOUT_S)
    return done.stdout.split("}", 1)[0].strip("{ \n")


def look(pid: int) -> Proc | None:
    """The process with that pid, None if there is none."""
    if not _IS_LINUX:
        return _ps_table("-p", str(pid)).get(pid)
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name may hold spaces and parentheses; the fields start after the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Proc(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        session=int(fields[3]),
        started_ticks=int(fields[19]),
        is_dead=fields[0] in (b"Z", b"X"),
        is_stopped=fields[0] == b"T",
    )


def now_ticks() -> int:
    """What a process that starts now has as its start time."""
    if not _IS_LINUX:
        return int(time.time())
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def is_alive(proc: Proc) -> bool:
    """Whether this very process still runs code. Where `ps` is asked, it may have ended a moment ago."""
    return _now(proc) is not None


def _now(proc: Proc) -> Proc | None:
    """What is to be seen of it at this moment; None if it runs no code any more."""
    now = look(proc.pid) if _IS_LINUX else _look_lately(proc)
    return now if now is not None and not now.is_dead and now.started_ticks == proc.started_ticks else None


def table() -> dict[int, Proc]:
    """All processes that can be seen."""
    if not _IS_LINUX:
        return _ps_table("-ax")
    found = (look(int(entry)) for entry in os.listdir(_PROC) if entry.isdigit())  # noqa: PTH208 - a name, not a Path, for each of hundreds
    return {proc.pid: proc for proc in found if proc is not None}


def tree(pid: int) -> dict[int, Proc]:
    """The process and its descendants, by pid; empty if it is gone."""
    root = look(pid)
    if root is None:
        return {}
    found = {pid: root}
    for below in descendants(pid):
        found.setdefault(below.pid, below)
    return found


def descendants(pid: int) -> list[Proc]:
    """Everything below `pid` at this moment, parents first."""
    return _descendants(pid, None if _has_children_files() else table())


def _descendants(pid: int, everyone: Mapping[int, Proc] | None) -> list[Proc]:
    return _walk(pid) if everyone is None else _below(pid, everyone)


@cache
def _has_children_files() -> bool:
    return _IS_LINUX and (_PROC / "self/task" / str(os.getpid()) / "children").exists()


def _walk(pid: int) -> list[Proc]:
    found: dict[int, Proc] = {}
    todo = [pid]
    while todo:
        for child in children(todo.pop()):
            if child.pid not in found:
                found[child.pid] = child
                todo.append(child.pid)
    return list(found.values())


def children(pid: int) -> list[Proc]:
    """The direct children of `pid`, over all its threads."""
    if not _has_children_files():
        return [proc for proc in table().values() if proc.ppid == pid]
    pids: list[int] = []
    try:
        threads = os.listdir(_PROC / str(pid) / "task")  # noqa: PTH208 - as above
    except OSError:
        return []
    for thread in threads:
        try:
            pids.extend(map(int, (_PROC / str(pid) / "task" / thread / "children").read_bytes().split()))
        except OSError:
            continue
    return [proc for proc in map(look, pids) if proc is not None]


def _below(pid: int, everyone: Mapping[int, Proc]) -> list[Proc]:
    families: dict[int, list[Proc]] = {}
    for proc in everyone.values():
        families.setdefault(proc.ppid, []).append(proc)
    found: list[Proc] = []
    todo = [pid]
    while todo:
        for child in families.pop(todo.pop(), []):
            found.append(child)
            todo.append(child.pid)
    return found


def ancestors(pid: int) -> list[int]:
    """The parents of `pid` up to the first process: whoever may have adopted its orphans."""
    chain: list[int] = []
    proc = look(pid)
    while proc is not None and proc.ppid > 0 and proc.ppid not in chain:
        chain.append(proc.ppid)
        proc = look(proc.ppid)
    return chain


def line(pid: int) -> list[Proc]:
    """The process and its ancestors, nearest first, as far as they can be seen; empty if it is gone."""
    for _ in range(_LINE_TRIES):
        found = _climb(pid)
        if found is not None:
            return found
    return []


def _climb(pid: int) -> list[Proc] | None:
    """One way up; None if somebody on it died meanwhile, and with it what it would have led to."""
    everyone = None if _IS_LINUX else table()
    chain: list[Proc] = []
    proc = look(pid) if everyone is None else everyone.get(pid)
    while proc is not None and not any(proc.pid == below.pid for below in chain):
        chain.append(proc)
        parent = proc.ppid
        proc = look(parent) if everyone is None else everyone.get(parent)
        if proc is None and parent and everyone is None:
            again = look(chain[-1].pid)
            if again is None or again.ppid != parent:
                return None
    return chain


def adopted(since_ticks: int) -> list[Proc]:
    """Processes younger than `since_ticks` whose parent is one of our ancestors: where orphans of ours end up.

    An orphan is given to the nearest subreaper above us, or to the first process. Siblings that are not ours
    are among them: the caller looks at marker and group before touching any.
    """
    own = os.getpid()
    chain = ancestors(own)
    if _has_children_files():
        candidates = [child for parent in chain for child in children(parent)]
    else:
        candidates = [proc for proc in table().values() if proc.ppid in chain]
    return [proc for proc in candidates if proc.started_ticks >= since_ticks and proc.pid not in (own, *chain)]


def mark_of(pid: int) -> str:
    """The marker in the environment that `pid` was started with, "" for none or not readable."""
    return variable_of(pid, MARK) if _IS_LINUX else _ps_marks((pid,)).get(pid, "")


def variable_of(pid: int, name: str) -> str:
    """A variable in the environment that `pid` was started with, "" for none or where there is no /proc."""
    try:
        with (_PROC / str(pid) / "environ").open("rb") as file:
            environ = file.read(_ENVIRON_CAP)
    except OSError:
        return ""
    prefix = name.encode() + b"="
    for pair in environ.split(b"\0"):
        if pair.startswith(prefix):
            return pair[len(prefix) :].decode("utf-8", "replace")
    return ""


def marks_of(pids: Collection[int]) -> dict[int, str]:
    """The markers of those that have one."""
    if not _IS_LINUX:
        return _ps_marks(pids) if pids else {}
    return {pid: mark for pid in pids if (mark := mark_of(pid))}


def marked(prefix: str) -> list[Proc]:
    """All live processes whose marker starts with `prefix`; our own process is never among them."""
    if not prefix:
        raise ValueError("an empty marker would name every process")
    everyone = table()
    own = os.getpid()
    if _IS_LINUX:
        hits = [pid for pid in everyone if pid != own and mark_of(pid).startswith(prefix)]
    else:
        hits = [pid for pid, mark in _ps_marks(()).items() if pid != own and mark.startswith(prefix)]
    return [everyone[pid] for pid in hits if pid in everyone and not everyone[pid].is_dead]


def send(proc: Proc, signum: int) -> bool:
    """Signal this very process; False if it is gone. Cannot hit a successor that got its pid."""
    if not _IS_LINUX or not hasattr(os, "pidfd_open"):
        return _send_by_pid(proc, signum)
    try:
        handle = os.pidfd_open(proc.pid)
    except OSError:
        return False
    try:
        if not is_alive(proc):
            return False
        signal.pidfd_send_signal(handle, signum)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _send_by_pid(proc: Proc, signum: int) -> bool:
    if not is_alive(proc):
        return False
    try:
        os.kill(proc.pid, signum)
    except OSError:
        return False
    return True


def kill_tree(roots: Iterable[Proc], *, wait_s: float = 2.0) -> tuple[list[int], list[int]]:
    """SIGKILL the processes and all below them until none is left. Blocks for at most about `wait_s`.

    Returns:
        The pids that were signalled, and those that are still alive (none, in every sane world).
    """
    known: dict[int, Proc] = {proc.pid: proc for proc in roots}
    signalled: set[int] = set()
    deadline = time.monotonic() + wait_s
    for _ in range(MAX_KILL_ROUNDS):
        for _ in range(FREEZE_ROUNDS):
            if freeze_round(known):
                break
            time.sleep(FREEZE_PAUSE_S)
        alive = kill_round(known, signalled)
        if not alive or time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    return sorted(signalled), sorted(proc.pid for proc in known.values() if is_alive(proc))


def freeze_round(known: dict[int, Proc]) -> bool:
    """One SIGSTOP to those that run, and one look below them. True once none of them ran before the look, and it shows nobody new.

    Who runs may start another between the look and SIGKILL, which then belongs to nobody. A stopped one cannot.
    """
    restless = [proc for proc in known.values() if (now := _now(proc)) is not None and not now.is_stopped]
    for proc in restless:
        send(proc, signal.SIGSTOP)
    before = len(known)
    grow(known)
    return not restless and len(known) == before


def kill_round(known: dict[int, Proc], signalled: set[int]) -> list[Proc]:
    """One look and one SIGKILL: adds what is new below the known ones to `known`, and returns those still alive.

    For a tree that may grow meanwhile, `freeze_round` comes first, until it is true.
    """
    grow(known)
    alive = [proc for proc in known.values() if is_alive(proc)]
    # Children first: the kernel lets stopped ones go on (SIGHUP, SIGCONT) when their group has lost its last parent.
    for proc in reversed(alive):
        if send(proc, signal.SIGKILL):
            signalled.add(proc.pid)
    return alive


def grow(known: dict[int, Proc]) -> None:
    """Add what descends from the live ones among `known`."""
    everyone = None if _has_children_files() else table()
    for proc in list(known.values()):
        if is_alive(proc):
            for below in _descendants(proc.pid, everyone):
                known.setdefault(below.pid, below)


def _look_lately(proc: Proc) -> Proc | None:
    """The process in a listing that is hardly old; a young one may be missing there, and is asked for by itself."""
    lately = _ps_lately(int(time.monotonic() / _PS_FRESH_S))
    is_young = proc.started_ticks > time.time() - _PS_YOUNG_S
    return lately.get(proc.pid) or (look(proc.pid) if is_young else None)


@lru_cache(maxsize=1)
def _ps_lately(_moment: int) -> dict[int, Proc]:
    return _ps_table("-ax")


def _ps_table(*which: str) -> dict[int, Proc]:
    rows = _ps(*which, "-o", "pid=,ppid=,pgid=,stat=,lstart=")
    found: dict[int, Proc] = {}
    for row in rows:
        pid, ppid, pgid, state, *started = row.split(None, 4)
        began = int(time.mktime(time.strptime(started[0].strip(), "%a %b %d %H:%M:%S %Y"))) if started else 0
        found[int(pid)] = Proc(
            int(pid),
            int(ppid),
            int(pgid),
            int(pgid),
            began,
            is_dead=state.startswith("Z"),
            is_stopped=state.startswith("T"),
        )
    return found


def _ps_marks(pids: Collection[int]) -> dict[int, str]:
    which = ["-p", ",".join(map(str, pids))] if pids else ["-ax"]
    found: dict[int, str] = {}
    for row in _ps("-E", "-ww", "-o", "pid=,command=", *which):
        pid, _, command = row.strip().partition(" ")
        mark = next((word for word in command.split() if word.startswith(MARK + "=")), "")
        if mark:
            found[int(pid)] = mark.partition("=")[2]
    return found


def _ps(*args: str) -> list[str]:
    env = {"PATH": "/bin:/usr/bin:/usr/sbin", "LC_ALL": "C"}
    done = subprocess.run(
        ["ps", *args], capture_output=True, text=True, errors="replace", timeout=_PS_TIMEOUT_S, env=env
    )
    return [row for row in done.stdout.splitlines() if row.strip()]
