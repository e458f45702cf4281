"""For all tests: signals as a terminal has them, no clock in property tests, no skip on CI but for what the system cannot do."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

for number in (signal.SIGINT, signal.SIGHUP):
    # Under nohup or a shell's "&" they come ignored, and what our children get is what they pass on.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# A time for one example says something of the machine only. On CI the same examples each time: what landed stays green.
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("ours")

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)

SYSTEM_LIMITS = ("needs /proc", "needs the right to mount", "needs setpriv to give up root's rights")
"""The reasons that may stand in a skip on CI: what a kernel or an operating system lacks, and nothing that could be installed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that was skipped."""
    return _refused((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file that was skipped."""
    return _refused((yield))


def _refused(report: R) -> R:
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason not in SYSTEM_LIMITS:
            report.outcome = "failed"
            report.longrepr = f"Skipped on CI: {reason!r} is not one of {', '.join(map(repr, SYSTEM_LIMITS))}."
    return report
