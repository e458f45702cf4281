"""All tests with branch coverage in every process: `measure.py [pytest arguments]`. Fails below the bar or as `test.py` does.

Workers and jobs run with clean environments, so coverage's own way into subprocesses (a variable) does not reach them.
For as long as the tests run, a .pth file starts it in each Python of this environment instead. Two are left out: the
bridge, whose size and speed are tested, and the keeper, which runs without site-packages.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PTH = Path(sysconfig.get_path("purelib")) / "claude_jobs_coverage.pth"
START = """\
import os, sys; \
measured = sys.orig_argv[-1] != "mcp" or os.environ.get("CLAUDE_JOBS_WORKER") == "inline"; \
measured and (coverage := __import__("coverage")) and coverage.Coverage(\
data_file={data!r}, data_suffix=True, source=[{source!r}], config_file={config!r}, auto_data=True, check_preimported=False).start()
"""


def main(arguments: list[str]) -> int:
    """Run the tests, then report."""
    _coverage("erase")
    paths = {"data": ROOT / ".coverage", "source": ROOT / "src", "config": ROOT / "pyproject.toml"}
    PTH.write_text(START.format(**{name: str(path) for name, path in paths.items()}))
    try:
        tested = subprocess.run([sys.executable, ".ci/test.py", *arguments], cwd=ROOT).returncode
    finally:
        PTH.unlink()
    _coverage("combine", "--quiet")
    return _coverage("report", "--skip-covered") or tested


def _coverage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
