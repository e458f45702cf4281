"""Where the state is put."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from claude_jobs.errors import StoreUnavailable
from claude_jobs.runner import paths
from claude_jobs.runner.paths import Home


def test_the_home_is_the_configured_directory(tmp_path: Path) -> None:
    home = Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "a")})

    assert home.root == tmp_path / "a"
    assert home.env_file == tmp_path / "a" / ".env"


def test_without_configuration_it_is_the_state_directory(tmp_path: Path) -> None:
    assert Home.resolve({"XDG_STATE_HOME": str(tmp_path)}).root == tmp_path / "claude-jobs"
    assert Home.resolve({"HOME": str(tmp_path)}).root == tmp_path / ".local" / "state" / "claude-jobs"


def test_a_relative_state_directory_is_ignored(tmp_path: Path) -> None:
    home = Home.resolve({"XDG_STATE_HOME": "state", "HOME": str(tmp_path)})

    assert home.root == tmp_path / ".local" / "state" / "claude-jobs"


def test_the_socket_goes_to_the_runtime_directory_if_that_is_ours(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)

    home = Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "a"), "XDG_RUNTIME_DIR": str(runtime)})

    assert home.socket.parent in (runtime / "claude-jobs", Path(f"/tmp/claude-jobs-{os.getuid()}"))
    assert home.socket.name == f"{home.home_id}.sock"


def test_the_socket_path_is_short_whatever_the_directories(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir(mode=0o700)

    home = Home.resolve({"CLAUDE_JOBS_HOME": str(long), "XDG_RUNTIME_DIR": str(long), "TMPDIR": str(long)})

    assert len(os.fsencode(home.socket)) <= 100


def test_two_homes_have_two_sockets(tmp_path: Path) -> None:
    first, second = (Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / name)}) for name in "ab")

    assert first.socket != second.socket


def test_a_home_reached_by_two_names_is_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "link")}) == Home.resolve(
        {"CLAUDE_JOBS_HOME": str(tmp_path / "real")}
    )


def test_prepare_makes_private_directories(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    home = Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "a"), "TMPDIR": str(tmp_path)})

    home.prepare()

    for directory in (home.root, home.db_dir, home.workers_dir, home.results_dir, home.logs_dir, home.runtime_dir):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    home = Home.resolve({"CLAUDE_JOBS_HOME": str(tmp_path / "a"), "TMPDIR": str(tmp_path)})

    with pytest.raises(StoreUnavailable, match="Set CLAUDE_JOBS_HOME") as raised:
        home.prepare()

    assert raised.value.path == str(tmp_path / "a")


@pytest.mark.parametrize("place", ["/proc/claude-jobs", "/sys/claude-jobs"])
def test_a_place_that_cannot_be_written_is_refused_with_advice(place: str) -> None:
    with pytest.raises(StoreUnavailable, match="Set CLAUDE_JOBS_HOME"):
        Home.resolve({"CLAUDE_JOBS_HOME": place}).prepare()


def test_a_link_in_place_of_the_socket_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"claude-jobs-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    place = tmp_path / f"claude-jobs-{os.getuid()}"

    with pytest.raises(StoreUnavailable):
        paths.private_dir(place, "Remove it.")
    assert not paths.is_private_dir(place)


def test_on_a_network_file_system_a_local_directory_is_used_and_said(tmp_path: Path) -> None:
    mounts = {"/": "ext4", "/home": "nfs4"}

    root, notice = paths.local_place(Path("/home/u/.local/state/claude-jobs"), {}, mounts)

    assert root.is_relative_to(os.path.realpath("/var/tmp"))
    assert "nfs4" in notice
    assert str(root) in notice


def test_where_everything_is_remote_the_configured_directory_stays_and_that_is_said() -> None:
    root, notice = paths.local_place(Path("/srv/a"), {}, {"/": "9p"})

    assert root == Path("/srv/a")
    assert "cannot lock" in notice


def test_mount_points_with_spaces_are_read(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("server:/x /mnt/my\\040share nfs rw 0 0\n")

    assert paths.read_mounts(tmp_path / "mounts") == {"/mnt/my share": "nfs"}
    assert paths.read_mounts(tmp_path / "none") == {}
