"""Deleting old jobs: never what an unfinished one still needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stores.builders import NOW, Desk, asking, item, spec

from claude_jobs.domain.job import Failure, JobState
from claude_jobs.domain.token import TokenKind, TokenNote
from claude_jobs.errors import JobNotFound
from claude_jobs.stores.base import JobFilter


def test_prune_deletes_old_ended_jobs_only_in_small_batches(desk: Desk) -> None:
    old = [desk.complete(desk.one(item(f"{n}"))).id for n in range(5)]
    live = desk.one(item(key="live"))

    assert desk.store.prune(NOW, 10) == 0
    assert [desk.store.prune(NOW + 1, 3), desk.store.prune(NOW + 1, 3), desk.store.prune(NOW + 1, 3)] == [3, 2, 0]
    assert [job.id for job in desk.store.list(JobFilter()).jobs] == [live.id]
    assert {event.job_id for event in desk.store.read(0)} == {live.id}
    assert desk.store.attempts(old[0]) == ()


def test_prune_forgets_tokens_that_nobody_has_seen_for_long(desk: Desk) -> None:
    later = NOW + 1_000_000
    names = ("idle", "seen", "cooling", "cooled", "refused", "ready", "delayed", "waiting", "running", "ended")
    desk.store.register_tokens([(name, name, TokenKind.OAUTH) for name in names], NOW)
    desk.store.register_tokens([("seen", "seen", TokenKind.OAUTH)], later)
    desk.store.note_token("cooling", TokenNote(cool_window="", cool_until_ms=later + 1), NOW)
    desk.store.note_token("cooled", TokenNote(cool_window="", cool_until_ms=NOW + 1), NOW)
    desk.store.note_token("refused", TokenNote(quarantine="no"), NOW)
    for name in ("ended", "running"):
        desk.one(item(offers=(name,)))
    desk.run(asking(held=("running",)))
    desk.close(desk.run(asking(held=("ended",))))
    waited_for = desk.one(item(offers=("ready",)))
    desk.one(item(offers=("delayed",), not_before_ms=later + 1))
    desk.one(item(offers=("waiting",), after=(waited_for.id,)))

    desk.store.prune(later)

    kept = {token.fingerprint for token in desk.store.tokens()}
    assert kept == {"seen", "cooling", "refused", "ready", "delayed", "waiting", "running"}


def test_prune_keeps_a_parent_whose_children_still_run(desk: Desk) -> None:
    root = desk.one()
    grant = desk.run()
    child = desk.one(item(parent_id=root.id))
    desk.end(grant)

    kept = desk.store.prune(NOW + 1)
    desk.store.cancel([child.id], "x", NOW)

    assert kept == 0
    assert desk.store.prune(NOW + 1) == 2


def test_a_tree_is_kept_as_a_whole_while_one_of_it_is_unfinished(desk: Desk) -> None:
    root = desk.one()
    above = desk.run()
    child = desk.one(item("child", parent_id=root.id))
    grant = desk.run()
    grandchild = desk.one(item("grandchild", parent_id=child.id))
    ended = desk.complete(desk.one(item("sibling", parent_id=root.id, priority=9)))
    desk.close(grant)
    desk.close(above)

    assert desk.store.prune(NOW + 1) == 0
    assert ended.state is JobState.SUCCEEDED
    desk.complete(grandchild)
    assert desk.store.prune(NOW + 1) == 4


def test_a_root_that_still_runs_keeps_its_children(desk: Desk) -> None:
    root = desk.one()
    grant = desk.run()
    desk.complete(desk.one(item("child", parent_id=root.id)))

    assert desk.store.prune(NOW + 1) == 0
    desk.close(grant)
    assert desk.store.prune(NOW + 1) == 2


def test_a_dependency_is_kept_until_its_dependents_have_ended(desk: Desk) -> None:
    first, other = desk.submit(item("first"), item("other"))
    last = desk.one(item("last", after=(first.id,)))
    desk.complete(first)
    desk.complete(other)

    assert desk.store.prune(NOW + 1) == 1
    with pytest.raises(JobNotFound):
        desk.store.get(other.id)
    desk.complete(last)
    assert desk.store.prune(NOW + 1) == 2


@pytest.mark.parametrize("fork", [False, True])
def test_a_session_is_kept_that_an_unfinished_job_goes_on_with(desk: Desk, fork: bool) -> None:
    first = desk.complete(desk.one())
    resuming = replace(spec("go on"), resume_session=first.session_id, fork=fork)
    second = desk.one(replace(item(session_id="" if fork else first.session_id), spec=resuming))

    assert desk.store.prune(NOW + 1) == 0
    desk.complete(second, Failure.REFUSED)
    assert desk.store.prune(NOW + 1) == 2
