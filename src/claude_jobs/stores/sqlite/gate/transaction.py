"""A group of operations that share one commit. Which operations, it does not know."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from claude_jobs.errors import StoreError, StoreUnavailable
from claude_jobs.stores.sqlite.connection import Database, mapped_errors


class Group:
    """Takes the lock and begins with the first operation that writes; `end` commits.

    Attributes:
        refused: Why nothing can be written; what only reads goes on.
        lost: An operation failed so that SQLite undid the whole transaction with it (a full disk).
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open = ExitStack()
        self._transaction: sqlite3.Connection | None = None
        self.refused: StoreError | None = None
        self.lost: StoreUnavailable | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there are writes that others do not see yet."""
        return self._transaction is not None

    @contextmanager
    def operation(self) -> Generator[sqlite3.Connection]:
        """One operation, undone alone if it fails."""
        if why := self.lost or self.refused:
            raise why.with_traceback(None)
        transaction = self._transaction or self._begin()
        with mapped_errors(self._database.path):
            transaction.execute("SAVEPOINT operation")
            try:
                yield transaction
                transaction.execute("RELEASE operation")
            except BaseException as error:
                self._undo(transaction, error)
                raise

    def _begin(self) -> sqlite3.Connection:
        try:
            self._transaction = self._open.enter_context(self._database.write(durable=False))
        except StoreError as error:
            self.refused = error
            raise
        return self._transaction

    def _undo(self, transaction: sqlite3.Connection, error: BaseException) -> None:
        if transaction.in_transaction:
            transaction.execute("ROLLBACK TO operation")
            transaction.execute("RELEASE operation")
            return
        message = (
            f"What was to be written together with an operation that failed was undone with it ({error}). Try again."
        )
        self.lost = StoreUnavailable(message, path=str(self._database.path))

    def flush(self) -> None:
        """Commit what there is and free the lock; the next write begins anew."""
        if self._transaction is None or self.lost:
            return
        self._transaction = None
        try:
            self._open.close()
        except StoreUnavailable as error:
            self.lost = error
            raise

    def end(self) -> None:
        """Commit.

        Raises:
            StoreUnavailable: Nothing of the group was stored.
        """
        self._transaction = None
        if self.lost is None:
            return self._open.close()
        self._open.__exit__(type(self.lost), self.lost, self.lost.__traceback__)
        raise self.lost
