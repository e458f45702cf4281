"""All tests, with a second chance for a few: `test.py [pytest arguments]`.

Among thousands of tests with real processes one may fail by chance on a busy machine. When at most `FEW` fail, they are
run once more, one after another. Passing then, they fail nothing but are named: "FLAKY: <test>". All else fails as ever.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FEW = 3


class Record:
    """What a run said of its tests. Under xdist, that of all workers."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.skipped: set[str] = set()
        self.failed: dict[str, str] = {}
        self.is_whole = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read is no flaky test."""
        self.is_whole = self.is_whole and not report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown of each test; only the call tells that it passed."""
        if report.failed:
            self.failed[_plain(report.nodeid)] = (report.longreprtext.splitlines() or [""])[-1]
        elif report.skipped:
            self.skipped.add(_plain(report.nodeid))
        elif report.when == "call":
            self.passed.add(_plain(report.nodeid))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """With -x and the like, tests are left that nobody has run."""
        self.is_whole = self.is_whole and not (session.shouldfail or session.shouldstop)


def main(arguments: list[str]) -> int:
    """Run all, and what failed again if it is little. The exit status."""
    sys.path[0] = str(ROOT)  # as `python -m pytest` has it
    record, began = Record(), time.monotonic()
    status = int(pytest.main(arguments, plugins=[record]))
    failed = list(record.failed)
    if status != pytest.ExitCode.TESTS_FAILED or not record.is_whole or not 0 < len(failed) <= FEW:
        return status
    print(f"\n{len(failed)} failed: once more, alone.", flush=True)  # noqa: T201
    if again := subprocess.run([sys.executable, "-m", "pytest", "-n0", *failed], cwd=ROOT).returncode:
        return again
    for name, where in record.failed.items():
        print(f"FLAKY: {name} passed alone, having failed ({where})")  # noqa: T201
    passed = len(record.passed | set(failed))
    skipped = f", {len(record.skipped)} skipped" if record.skipped else ""
    flaky = f"{len(failed)} of them flaky{skipped} in {time.monotonic() - began:.2f}s"
    print(f"===== {passed} passed, {flaky} =====")  # noqa: T201
    return 0


def _plain(name: str) -> str:
    """Without the group that `--dist loadgroup` puts behind a test's name."""
    head, at, _ = name.rpartition("@")
    return head if at and name.rfind("@") > name.rfind("]") else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
