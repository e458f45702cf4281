"""What the machine has to give, as a container sees it."""

from __future__ import annotations

from pathlib import Path

from claude_jobs.policy.slots import JOB_BYTES, MAX_SLOTS, Load, Room, room
from claude_jobs.services import machine


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_cgroup_v2_quota_limits_the_cores(tmp_path: Path) -> None:
    write(tmp_path, cpu__max="50000 100000\n")

    assert machine.cores(tmp_path) == 0.5


def test_no_quota_leaves_all_cores(tmp_path: Path) -> None:
    write(tmp_path, cpu__max="max 100000\n")

    assert machine.cores(tmp_path) >= 1


def test_cgroup_v1_quota_limits_the_cores(tmp_path: Path) -> None:
    write(tmp_path / "cpu", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    write(tmp_path, cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")

    assert machine.cores(tmp_path) <= 1.5


def test_memory_limit_of_a_container_counts_with_its_reclaimable_cache(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9999999 kB\nMemAvailable: 9999999 kB\n")
    write(tmp_path, memory__max="1000000", memory__current="900000", memory__stat="anon 1\ninactive_file 50000\n")

    assert machine.free_bytes(tmp_path, meminfo) == 150_000


def test_unlimited_container_has_the_machines_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 1000 kB\n")
    write(tmp_path, memory__max="max", memory__current="5")

    assert machine.free_bytes(tmp_path, meminfo) == 1_024_000


def free(*, live: int, cores: float, free_bytes: int, fixed: int | None, blocked: int = 0) -> int:
    return room(Load(live=live, blocked=blocked, cores=cores, free_bytes=free_bytes), fixed=fixed).free


def test_slots_follow_cores_and_memory() -> None:
    plenty = 1 << 40

    assert free(live=0, cores=2, free_bytes=plenty, fixed=None) == 16
    assert free(live=15, cores=2, free_bytes=plenty, fixed=None) == 1
    assert free(live=0, cores=64, free_bytes=plenty, fixed=None) == MAX_SLOTS
    assert free(live=2, cores=2, free_bytes=3 * JOB_BYTES, fixed=None) == 3
    assert free(live=2, cores=2, free_bytes=0, fixed=None) == 0


def test_a_starved_machine_still_runs_one_job_at_a_time() -> None:
    assert free(live=0, cores=0.1, free_bytes=0, fixed=None) == 1


def test_fixed_slots_are_taken_as_they_are() -> None:
    assert free(live=3, cores=1, free_bytes=0, fixed=200) == 197
    assert free(live=0, cores=8, free_bytes=1 << 40, fixed=0) == 0


def test_a_waiting_job_holds_memory_but_no_slot() -> None:
    assert free(live=1, blocked=1, cores=1, free_bytes=4 * JOB_BYTES, fixed=1) == 1
    assert free(live=3, blocked=2, cores=1, free_bytes=4 * JOB_BYTES, fixed=1) == 0
    assert free(live=4, blocked=4, cores=2, free_bytes=3 * JOB_BYTES, fixed=None) == 3


def test_live_processes_have_a_cap_of_their_own() -> None:
    load = Load(live=4, blocked=2, cores=8, free_bytes=1 << 40)

    assert room(load, fixed=10, max_live=5) == Room(free=1)
    assert room(load, fixed=10, max_live=4) == Room(free=0)


def test_when_everything_waits_one_more_goes_in_and_it_is_a_child() -> None:
    load = Load(live=4, blocked=4, cores=8, free_bytes=0)

    assert room(load, fixed=1, max_live=4) == Room(free=1, nested_first=True)
    assert room(load, fixed=None) == Room(free=1, nested_first=True)
    assert room(load, fixed=0) == Room(free=0)
