"""Asking about jobs, and looking after old ones."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, batch, failed, item

from claude_jobs.domain.job import Failure, JobState, Outcome, PublicState
from claude_jobs.domain.token import TokenKind, TokenNote, Window
from claude_jobs.errors import JobNotFound
from claude_jobs.policy.eta import Place
from claude_jobs.stores.base import JobFilter


def finished(desk: Desk, count: int) -> list[str]:
    jobs = desk.submit(*(item(f"{n}") for n in range(count)))
    for grant in desk.admit(asking(free=count)).grants:
        desk.store.begin(grant.job.id, grant.epoch, None, NOW)
        desk.end(grant, Outcome(text="long " * 100))
    return [job.id for job in jobs]


def test_an_unknown_job_is_not_found(desk: Desk) -> None:
    with pytest.raises(JobNotFound) as missing:
        desk.store.get("j-none")

    assert missing.value.job_id == "j-none"
    assert desk.store.attempts("j-none") == ()


def test_pages_are_newest_first_and_complete(desk: Desk) -> None:
    jobs = desk.submit(*(item(f"{n}") for n in range(7)))
    seen: list[str] = []
    cursor = ""
    while True:
        page = desk.store.list(JobFilter(limit=3, cursor=cursor))
        seen += [job.id for job in page.jobs]
        cursor = page.cursor
        if not cursor:
            break

    assert seen == [job.id for job in reversed(jobs)]
    assert page.total == 7


def test_a_new_job_does_not_shift_the_pages(desk: Desk) -> None:
    jobs = desk.submit(*(item() for _ in range(4)))
    first = desk.store.list(JobFilter(limit=2))
    desk.one()
    second = desk.store.list(JobFilter(limit=2, cursor=first.cursor))

    assert [job.id for job in (*first.jobs, *second.jobs)] == [job.id for job in reversed(jobs)]


@pytest.mark.parametrize("cursor", ["nonsense", "MS45OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "LTEuMQ"])
def test_a_cursor_of_someone_else_starts_again(desk: Desk, cursor: str) -> None:
    job = desk.one()

    assert [found.id for found in desk.store.list(JobFilter(cursor=cursor)).jobs] == [job.id]


def test_lists_leave_out_result_text(desk: Desk) -> None:
    finished(desk, 1)
    (job,) = desk.store.list(JobFilter()).jobs

    assert job.outcome is not None
    assert job.outcome.text == ""


def test_filters(desk: Desk) -> None:
    red = desk.one(item(label="red", labels=("x", "colour")))
    blue = desk.one(item(label="blue", labels=("colour",)))
    batched = desk.store.submit(batch(item(), batch_id="B"))[0].job
    desk.store.cancel([blue.id], "x", NOW)

    def found(query: JobFilter) -> list[str]:
        return [job.id for job in desk.store.list(query).jobs]

    assert found(JobFilter(label="red")) == [red.id]
    assert found(JobFilter(label="colour")) == [blue.id, red.id]
    assert found(JobFilter(label="colo")) == []
    assert found(JobFilter(batch_id="B")) == [batched.id]
    assert found(JobFilter(states=(PublicState.CANCELLED,))) == [blue.id]
    assert found(JobFilter(ids=(red.id, "j-none"))) == [red.id]
    assert found(JobFilter(ids=(red.id,), states=(PublicState.RUNNING,))) == []


def test_filters_by_tree_and_parent(desk: Desk) -> None:
    root, other = desk.submit(item("root"), item("other"))
    child, sibling = desk.submit(item("child", parent_id=root.id), item("sibling", parent_id=root.id))
    grandchild = desk.one(item("grandchild", parent_id=child.id))

    def found(query: JobFilter) -> list[str]:
        return [job.id for job in desk.store.list(query).jobs]

    assert found(JobFilter(root_id=root.id)) == [grandchild.id, sibling.id, child.id, root.id]
    assert found(JobFilter(root_id=other.id)) == [other.id]
    assert found(JobFilter(root_id=child.id)) == []
    assert found(JobFilter(parent_id=root.id)) == [sibling.id, child.id]
    assert found(JobFilter(root_id=root.id, parent_id=child.id)) == [grandchild.id]
    assert found(JobFilter(parent_id="j-none")) == []


def test_unread_results_come_first(desk: Desk) -> None:
    old, read = finished(desk, 2)
    desk.store.mark_read([read, "j-none"], NOW + 1)
    queued = desk.one()
    desk.store.mark_read([queued.id], NOW + 1)

    listed = [job.id for job in desk.store.list(JobFilter(unread_first=True)).jobs]

    assert listed == [old, queued.id, read]
    assert desk.store.get(read).read_ms == NOW + 1
    assert desk.store.get(queued.id).read_ms is None
    assert desk.store.counts().unread == 1


def test_counts_by_public_state(desk: Desk) -> None:
    finished(desk, 2)
    desk.submit(item(), item(), item(not_before_ms=NOW + 9))
    desk.run(asking(free=1))

    assert desk.store.counts().by_state == {
        PublicState.SUCCEEDED: 2,
        PublicState.QUEUED: 2,
        PublicState.RUNNING: 1,
    }


def test_ahead_is_the_place_in_the_queue(desk: Desk) -> None:
    first, second, urgent = desk.submit(item(), item(), item(priority=1))
    running = desk.grant(asking(free=1)).job

    assert running.id == urgent.id
    assert desk.store.places([first.id, second.id, urgent.id]) == {
        first.id: Place(),
        second.id: Place(ahead=1),
        urgent.id: Place(),
    }


def test_version_changes_with_every_write(desk: Desk) -> None:
    versions = [desk.store.version()]
    job = desk.one()
    versions.append(desk.store.version())
    desk.run()
    versions.append(desk.store.version())
    desk.store.cancel([job.id], "x", NOW)
    versions.append(desk.store.version())

    assert len(set(versions)) == 4
    assert desk.store.version() == versions[-1]


def test_tokens_keep_what_is_known_and_take_the_new_name(desk: Desk) -> None:
    note = TokenNote(windows={"five_hour": Window(utilization=0.5, resets_at_ms=NOW + 1)}, quarantine="no")
    desk.store.note_token("bbb", note, NOW + 1)
    desk.store.note_token("unknown", note, NOW + 1)
    desk.store.register_tokens([("bbb", "1st", TokenKind.OAUTH)], NOW + 2)

    names = [token.name for token in desk.store.tokens()]
    state = desk.store.tokens()[0]

    assert names == ["1st", "AAA", "CCC"]
    assert (state.quarantined, state.seen_ms, dict(state.windows)) == ("no", NOW + 2, dict(note.windows))


def test_a_key_is_free_again_after_its_job_was_pruned(desk: Desk) -> None:
    desk.one(item("this", key="k"))
    desk.end(desk.run(), failed(Failure.BAD_REQUEST))
    desk.store.prune(NOW + 1)

    assert desk.one(item("that", key="k")).state is JobState.READY


def test_event_numbers_are_never_used_again(desk: Desk) -> None:
    finished(desk, 1)
    last = desk.store.read(0)[-1].seq
    desk.store.prune(NOW + 1)
    desk.one()

    assert desk.store.read(0)[0].seq == last + 1
