"""What befalls the state directory of a running worker: no permission, a full disk, damage, a newer schema."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from support_processes import PATIENCE_S, wait_until
from support_worker import COMMAND, Json, Place, Session, place

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc.launch import START_TIMEOUT_S
from claude_jobs.rpc.link import is_listening
from claude_jobs.runner import proctree
from claude_jobs.stores.sqlite.schema import SCHEMA

pytestmark = pytest.mark.slow

MakePlace = Callable[..., Place]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_full_disk_refuses_new_jobs_and_keeps_the_accepted_ones(small_disk: Path, tmp_path: Path) -> None:
    with place(tmp_path, CLAUDE_JOBS_HOME=str(small_disk / "state"), CLAUDE_JOBS_SLOTS="2") as here:
        go_on = tmp_path / "go-on"
        here.stand_in(f'while [ ! -e "{go_on}" ]; do sleep 0.05; done')
        client = here.client()
        ids = here.submit(["one", "two", "three"], client)
        here.all_started(ids[:2])
        filler = small_disk / "filler"
        _fill(filler)

        refused = ""
        for _ in range(40):
            try:
                ids += here.submit(["x" * 20_000], client)
            except ClaudeJobsError as error:
                refused = error.message
                break
        shown = here.command("spawn", "y" * 20_000)
        _fill(filler)
        go_on.touch()
        wait_until(lambda: not proctree.marked(f"{here.home.home_id}:"))
        unrecorded = [job["state"] for job in here.call("jobs", ids=ids[:2])["jobs"]]
        filler.unlink()
        results = here.ended(ids)
        finished = [len(here.of(job_id, "finished")) for job_id in ids]
        health = here.health()

    assert "full" in refused or "space" in refused, refused
    assert "claude-jobs" in refused or "CLAUDE_JOBS_HOME" in refused
    assert shown.returncode == 4
    assert unrecorded == ["running", "running"]
    assert {result["state"] for result in results} == {"succeeded"}
    assert set(finished) == {1}
    assert [here.starts(job_id) for job_id in ids[:2]] == [1, 1]
    assert (health["store"]["drift"], health["store"]["problems"]) == ({}, [])


def test_worker_whose_log_cannot_be_written_serves_and_finishes_its_jobs(make_place: MakePlace) -> None:
    here = make_place(CLAUDE_JOBS_LOG_LEVEL="debug")
    here.home.prepare()
    argv = [sys.executable, "-P", "-m", "claude_jobs.entry", "_worker", "--home", str(here.home.root)]
    with Path("/dev/full").open("wb") as full:
        worker = subprocess.Popen(argv, env=here.env, stdin=subprocess.DEVNULL, stdout=full, stderr=full)
    here.children.append(worker)
    wait_until(lambda: is_listening(here.home) or worker.poll() is not None)

    client = here.client(start=False)
    (job_id,) = here.submit(["one"], client)
    result = client.call("result", {"job_id": job_id, "wait_s": PATIENCE_S}, 2 * PATIENCE_S)
    session = Session(here)
    refused = session.tool("status", job_ids=["j-none"])
    session.close()

    assert cast("Json", result)["state"] == "succeeded"
    assert "j-none" in refused["error"]
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0


def test_start_on_a_full_disk_says_that_it_is_full_and_what_to_do(small_disk: Path, tmp_path: Path) -> None:
    with place(tmp_path, CLAUDE_JOBS_HOME=str(small_disk / "state")) as here:
        here.home.prepare()
        _fill(small_disk / "filler")
        begun = time.monotonic()
        shown = here.command("ps")
        took_s = time.monotonic() - begun

    assert shown.returncode == 4
    assert f"The disk of '{small_disk / 'state'}' is full" in shown.stderr, shown.stderr
    assert "Free some space" in shown.stderr
    assert "CLAUDE_JOBS_HOME" in shown.stderr
    assert took_s < START_TIMEOUT_S


def _fill(filler: Path) -> None:
    """Take what room is left."""
    with filler.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                return


@pytest.mark.parametrize("damage", ["garbage", "newer"])
def test_unusable_database_is_explained_by_every_front(make_place: MakePlace, damage: str) -> None:
    here = make_place()
    here.home.prepare()
    file = here.home.db_dir / "jobs.db"
    if damage == "garbage":
        file.write_bytes(b"this is no database at all" * 1_000)
        clues = ("claude-jobs worker --stop", "mv ", "claude-jobs doctor")
    else:
        _make_newer(here)
        clues = (f"schema {SCHEMA + 1}", "Upgrade claude-jobs")
    before = file.read_bytes()

    with pytest.raises(ClaudeJobsError) as refused:
        here.client()
    shown = here.command("ps")
    session = Session(here)
    told = session.tool("spawn", prompt="x")
    session.close()

    for said in (refused.value.message, shown.stderr, told["error"]):
        for clue in (*clues, str(file)):
            assert clue in said, said
    assert shown.returncode == 4
    assert file.read_bytes() == before
    wait_until(lambda: not here.own_processes())


def test_database_moved_from_under_the_worker_takes_no_job_until_a_new_worker_begins(make_place: MakePlace) -> None:
    here = make_place()
    here.ended(here.submit(["one"]))
    file = here.home.db_dir / "jobs.db"
    file.rename(file.with_name("jobs.db.damaged"))

    refused = here.command("spawn", "two")
    stopped = here.command("worker", "--stop")
    taken = here.command("spawn", "--wait", "three")

    assert refused.returncode == 4
    assert "claude-jobs worker --stop" in refused.stderr, refused.stderr
    assert stopped.returncode == 0, stopped.stderr
    assert taken.returncode == 0, taken.stderr
    assert here.call("jobs")["total"] == 1


def test_env_file_that_is_no_text_is_told_at_once(make_place: MakePlace) -> None:
    here = make_place()
    here.home.prepare()
    here.home.env_file.write_bytes(b"CLAUDE_JOBS_MODEL=\xff\n")

    shown = here.command("ps")

    assert shown.returncode == 4
    assert str(here.home.env_file) in shown.stderr, shown.stderr
    assert "Save it as UTF-8" in shown.stderr
    assert _starts(here) == 1


def test_store_that_cannot_be_opened_is_told_after_three_tries(make_place: MakePlace) -> None:
    here = make_place()
    here.home.prepare()
    file = here.home.db_dir / "jobs.db"
    file.mkdir()

    shown = here.command("ps")

    assert shown.returncode == 4
    assert f"Cannot use '{file}'" in shown.stderr, shown.stderr
    assert _starts(here) == 3


def test_place_at_which_nobody_can_listen_is_told_by_what_stands_there(make_place: MakePlace) -> None:
    here = make_place()
    here.home.prepare()
    here.home.socket.mkdir()

    shown = here.command("ps")
    here.home.socket.rmdir()

    assert shown.returncode == 4
    assert f"Cannot listen at '{here.home.socket}'" in shown.stderr, shown.stderr
    assert _starts(here) == 3


def _starts(here: Place) -> int:
    return (here.home.logs_dir / "keeper.log").read_text().count('"worker.started"')


def _make_newer(here: Place) -> None:
    with here.client() as client:
        pid = client.welcome.pid
    here.stop()
    wait_until(lambda: pid not in here.own_processes() and not here.own_processes())
    with sqlite3.connect(here.home.db_dir / "jobs.db", isolation_level=None) as raw:
        raw.execute(f"PRAGMA user_version={SCHEMA + 1}")
        raw.execute("DELETE FROM meta WHERE key = 'min_reader'")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()


def test_state_directory_that_cannot_be_made_is_explained_by_every_front(make_place: MakePlace) -> None:
    here = make_place()
    locked = here.root / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    here.env["CLAUDE_JOBS_HOME"] = str(locked / "state")
    powerless = _powerless()

    shown = subprocess.run(
        [*powerless, COMMAND, "ps"], env=here.env, capture_output=True, text=True, timeout=PATIENCE_S, cwd=here.work
    )
    session = Session(here, *powerless, COMMAND, "mcp")
    told = session.tool("spawn", prompt="x")
    session.close()

    for said in (shown.stderr, told["error"]):
        assert str(locked) in said, said
        assert "Set CLAUDE_JOBS_HOME" in said, said
    assert shown.returncode == 4
    assert list(locked.iterdir()) == []


def _powerless() -> list[str]:
    """Root may write anywhere: as what a command has to be run to feel permissions."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv to give up root's rights")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
