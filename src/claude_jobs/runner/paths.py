"""Where the state lives, and the names of what lies in it. Standard library only: the bridge loads this file.

The socket is not in the state directory, because a socket's path may have 100 bytes and a home may not. Two fronts can
be started with different XDG_RUNTIME_DIR or TMPDIR, so whoever listens writes the path down (`socket_note`).
"""

from __future__ import annotations

import binascii
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from claude_jobs.errors import StoreUnavailable

_APP = "claude-jobs"
_SOCKET_BYTES = 100
_REMOTE = frozenset({"nfs", "nfs4", "9p", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs", "drvfs"})


class Home(NamedTuple):
    """One user's state on one machine. Not a dataclass: that import alone costs each bridge 9 ms and 1.5 MB.

    Attributes:
        root: The directory of the state, absolute and on a local file system.
        runtime_dir: The directory of the socket.
        configured: The directory that was asked for; differs from `root` when that is on a network file system.
        notice: What the user should be told about the place, "" if nothing.
    """

    root: Path
    runtime_dir: Path
    configured: Path
    notice: str = ""

    @classmethod
    def resolve(cls, environ: Mapping[str, str]) -> Home:
        """The home that `environ` asks for. Creates nothing."""
        configured = Path(os.path.realpath(_wanted(environ)))
        root, notice = local_place(configured, environ, read_mounts())
        return cls(root, _runtime_dir(environ, root), configured, notice)

    @property
    def home_id(self) -> str:
        """8 hex digits that tell homes of one user apart; part of process marks and socket names."""
        return _short_id(self.root)

    @property
    def db_dir(self) -> Path:
        """Databases."""
        return self.root / "db"

    @property
    def socket(self) -> Path:
        """Where a worker started in this environment listens."""
        return self.runtime_dir / f"{self.home_id}.sock"

    @property
    def socket_note(self) -> Path:
        """File with the path at which the running worker really listens."""
        return self.root / "socket"

    @property
    def elect_lock(self) -> Path:
        """Held by the keeper whose worker is the one."""
        return self.root / "elect.lock"

    @property
    def start_lock(self) -> Path:
        """Held by the front that is starting a keeper, so that fifty fronts start one."""
        return self.root / "start.lock"

    @property
    def workers_dir(self) -> Path:
        """One lock file a living worker."""
        return self.root / "workers"

    @property
    def results_dir(self) -> Path:
        """Results, written before a job is finished."""
        return self.root / "results"

    @property
    def worktrees_dir(self) -> Path:
        """Git worktrees of jobs, named after them."""
        return self.root / "worktrees"

    @property
    def logs_dir(self) -> Path:
        """keeper.log and worker.log."""
        return self.root / "logs"

    @property
    def batches_dir(self) -> Path:
        """Finished answers of batches that can be gone on with; made on first use."""
        return self.root / "batches"

    @property
    def env_file(self) -> Path:
        """The user's own settings and credentials."""
        return self.configured / ".env"

    @property
    def http_token_file(self) -> Path:
        """The bearer token of the HTTP endpoints."""
        return self.root / "http.token"

    @property
    def lineage_key_file(self) -> Path:
        """The key behind the secrets that jobs prove themselves with."""
        return self.root / "lineage.key"

    @property
    def lineage_dir(self) -> Path:
        """What attempts of jobs that may spawn are given, by owner: private, gone when the attempt ends."""
        return self.root / "lineage"

    def prepare(self) -> None:
        """Create the directories, private to the user.

        Raises:
            StoreUnavailable: One cannot be created, written to, or belongs to someone else.
        """
        for directory in (self.root, self.db_dir, self.workers_dir, self.results_dir, self.logs_dir):
            private_dir(directory, "Set CLAUDE_JOBS_HOME to a directory that you own and can write to.")
        private_dir(self.runtime_dir, "Remove it, or set TMPDIR to a directory of your own.")


def private_dir(path: Path, remedy: str) -> None:
    """Make sure that `path` is a directory of ours which nobody else can enter.

    Raises:
        StoreUnavailable: It is not and cannot be made so.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StoreUnavailable(f"{str(path)!r} is not a directory. {remedy}", path=str(path))
        if found.st_uid != os.getuid():
            message = f"{str(path)!r} belongs to user {found.st_uid}, not to you ({os.getuid()}). {remedy}"
            raise StoreUnavailable(message, path=str(path))
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StoreUnavailable(f"Cannot use {str(path)!r}: {error.strerror}. {remedy}", path=str(path)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"Cannot write to {str(path)!r}. {remedy}", path=str(path))


def is_private_dir(path: Path) -> bool:
    """Whether `path` is a directory of ours that nobody else can write to: a socket in it is ours."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o022


def expanded(path: str | Path) -> Path:
    """With the home directory that "~" names; what names nobody's stays as it is, and will not be found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _wanted(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("CLAUDE_JOBS_HOME", ""):
        return expanded(chosen)
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if state.is_absolute():
        return state / _APP
    if sys.platform == "darwin":
        return _user_home(environ) / "Library" / "Application Support" / _APP
    return _user_home(environ) / ".local" / "state" / _APP


def _user_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "") or Path("~").expanduser())


def _short_id(path: Path) -> str:
    # Not a hashlib digest: importing OpenSSL would cost each bridge 3 MB, and nobody gains by a collision.
    return f"{binascii.crc32(os.fsencode(path)):08x}"


def _runtime_dir(environ: Mapping[str, str], root: Path) -> Path:
    name = f"{_short_id(root)}.sock"
    given = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if given.is_absolute() and is_private_dir(given) and _fits(given / _APP / name):
        return given / _APP
    own = f"{_APP}-{os.getuid()}"
    temporary = Path(environ.get("TMPDIR", ""))
    if temporary.is_absolute() and temporary.is_dir() and _fits(temporary / own / name):
        return temporary / own
    return Path("/tmp") / own  # noqa: S108  # owned, 0700 and checked


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_BYTES


def local_place(configured: Path, environ: Mapping[str, str], mounts: Mapping[str, str]) -> tuple[Path, str]:
    """`configured`, or a local stand-in for it: file locks and SQLite's WAL need one machine's kernel."""
    kind = _file_system(configured, mounts)
    if kind not in _REMOTE:
        return configured, ""
    for base in ("/var/tmp", environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108  # owned, 0700 and checked
        if Path(base).is_absolute() and Path(base).is_dir() and _file_system(Path(base), mounts) not in _REMOTE:
            local = Path(os.path.realpath(base)) / f"{_APP}-{os.getuid()}" / _short_id(configured)
            return local, f"{str(configured)!r} is on {kind}; the state is kept in {str(local)!r} on this machine."
    return (
        configured,
        f"{str(configured)!r} is on {kind}, which cannot lock files safely, and no local directory is there.",
    )


def read_mounts(table: Path = Path("/proc/mounts")) -> dict[str, str]:
    """Mount point -> type of file system; empty where there is no such table (macOS)."""
    try:
        lines = table.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return {}
    rows = (line.split(" ") for line in lines)
    return {row[1].replace("\\040", " "): row[2] for row in rows if len(row) > 2}


def _file_system(path: Path, mounts: Mapping[str, str]) -> str:
    return next((mounts[str(place)] for place in (path, *path.parents) if str(place) in mounts), "")
