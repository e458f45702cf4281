"""Many real processes at one gate, some of them killed: nothing is spent twice, nothing is held for ever."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from gate.sqlite_asks import MINUTE, NOW, ROUTE, ask, go, line, look, outputs, quota, settlement, start
from support_processes import wait_until

from claude_jobs.policy.breaker import BreakerRules
from claude_jobs.stores.gate import LedgerQuery, Refused, RefusedBy, ReserveAsk, Reserved
from claude_jobs.stores.sqlite.gate import SqliteGate, open_gate

# Writes down what it is about to settle, then settles: what is missing can be settled again by whoever reads it.
SPENDER = """
draw = random.Random(me)
limit = int(sys.argv[3])
with open(directory / f"{me}.journal", "w", buffering=1) as journal:
    for n in range(200):
        reserved = store.reserve(ask(f"{me}-{n}", 50, limit, owner=me))
        if isinstance(reserved, Refused):
            print("refused", reserved.used, reserved.limit, file=journal)
            continue
        used = draw.randrange(51)
        print("settle", f"{me}-{n}", used, file=journal)
        assert store.settle(settlement(f"{me}-{n}", used))
store.close()
"""


def settled(journal: Path) -> dict[str, int]:
    """What a process wrote down; a last line that was cut off was never settled."""
    if not journal.exists():
        return {}
    lines = [text.split(" ") for text in journal.read_text().split("\n")[:-1]]
    return {parts[1]: int(parts[2]) for parts in lines if parts[0] == "settle"}


def check_use(store: SqliteGate, limit: int) -> None:
    """Settled and held together never exceed the limit."""
    (use,) = store.uses([quota(limit)], NOW)
    assert 0 <= use.used <= use.used + use.held <= limit


def kill_half(children: list[subprocess.Popen[str]], directory: Path, store: SqliteGate, limit: int) -> None:
    """Kill every second one, each somewhere in its calls, and look at the quota meanwhile."""
    draw = random.Random(7)
    for n in range(0, len(children), 2):
        journal, least = directory / f"p{n}.journal", draw.randrange(5, 120)

        def is_so_far(journal: Path = journal, least: int = least) -> bool:
            check_use(store, limit)
            return journal.exists() and journal.read_text().count("\n") >= least

        wait_until(is_so_far, timeout_s=120)
        children[n].kill()
        children[n].communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000_000, 12_000])
def test_eight_processes_spend_from_one_quota_and_half_of_them_are_killed(tmp_path: Path, limit: int) -> None:
    store = open_gate(tmp_path, lock_wait_s=60)
    children = [start(tmp_path, SPENDER, f"p{n}", str(limit)) for n in range(8)]
    for child in children:
        go(child)
    kill_half(children, tmp_path, store, limit)
    outputs(children[1::2])
    check_use(store, limit)

    journals = [settled(tmp_path / f"p{n}.journal") for n in range(8)]
    again = [store.settle(settlement(one, used)) for journal in journals for one, used in journal.items()]
    later = NOW + 2 * MINUTE
    (leased,) = store.uses([quota(limit)], later)
    refused = store.reserve(ask("rest", limit - leased.used + 1, limit, now_ms=later))
    rest = store.reserve(ask("rest", limit - leased.used, limit, now_ms=later))

    spent = sum(sum(journal.values()) for journal in journals)
    assert again.count(True) <= 4
    assert (leased.used, leased.held) == (spent, 0)
    assert spent <= limit
    assert isinstance(refused, Refused)
    assert isinstance(rest, Reserved)
    assert store.clean(NOW + 10**9, keep_ms=0) > 0
    store.close()


def test_limits_differ_between_processes_and_the_counter_is_one(tmp_path: Path) -> None:
    store = open_gate(tmp_path)
    script = "print(type(store.reserve(ask(me, int(sys.argv[3]), int(sys.argv[4])))).__name__)\nstore.close()"

    said: list[str] = []
    for me, amount, limit in (("a", 600, 1_000), ("b", 1, 600), ("c", 1, 500), ("d", 400, 1_000), ("e", 1, 1_000)):
        child = start(tmp_path, script, me, str(amount), str(limit))
        go(child)
        said += outputs([child])[0]

    (use,) = store.uses([quota(1_000)], NOW)
    assert said == ["Reserved", "Refused", "Refused", "Reserved", "Refused"]
    assert (use.used, use.held) == (0, 1_000)
    store.close()


LEADER = """
found = store.look(look("question", owner=me, now_ms=int(time.time() * 1000), lease_ms=700))
print(found.what, found.fence, flush=True)
time.sleep(600)
"""
FOLLOWER = """
what = "follow"
while what == "follow":
    now_ms = int(time.time() * 1000)
    found = store.look(look("question", owner=me, now_ms=now_ms, lease_ms=60_000))
    if found.what != what:
        print(found.what, found.fence, flush=True)
    what = found.what
    time.sleep(0.02)
    if what == "lead":
        stored = put("question", me.encode(), seq=found.seq, now_ms=now_ms)
        landing = Landing(key="question", fence=found.fence)
        store.settle(replace(settlement("", 0), now_ms=now_ms, put=stored, landing=landing))
