"""What this machine, or the container we are in, has to give: cores and free memory, cgroup v1 and v2 aware."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def cores(cgroup: Path = _CGROUP) -> float:
    """CPUs this process may use: affinity, cut by a container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(float(affinity), _quota_cores(cgroup))


def _quota_cores(cgroup: Path) -> float:
    for directory in _own_groups(cgroup, "cpu"):
        v2 = _read(directory / "cpu.max").split()
        if len(v2) == 2 and v2[0] != "max":
            return int(v2[0]) / int(v2[1])
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            return int(quota) / int(period)
    return float("inf")


def free_bytes(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that can be taken now without swapping: the machine's, cut by every limit of our own groups."""
    return min([_available(meminfo), *(_room(directory) for directory in _own_groups(cgroup, "memory"))])


def _available(meminfo: Path) -> int:
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read(meminfo))
    if match:
        return int(match[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _room(directory: Path) -> int:
    limit = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
    used = _read(directory / "memory.current") or _read(directory / "memory.usage_in_bytes")
    if not limit.isdigit() or not used.isdigit() or int(limit) > _UNLIMITED:
        return _UNLIMITED
    reclaimable = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(directory / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(reclaimable[1]) if reclaimable else 0))


def _own_groups(cgroup: Path, controller: str) -> list[Path]:
    """Our group and its ancestors, nearest first, in whichever hierarchy has the controller."""
    groups: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = cgroup / controller if controllers else cgroup
        node = base / path.lstrip("/")
        groups.extend(parent for parent in (node, *node.parents) if parent.is_relative_to(base) and parent.is_dir())
    return groups or [cgroup]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
