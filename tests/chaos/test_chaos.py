"""A short storm; `make chaos` blows longer ones."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from chaos.proof import prove
from chaos.remains import left_behind
from chaos.storm import AGAIN, AHEAD, storm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SECONDS = 12.0


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_short_storm_breaks_nothing(tmp_path: Path, is_warm: bool) -> None:
    # On CI the same storms each time: what lands is judged by what it brings.
    drawn = 7 if os.environ.get("CI") == "true" else random.SystemRandom().randint(0, 1 << 30)
    seed = int(os.environ.get("CHAOS_SEED", drawn)) // 2 * 2 + is_warm
    print(f"CHAOS_SEED={seed}")
    with storm(tmp_path, seed=seed, seconds=SECONDS) as storming:
        storming.blow()
        left = left_behind(storming.here)
        proof = prove(storming, storming.here.home.db_dir)
    print(proof, dict(storming.done))

    assert not left
    assert not proof.violations, "\n".join(proof.violations[:50])
    assert proof.jobs > 10
    assert all(bool(storming.done[what]) is is_warm for what in (AGAIN, AHEAD))