store.close()
"""


@pytest.mark.slow
def test_followers_of_a_leader_that_was_killed_take_over_once(tmp_path: Path) -> None:
    leader = start(tmp_path, LEADER, "leader")
    followers = [start(tmp_path, FOLLOWER, f"f{n}") for n in range(4)]
    go(leader)
    what, fence = line(leader).split(" ")
    leader.kill()
    leader.communicate(timeout=60)
    for follower in followers:
        go(follower)

    said = [text.split(" ") for lines in outputs(followers) for text in lines]

    assert what == "lead"
    assert Counter(found for found, _ in said) == {"lead": 1, "hit": 3}
    assert {int(number) for found, number in said if found == "lead"} == {int(fence) + 1}


PROBE = """
rules = BreakerRules(failure_threshold=1, recovery_ms=1_000, probe_ms=5_000)
found = store.reserve(replace(ask(me, 1), now_ms=NOW + 10_000, route=ROUTE, breaker=rules))
print(found.is_probe, flush=True)
time.sleep(600)
"""


def test_a_probe_whose_process_was_killed_is_given_to_the_next(tmp_path: Path) -> None:
    store = open_gate(tmp_path, lock_wait_s=60)
    open_it = (
        "store.settle(replace(settlement('', 0), route=ROUTE, verdict=Verdict.FAULT, breaker=rules))\nstore.close()"
    )
    opener = start(tmp_path, PROBE.split("\n")[1] + "\n" + open_it, "opener")
    go(opener)
    outputs([opener])
    child = start(tmp_path, PROBE, "child")
    go(child)
    was_probe = line(child)
    child.kill()
    child.communicate(timeout=60)

    rules = BreakerRules(failure_threshold=1, recovery_ms=1_000, probe_ms=5_000)
    asks = [ReserveAsk(id=f"r{t}", owner="p", now_ms=NOW + t, route=ROUTE, breaker=rules) for t in (10_001, 15_001)]
    before, after = [store.reserve(one) for one in asks]

    assert was_probe == "True"
    assert isinstance(before, Refused)
    assert before.by is RefusedBy.CIRCUIT
    assert after == Reserved(id="r15001", is_probe=True)
    store.close()


CROWD = """
async def spend(gate, who, journal):
    for n in range(10_000):
        call = f"{me}-{who}-{n}"
        await gate(store.reserve, ask(call, 5))
        assert await gate(store.settle, settlement(call, 3))
        print(call, file=journal)

async def main():
    gate = GateThread(store)
    with open(directory / f"{me}.journal", "w", buffering=1) as journal:
        await asyncio.gather(*(spend(gate, who, journal) for who in range(50)))

asyncio.run(main())
"""


@pytest.mark.slow
def test_what_was_answered_survives_kill_9_in_the_middle_of_a_group(tmp_path: Path) -> None:
    answered: list[str] = []
    for turn in range(4):
        child = start(tmp_path, CROWD, f"p{turn}")
        go(child)
        journal, least = tmp_path / f"p{turn}.journal", 40 + 111 * turn
        wait_until(lambda j=journal, n=least: j.exists() and j.read_text().count("\n") >= n, timeout_s=120)
        child.kill()
        child.communicate(timeout=60)
        answered += journal.read_text().split("\n")[:-1]

    store = open_gate(tmp_path)
    again = [store.settle(settlement(call, 3)) for call in answered]
    missing = [call for call in answered if store.call(call) is None]
    lines = sum(row.calls for row in store.ledger(LedgerQuery()))
    (use,) = store.uses([quota(1)], NOW + 2 * MINUTE)
    store.close()

    assert not any(again)
    assert missing == []
    assert (use.used, use.held) == (3 * lines, 0)
    assert lines >= len(answered)


def test_many_processes_open_a_new_gate_at_once(tmp_path: Path) -> None:
    for turn in range(3):
        children = [start(tmp_path / f"state {turn}", "store.close()", f"p{n}") for n in range(4)]
        for child in children:
            go(child)
        outputs(children)


def test_a_hundred_claims_of_four_processes_give_one_leader_each(tmp_path: Path) -> None:
    script = """
for n in range(100):
    print(n, store.look(look(f"k{n}", owner=me)).what)
store.close()
"""
    children = [start(tmp_path, script, f"p{n}") for n in range(4)]
    for child in children:
        go(child)
    found = Counter(text for lines in outputs(children) for text in lines)

    assert found == {f"{n} {what}": many for n in range(100) for what, many in (("lead", 1), ("follow", 3))}
    store = open_gate(tmp_path)
    assert store.look(look("k0", owner="later", now_ms=NOW + 2 * MINUTE)).what == "lead"
    assert store.cache_stats().misses == 101
    store.close()
