"""Looking ahead: what would be handed out next, places in the queue, how long jobs ran."""

from __future__ import annotations

import pytest
from stores.builders import NOW, Desk, asking, batch, cooling, item

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.token import TokenKind, TokenNote
from claude_jobs.policy import estimate
from claude_jobs.policy.eta import Place
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import AdmitRequest


def ahead(desk: Desk, request: AdmitRequest | None = None, limit: int = 10) -> list[str]:
    return [job.spec.prompt for job in desk.store.peek(request or asking(), limit)]


def test_a_peek_shows_what_admit_would_hand_out_and_changes_nothing(desk: Desk) -> None:
    desk.submit(item("x" * 90_000), item("sonnet", model="sonnet"), item("urgent", priority=1))
    before = desk.store.version(), desk.store.read(0)

    seen = desk.store.peek(asking(), 2)

    assert (desk.store.version(), desk.store.read(0)) == before
    assert [job.spec.prompt for job in seen] == ["urgent", "x" * 90_000]
    assert [grant.job.id for grant in desk.admit(asking(free=2)).grants] == [job.id for job in seen]
    assert ahead(desk) == ["sonnet"]


def test_full_places_are_no_hindrance_but_zero_is_zero(desk: Desk) -> None:
    desk.know("login", kind=TokenKind.LOGIN)
    desk.submit(item("running", offers=("login",)), item("next", offers=("login",)))
    full = asking(free=0, per_token=1, at_depth=1, running=1, held=("login",))
    desk.run(asking(free=1, held=("login",)))

    assert desk.admit(full).grants == ()
    assert ahead(desk, full) == ["next"]
    for none in (asking(at_depth=0), asking(per_token=0), asking(running=0)):
        assert ahead(desk, none) == []


def test_only_what_could_run(desk: Desk) -> None:
    first = desk.one(item("first"))
    desk.run()
    child = desk.one(item("child", parent_id=first.id))
    desk.submit(
        item("deeper", parent_id=child.id),
        item("no token", offers=("zzz",)),
        item("other pool", pool="host:b"),
        item("later", not_before_ms=NOW + 9),
        item("after", after=(first.id,)),
        item("cooling", offers=("aaa",)),
        item("refused", offers=("bbb",)),
    )
    desk.store.note_token("aaa", cooling(), NOW)
    desk.store.note_token("bbb", TokenNote(quarantine="no"), NOW)

    assert ahead(desk) == ["child", "deeper"]
    assert ahead(desk, asking(depth=1)) == ["child"]
    assert ahead(desk, asking(total=2)) == ["child"]
    assert ahead(desk, asking(held=())) == []


def test_a_batchs_own_cap_holds(desk: Desk) -> None:
    kinds = ("opus", "sonnet", "opus", "sonnet")
    items = [item(f"{n}", model=model) for n, model in enumerate(kinds)]
    desk.store.submit(batch(*items, batch_id="B", max_parallel=3))
    desk.one(item("single"))
    desk.run(asking(free=1))

    assert ahead(desk) == ["1", "2", "single"]
    assert ahead(desk, limit=2) == ["1", "2"]
    desk.admit(asking(free=2))
    assert ahead(desk) == ["single"]


def test_nested_first_is_kept(desk: Desk) -> None:
    root = desk.one(item("root"))
    desk.run()
    desk.submit(item("child", parent_id=root.id), item("urgent", priority=9))

    assert ahead(desk) == ["urgent", "child"]
    assert ahead(desk, asking(nested_first=True)) == ["child"]


def test_places_of_many_jobs_in_one_look(desk: Desk) -> None:
    jobs = desk.submit(item("a"), item("b"), item("urgent", priority=2), item("later", not_before_ms=NOW + 9))
    desk.one(item("c"))

    found = desk.store.places([*(job.id for job in jobs), "j-none"])

    assert found == {job.id: Place(ahead=ahead) for job, ahead in zip(jobs, (1, 2, 0, 0), strict=True)}
    assert desk.store.places([]) == {}


def test_what_waits_for_its_batch_is_ahead_of_nobody_but_its_batch(desk: Desk) -> None:
    capped = [item("a"), item("b", model="sonnet"), item("c"), item("d")]
    jobs = [receipt.job for receipt in desk.store.submit(batch(*capped, batch_id="B", max_parallel=2))]
    free = [receipt.job for receipt in desk.store.submit(batch(item("e"), item("f"), batch_id="F"))]
    idle = desk.store.places([jobs[3].id, free[1].id])
    desk.run(asking(free=1))
    half = desk.store.places([jobs[1].id, jobs[3].id, free[1].id])
    desk.run(asking(free=1))
    full = desk.store.places([jobs[3].id, free[0].id, free[1].id])

    assert idle == {jobs[3].id: Place(ahead=2, in_batch=3, max_parallel=2), free[1].id: Place(ahead=3)}
    assert half == {
        jobs[1].id: Place(max_parallel=2),
        jobs[3].id: Place(ahead=1, in_batch=2, max_parallel=2),
        free[1].id: Place(ahead=2),
    }
    assert full == {
        jobs[3].id: Place(in_batch=1, max_parallel=2),
        free[0].id: Place(),
        free[1].id: Place(ahead=1),
    }


def ran(desk: Desk, duration_ms: int, *, failure: Failure = Failure.NONE, model: str = "opus") -> None:
    desk.one(item(model=model))
    grant = desk.run()
    trigger = Trigger.FAIL if failure else Trigger.SUCCEED
    outcome = Outcome(failure=failure, duration_ms=duration_ms)
    desk.store.finish(grant.job.id, grant.epoch, outcome, Disposition(trigger=trigger), None, NOW)


def test_run_times_are_those_of_successes_of_one_kind_newest_first(desk: Desk) -> None:
    for duration_ms in (100, 200, 0, 300):
        ran(desk, duration_ms)
    ran(desk, 400, failure=Failure.REFUSED)
    ran(desk, 500, model="sonnet")
    kind = estimate.kind(item().spec)

    assert desk.store.run_times(kind) == (300, 200, 100)
    assert desk.store.run_times(kind, 2) == (300, 200)
    assert desk.store.run_times("no such kind") == ()


def test_run_times_outlive_their_jobs(desk: Desk) -> None:
    ran(desk, 100)
    desk.store.prune(NOW + 1)

    assert desk.store.run_times(estimate.kind(item().spec)) == (100,)


@pytest.mark.parametrize(("duration_ms", "keys"), [(70, {"ran_ms", "estimate_ms"}), (0, {"ran_ms"})])
def test_the_end_tells_how_long_it_ran_against_the_guess(desk: Desk, duration_ms: int, keys: set[str]) -> None:
    ran(desk, duration_ms)

    data = desk.store.read(0)[-1].data
    assert {"ran_ms", "estimate_ms"} & data.keys() == keys
    assert data["ran_ms"] == duration_ms
