"""A short storm; `make chaos` blows longer ones."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from chaos.proof import prove
from chaos.storm import left_behind, storm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SECONDS = 15.0


def test_a_short_storm_breaks_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randint(0, 1 << 30)))
    print(f"CHAOS_SEED={seed}")
    with storm(tmp_path, seed=seed, seconds=SECONDS) as storming:
        storming.blow()
        left = left_behind(storming.here)
        proof = prove(storming, storming.here.home.db_dir)
    print(proof, dict(storming.done))

    assert not left
    assert not proof.violations, "\n".join(proof.violations[:50])
    assert proof.jobs > 10
