"""`python -m bench [start|jobs|crash|store …]`: measures and prints the table. Exit status 1 if a goal was missed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable

from bench import crash, gateway, graph, jobs, nested, start, store, warm
from bench.figures import Row

SUITES: dict[str, Callable[[], list[Row]]] = {
    "start": start.run,
    "jobs": jobs.run,
    "warm": warm.run,
    "crash": crash.run,
    "store": store.run,
    "nested": nested.run,
    "graph": graph.run,
    "gateway": gateway.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"Unknown suite {unknown[0]!r}. Known are: {', '.join(SUITES)}.", file=sys.stderr)
        return 2
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | goal | measured | |\n|---|---|---|---|", flush=True)
    began, missed = time.monotonic(), 0
    for name in names or SUITES:
        for row in SUITES[name]():
            missed += not row.is_met
            print(f"| {row.what} | {row.goal} | {row.measured} | {'yes' if row.is_met else 'NO'} |", flush=True)
    print(f"\n{missed} goals missed, {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
