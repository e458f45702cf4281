"""`make chaos`: storms until the time is over, each with a seed of its own that is printed and can be played again.

python -m chaos [--seconds 600] [--storm 60] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.proof import prove
from chaos.remains import left_behind
from chaos.storm import Storm, storm


def main() -> int:
    """Exit status 1 if anything was broken."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--seconds", type=float, default=600.0, help="length of all storms together")
    parser.add_argument("--storm", type=float, default=60.0, help="length of one")
    parser.add_argument("--seed", type=int, help="play this one storm again")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randint(0, 1 << 30)
    began, broken, blown = time.monotonic(), 0, 0.0
    while blown < options.seconds:
        seconds = min(options.storm, options.seconds - blown)
        broken += _blow(seed, seconds)
        blown += seconds
        if options.seed is not None:
            break
        seed += 1
    print(f"{broken} violations in {blown:.0f} s of storm, {time.monotonic() - began:.0f} s in all")
    return 1 if broken else 0


def _blow(seed: int, seconds: float) -> int:
    folder = Path(tempfile.mkdtemp(prefix="cj-chaos-"))
    with storm(folder, seed=seed, seconds=seconds) as storming:
        storming.blow()
        left = left_behind(storming.here)
        proof = prove(storming, storming.here.home.db_dir)
        if proof.violations or left:
            _keep(storming, folder)
    print(
        f"seed {seed}{' (warm)' if storming.is_warm else ''}: {proof.jobs} jobs, {proof.events} events, {dict(proof.states)}, "
        f"{len(proof.violations)} violations, {len(left)} orphans",
        flush=True,
    )
    print("   " + ", ".join(f"{count} {what}" for what, count in sorted(storming.done.items())), flush=True)
    for violation in proof.violations[:50]:
        print(f"   BROKEN {violation}", flush=True)
    for process in left:
        print(f"   LEFT {process}", flush=True)
    if proof.violations or left:
        print(f"   its logs and its database are in {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return len(proof.violations) + len(left)


def _keep(storming: Storm, folder: Path) -> None:
    """Its home may lie on a file system that goes with the storm."""
    home = storming.here.home
    for part in (home.logs_dir, home.db_dir):
        shutil.copytree(part, folder / "kept" / part.name, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
