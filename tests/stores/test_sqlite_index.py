"""The cost of `admit` in SQLite's own instructions, so that no query can quietly become a scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stores.builders import NOW, Desk, asking, batch, item

from claude_jobs.domain.job import Submission
from claude_jobs.stores.sqlite import open_sqlite, schema
from claude_jobs.stores.sqlite.admit import admit
from claude_jobs.stores.sqlite.connection import Database
from claude_jobs.stores.sqlite.lock import FileLock
from claude_jobs.stores.sqlite.rows import Rows
from claude_jobs.stores.sqlite.texts import Texts

STEP = 50
SMALL, LARGE = 100, 1_500


def instructions(directory: Path) -> int:
    """What one admission of one job costs, rolled back afterwards."""
    database = Database(directory / "jobs.db", FileLock(directory / "jobs.lock", wait_s=1))
    database.open(lambda connection: schema.migrate(connection, database.path))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += STEP
        return 0

    with database.write(durable=False) as connection:
        connection.set_progress_handler(count, STEP)
        admission = admit(Rows(connection, Texts(directory)), asking(free=1, at_depth=1, total=1))
        connection.set_progress_handler(None, STEP)
    database.close()
    assert len(admission.grants) == 1
    return steps


def fill(directory: Path, like: Submission, count: int, *, is_batch: bool, is_nested: bool) -> None:
    """Many jobs of one sort around the one that can be admitted; nested ones are at a depth that is full."""
    store = open_sqlite(directory)
    desk = Desk(store)
    desk.know()
    batch_id, cap = ("B", 0) if is_batch else ("", None)
    if is_nested:
        root = desk.one(item("root"))
        desk.store.block(root.id, desk.run().epoch, NOW)
        desk.one(item("child", parent_id=root.id))
        desk.run()
        like = replace(like, parent_id=root.id)
    store.submit(batch(*[like] * count, batch_id=batch_id, max_parallel=cap, queue_size=10_000))
    store.submit(batch(item("the one", model="sonnet", priority=-1), queue_size=10_000))
    store.close()


@pytest.mark.parametrize(
    ("like", "is_batch", "is_nested"),
    [
        (item(), False, False),
        (item(), True, False),
        (item(offers=("nobody has it",)), False, False),
        (item(pool="host:b"), False, False),
        (item(not_before_ms=NOW + 10**9), False, False),
        (item(deadline_ms=NOW + 10**9), False, False),
        (item(after=("#0",)), False, False),
        (item(), False, True),
    ],
    ids=["ready", "parked batch", "no token", "other pool", "delayed", "with deadline", "waiting", "full depth"],
)
def test_a_crowd_does_not_make_admission_dearer(
    tmp_path: Path, like: Submission, is_batch: bool, is_nested: bool
) -> None:
    fill(tmp_path / "small", like, SMALL, is_batch=is_batch, is_nested=is_nested)
    fill(tmp_path / "large", like, LARGE, is_batch=is_batch, is_nested=is_nested)

    assert instructions(tmp_path / "large") <= 1.5 * instructions(tmp_path / "small")
