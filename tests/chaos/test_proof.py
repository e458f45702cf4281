"""What a storm is judged by finds what it should: a cap of a batch, a repair, a process that its keeper adopted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stores.builders import Desk, asking, batch, item
from support_processes import wait_until
from support_worker import Place, place

from chaos.proof import prove
from chaos.remains import left_behind, repaired, strangers
from chaos.storm import Storm
from claude_jobs.stores.sqlite.store import open_sqlite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def calm(root: Path) -> Storm:
    """A storm that has not begun, in a home without a worker."""
    here = Place(root, {"CLAUDE_JOBS_HOME": str(root / "jobs"), "HOME": str(root)})
    here.home.prepare()
    return Storm(here, 1, 0.0)


def test_a_batch_beyond_its_cap_is_found(tmp_path: Path) -> None:
    storm = calm(tmp_path)
    store = open_sqlite(storm.here.home.db_dir)
    desk = Desk(store)
    desk.know()
    desk.store.submit(batch(item("a"), item("b"), batch_id="b-1", max_parallel=2))
    for grant in (desk.run(asking(free=1)), desk.run(asking(free=1))):
        desk.end(grant)
    store.close()
    clean = prove(storm, storm.here.home.db_dir)
    storm.batches["b-1"] = 1
    broken = prove(storm, storm.here.home.db_dir)

    assert clean.violations == ()
    assert [violation.split(" ")[0] for violation in broken.violations] == ["limit"]


def test_a_repair_by_any_worker_is_found(tmp_path: Path) -> None:
    storm = calm(tmp_path)
    (storm.here.home.logs_dir / "worker.log").write_text("worker.started\n")
    clean = repaired(storm.here)
    (storm.here.home.logs_dir / "worker.log.1").write_text("error audit.repaired drift={'g': [1, 0]}\n")
    (tmp_path / "odd.log").write_text("error audit.repaired problems=['x']\n")

    assert clean == []
    assert len(repaired(storm.here)) == 2


@pytest.mark.slow
def test_a_stranger_with_its_keeper_is_found_and_gone_once_no_job_can_own_it(tmp_path: Path) -> None:
    seconds = f"600.{tmp_path.stat().st_ino}"
    with place(tmp_path, CLAUDE_JOBS_SLOTS="2") as here:
        here.stand_in(
            f"""case "$line" in *holds*) while [ ! -e {tmp_path}/go ]; do sleep 0.05; done;; esac
            case "$line" in *strays*) ( env -i setsid sleep {seconds} & ); sleep 0.3;; esac"""
        )
        (older,) = here.submit(["holds"])
        here.all_started([older])
        here.ended(here.submit(["strays"]))
        wait_until(lambda: bool(strangers(seconds)))
        found = left_behind(here)
        (tmp_path / "go").touch()
        here.ended([older])
        left = left_behind(here)

    assert any(seconds in one and one.endswith("with its keeper") for one in found)
    assert left == []
    assert strangers(seconds) == []
