"""Connections, transactions and errors of one database file. No table is named here.

Up to three connections: FULL (survives power loss), NORMAL (survives kill -9) and one for reads, whose `data_version`
therefore changes with every write of anyone. All writes and checkpoints happen under the file lock: with two writers or
checkpointers at once SQLite before 3.51.3 can lose pages at a WAL reset.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from claude_jobs.errors import StoreCorrupt, StoreUnavailable
from claude_jobs.stores.sqlite.lock import FileLock

BUSY_MS = 5_000
"""Writers never meet each other; this is for a recovery or a last close in progress."""
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""Size of the log at which it is folded into the file, unless a database has its own."""
CHECKPOINT_PATIENCE = 64
"""Writes between two tries, when readers keep the log from being reset."""
CHECKPOINT_BUSY_MS = 20

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


Mode = Literal["FULL", "NORMAL"]


class Database:
    """One open file, for one process. `modes` are the durabilities that its writes may ask for."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        *,
        modes: tuple[Mode, ...] = ("FULL", "NORMAL"),
        log_bytes: int | None = None,
        page_bytes: int = 4096,
    ) -> None:
        self.path = path
        self._lock = lock
        self._modes = modes
        self._log_bytes = log_bytes
        self._page_bytes = page_bytes
        self._name, self._wal_name = str(path), f"{path}-wal"
        self._file = (0, 0)
        self._pid = os.getpid()
        self._connections: dict[str, sqlite3.Connection] = {}
        self._writes = 0

    def open(self, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """Create or open the file and let `prepare` bring its schema up to date, all under the lock."""
        with mapped_errors(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock.held():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._file = _identity(self._name)
                first = self._connect(self._modes[0])
                first.execute(f"PRAGMA page_size={self._page_bytes}")  # of a new file
                first.execute("PRAGMA journal_mode=WAL")
                prepare(first)
                for mode in self._modes[1:]:
                    self._connect(mode)
                self._connect("READ")

    def _connect(self, name: Mode | Literal["READ"]) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        self._connections[name] = connection
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA mmap_size=0")
        if name == "READ":
            connection.execute("PRAGMA query_only=ON")
            connection.execute("PRAGMA data_version")
        else:
            connection.execute(f"PRAGMA synchronous={name}")
        return connection

    @contextmanager
    def write(self, *, durable: bool) -> Generator[sqlite3.Connection]:
        """One write transaction under the lock; `durable` ones are on the disk when this returns."""
        connection = self._of("FULL" if durable else "NORMAL")
        with mapped_errors(self.path), self._lock.held():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._writes += 1
            self._checkpoint_if_due(connection)

    @contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """One consistent view, without the lock. Keep it short: a reader holds up checkpoints."""
        connection = self._of("READ")
        with mapped_errors(self.path):
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def reader(self) -> sqlite3.Connection:
        """For one statement, which is a consistent view by itself. Call it within `mapped_errors`."""
        return self._of("READ")

    def check_there(self) -> None:
        """A deleted file goes on for those who have it open, and only for them.

        Raises:
            StoreUnavailable: The path is not, or no more, the file that was opened.
        """
        try:
            if _identity(self._name) == self._file:
                return
        except FileNotFoundError:
            pass
        message = (
            f"{str(self.path)!r} was deleted or replaced while it was in use. "
            "Put it back, or end the worker (`claude-jobs worker --stop`): the next one begins with the file that is there then."
        )
        raise StoreUnavailable(message, path=str(self.path))

    def data_version(self) -> int:
        """Changes with every commit of anyone."""
        with mapped_errors(self.path):
            return int(self._of("READ").execute("PRAGMA data_version").fetchone()[0])

    def _of(self, name: str) -> sqlite3.Connection:
        if name not in self._connections or self._pid != os.getpid():
            why = "is closed" if self._pid == os.getpid() else "was opened by another process"
            raise StoreUnavailable(f"The store {str(self.path)!r} {why}. Open it again.", path=str(self.path))
        return self._connections[name]

    def _checkpoint_if_due(self, connection: sqlite3.Connection) -> None:
        if self._writes < CHECKPOINT_PATIENCE or self._wal_bytes() < (self._log_bytes or CHECKPOINT_BYTES):
            return
        self._writes = 0
        connection.execute(f"PRAGMA busy_timeout={CHECKPOINT_BUSY_MS}")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            pass  # the commit stands; a full disk will refuse the next write and say so
        finally:
            connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")

    def _wal_bytes(self) -> int:
        try:
            return os.stat(self._wal_name).st_size  # noqa: PTH116
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Close everything; the last one to close folds the log into the file, so that too is under the lock."""
        connections, self._connections = self._connections, {}
        if not connections:
            return self._lock.close()
        try:
            with mapped_errors(self.path), self._lock.held():
                for connection in connections.values():
                    connection.close()
        finally:
            self._lock.close()


def _identity(name: str) -> tuple[int, int]:
    found = os.stat(name)  # noqa: PTH116 - twice as fast, and asked for with every write
    return found.st_dev, found.st_ino


@contextmanager
def mapped_errors(path: Path) -> Generator[None]:
    """Turns what SQLite and the file system say into our errors, with the next step."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        mapped = _mapped(error, path)
        if mapped is None:
            raise
        raise mapped from error
    except OSError as error:
        where = str(error.filename or path)
        message = f"Cannot use {where!r}: {error.strerror or error}. {_ADVICE}"
        raise StoreUnavailable(message, path=where) from error


_ADVICE = "Check its permissions and free space, or set CLAUDE_JOBS_HOME to another directory."


def _mapped(error: sqlite3.DatabaseError, path: Path) -> StoreCorrupt | StoreUnavailable | None:
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if primary in _CORRUPT:
        message = (
            f"The database {str(path)!r} is damaged ({error}). To start afresh stop the worker (`claude-jobs worker --stop`), "
            f"then move it aside (`mv {path} {path}.damaged`). Or ask `claude-jobs doctor`."
        )
        return StoreCorrupt(message, path=str(path))
    if primary in _AWAY:
        return StoreUnavailable(f"Cannot use {str(path)!r}: {error}. {_ADVICE}", path=str(path))
    return None
