"""Known vulnerabilities in what the lock pins: `audit.py requirements.lock`. Fails on any; says so if nobody could be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def main(lock: str) -> int:
    """Ask the package index through pip-audit. The exit status."""
    options = ("--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", lock)
    done = subprocess.run([sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _say(f"pip-audit: nothing was audited: {(done.stderr.strip() or 'no answer').splitlines()[-1]}")
    known = [one for one in packages if "skip_reason" not in one]
    bad = [one for one in known if one["vulns"]]
    for one in bad:
        ids = ", ".join(vuln["id"] for vuln in one["vulns"])
        fixed = ", ".join(sorted({version for vuln in one["vulns"] for version in vuln["fix_versions"]})) or "none"
        _say(f"pip-audit: {one['name']} {one['version']}: {ids}; fixed in: {fixed}")
    if not known:
        return _say("pip-audit: nothing was audited: the package index in use gives no vulnerability data.")
    unknown = len(packages) - len(known)
    _say(f"pip-audit: {len(known)} packages, {len(bad)} vulnerable" + (f"; {unknown} unknown" if unknown else ""))
    return 1 if bad else 0


def _say(line: str) -> int:
    print(line, file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
