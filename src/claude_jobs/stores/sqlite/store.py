"""JobStore on SQLite: which operation is one transaction of which kind. The work itself is in the files beside this one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from claude_jobs.domain.event import Event, NewEvent
from claude_jobs.domain.job import Attempt, Job, Outcome, ProcessRef, Progress
from claude_jobs.domain.token import TokenKind, TokenNote, TokenState
from claude_jobs.policy.eta import Place
from claude_jobs.policy.retry import Disposition
from claude_jobs.stores.base import (
    Admission,
    AdmitRequest,
    AuditReport,
    Beat,
    CancelAck,
    Counts,
    JobFilter,
    Limits,
    Page,
    Receipt,
    SubmitRequest,
)
from claude_jobs.stores.sqlite import care, ending, reads, runs, schema, settle
from claude_jobs.stores.sqlite.admit import admit
from claude_jobs.stores.sqlite.board import Board
from claude_jobs.stores.sqlite.connection import Database, mapped_errors
from claude_jobs.stores.sqlite.lock import FileLock
from claude_jobs.stores.sqlite.peek import peek
from claude_jobs.stores.sqlite.reopen import reopen
from claude_jobs.stores.sqlite.rows import Rows
from claude_jobs.stores.sqlite.submit import find_key, submit
from claude_jobs.stores.sqlite.texts import Texts

LOCK_WAIT_S = 10.0


def open_sqlite(directory: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> SqliteStore:
    """Open the store in `directory`, creating what is missing.

    Raises:
        StoreUnavailable: The directory cannot be written, or the lock was not had.
        StoreCorrupt: `jobs.db` is no database.
        StoreTooNew: A newer claude-jobs wrote it.
    """
    database = Database(directory / "jobs.db", FileLock(directory / "jobs.lock", wait_s=lock_wait_s))
    try:
        database.open(lambda connection: schema.migrate(connection, database.path))
    except BaseException:
        database.close()
        raise
    return SqliteStore(database, Texts(directory / "texts"))


class SqliteStore:
    """Files: jobs.db (and its -wal, -shm), jobs.lock, jobs.turn, texts/."""

    def __init__(self, database: Database, texts: Texts) -> None:
        self._database = database
        self._texts = texts

    @contextmanager
    def _write(self, *, durable: bool) -> Generator[Rows]:
        with self._database.write(durable=durable) as connection:
            self._database.check_there()  # under the lock, for which we may have waited
            rows = Rows(connection, self._texts)
            yield rows
        with mapped_errors(self._database.path):
            self._texts.remove(rows.dropped)

    @contextmanager
    def _read(self) -> Generator[Rows]:
        with self._database.read() as connection:
            yield Rows(connection, self._texts)

    def submit(self, request: SubmitRequest) -> tuple[Receipt, ...]:
        """See JobStore."""
        with self._write(durable=True) as rows:
            return submit(rows, request)

    def set_batch(self, batch_id: str, *, max_parallel: int | None, fail_fast: bool) -> None:
        """See JobStore."""
        with self._write(durable=True) as rows:
            if rows.number("SELECT 1 FROM jobs WHERE batch_id = ? AND batch_id <> '' LIMIT 1", batch_id):
                rows.set_batch(batch_id, max_parallel, fail_fast=fail_fast)

    def admit(self, request: AdmitRequest) -> Admission:
        """See JobStore. Losing it with the power is harmless: the jobs are ready again."""
        with self._write(durable=False) as rows:
            return admit(rows, request)

    def begin(
        self, job_id: str, epoch: int, process: ProcessRef | None, now_ms: int, *, session_id: str | None = None
    ) -> bool:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return settle.begin(rows, job_id, epoch, process, now_ms, session_id)

    def beat(self, owner: str, held: Sequence[tuple[str, int]], now_ms: int) -> Beat:
        """See JobStore."""
        with self._read() as rows:
            return reads.beat(rows, owner, held)

    def block(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return settle.block(rows, job_id, epoch, now_ms)

    def unblock(self, job_id: str, epoch: int, now_ms: int) -> bool:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return settle.unblock(rows, job_id, epoch, now_ms)

    def reopen(self, job_ids: Sequence[str], now_ms: int, *, tree: bool = False, asker: str = "") -> tuple[Job, ...]:
        """See JobStore."""
        with self._write(durable=True) as rows:
            return reopen(rows, job_ids, now_ms, tree=tree, asker=asker)

    def move(
        self, job_id: str, epoch: int, note: TokenNote, held: frozenset[str], limits: Limits, now_ms: int
    ) -> str | None:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return settle.move(rows, job_id, epoch, note, held, limits, now_ms)

    def finish(
        self, job_id: str, epoch: int, outcome: Outcome, disposition: Disposition, note: TokenNote | None, now_ms: int
    ) -> bool:
        """See JobStore."""
        with self._write(durable=True) as rows:
            return settle.finish(rows, job_id, epoch, outcome, disposition, note, now_ms)

    def cancel(self, job_ids: Sequence[str], why: str, now_ms: int) -> tuple[CancelAck, ...]:
        """See JobStore."""
        with self._write(durable=True) as rows:
            return ending.cancel(rows, job_ids, why, now_ms)

    def append(
        self, job_id: str, epoch: int, events: Sequence[NewEvent], progress: Progress | None, now_ms: int
    ) -> bool:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return settle.append(rows, job_id, epoch, events, progress, now_ms)

    def read(self, after: int, job_id: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """See JobStore."""
        with self._read() as rows:
            return reads.read(rows, after, job_id, limit)

    def version(self) -> int:
        """See JobStore. Comparable within one open store only."""
        return self._database.data_version()

    def get(self, job_id: str) -> Job:
        """See JobStore."""
        with self._read() as rows:
            return rows.get(job_id, whole=True)

    def find_key(self, submitter: str, key: str) -> Job | None:
        """See JobStore."""
        with self._read() as rows:
            return find_key(rows, submitter, key)

    def list(self, query: JobFilter) -> Page:
        """See JobStore."""
        with self._read() as rows:
            return reads.list_jobs(rows, query)

    def counts(self) -> Counts:
        """See JobStore."""
        with self._read() as rows:
            return reads.counts(rows)

    def places(self, job_ids: Sequence[str]) -> dict[str, Place]:
        """See JobStore."""
        with self._read() as rows:
            return reads.places(rows, job_ids)

    def peek(self, request: AdmitRequest, limit: int) -> tuple[Job, ...]:
        """See JobStore."""
        with self._read() as rows:
            return peek(rows, request, limit)

    def run_times(self, kind: str, limit: int = 50) -> tuple[int, ...]:
        """See JobStore."""
        with self._read() as rows:
            return runs.times(rows, kind, limit)

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """See JobStore."""
        with self._read() as rows:
            return reads.attempts(rows, job_id)

    def mark_read(self, job_ids: Sequence[str], now_ms: int) -> None:
        """See JobStore."""
        with self._write(durable=False) as rows:
            settle.mark_read(rows, job_ids, now_ms)

    def owners(self) -> tuple[str, ...]:
        """See JobStore."""
        with self._read() as rows:
            return reads.owners(rows)

    def owned(self, owner: str) -> tuple[Attempt, ...]:
        """See JobStore."""
        with self._read() as rows:
            return reads.owned(rows, owner)

    def register_tokens(self, tokens: Sequence[tuple[str, str, TokenKind]], now_ms: int) -> None:
        """See JobStore."""
        with self._write(durable=False) as rows:
            Board(rows).register(tokens, now_ms)

    def note_token(self, fingerprint: str, note: TokenNote, now_ms: int) -> None:
        """See JobStore."""
        with self._write(durable=False) as rows:
            Board(rows).note(fingerprint, note, now_ms)

    def tokens(self) -> tuple[TokenState, ...]:
        """See JobStore."""
        with self._read() as rows:
            return reads.tokens(rows)

    def prune(self, before_ms: int, limit: int = 200) -> int:
        """See JobStore."""
        with self._write(durable=False) as rows:
            return care.prune(rows, before_ms, limit)

    def audit(self, now_ms: int) -> AuditReport:
        """See JobStore. Files that no row names (a crash before the commit) are removed on the way."""
        with self._write(durable=False) as rows:
            self._texts.remove(self._texts.orphans(care.text_files(rows)))
            return care.audit(rows, now_ms)

    def close(self) -> None:
        """See JobStore."""
        self._database.close()
