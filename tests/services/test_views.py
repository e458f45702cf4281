"""What callers are told of a job, from the job alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from claude_jobs.domain.job import Dependency, DependencyMode, Failure, Job, JobSpec, JobState, Outcome, Reason
from claude_jobs.domain.usage import Usage
from claude_jobs.services.jobs import Situation
from claude_jobs.services.views import DIFF_CHARS, LISTED, job_view, note, result_view

NOW = 1_800_000_000_000


def job(state: JobState = JobState.READY, **fields: Any) -> Job:
    spec = JobSpec(prompt="p", model="m", cwd="/w", accept=fields.pop("accept", ""))
    return Job(
        id="j-a",
        spec=spec,
        state=state,
        root_id=fields.pop("root_id", "j-a"),
        depth=fields.pop("depth", 0),
        offers=(),
        submitter="uid:1",
        pool="local",
        session_id="s",
        rank=0,
        created_ms=NOW,
        queued_since_ms=NOW,
        usage=Usage(),
        **fields,
    )


def said(job: Job, **situation: Any) -> str:
    return note(Situation(job=job, **situation), NOW)


def waiting(count: int, needs: DependencyMode = DependencyMode.ALL) -> Job:
    wanted = tuple(Dependency(name=f"n{n}", job_id=f"j-{n}") for n in range(count))
    return job(JobState.WAITING, depends_on=wanted, needs=needs, reason=Reason.DEPENDENCY)


@pytest.mark.parametrize(
    ("count", "needs", "expected"),
    [
        (1, DependencyMode.ALL, "waits for j-0"),
        (2, DependencyMode.ALL, "waits for j-0, j-1"),
        (2, DependencyMode.ANY, "waits for any of j-0, j-1"),
        (1, DependencyMode.ANY, "waits for j-0"),
        (8, DependencyMode.ALL, "waits for j-0, j-1, j-2, j-3, j-4 and 3 more"),
    ],
)
def test_a_waiting_job_names_what_it_waits_for(count: int, needs: DependencyMode, expected: str) -> None:
    assert said(waiting(count, needs), reason=Reason.DEPENDENCY) == expected


def test_a_blocked_job_names_whose_results_it_has_asked_for() -> None:
    view = job_view(Situation(job=job(JobState.BLOCKED), waits_for=("j-x", "j-y")), NOW)

    assert (view.state, view.note, view.waiting_for) == ("blocked", "waits for j-x, j-y", ("j-x", "j-y"))
    assert said(job(JobState.BLOCKED)) == "waits for other jobs"


@pytest.mark.parametrize(
    ("ahead", "eta_s", "expected"),
    [
        (0, None, "queued, next"),
        (3, None, "queued, 3 ahead"),
        (3, 130.0, "queued, 3 ahead, starts in about 2 min"),
        (0, 20.0, "queued, next, starts in about 20 s"),
    ],
)
def test_a_queued_job_tells_its_place_and_when_it_will_start(ahead: int, eta_s: float | None, expected: str) -> None:
    situation = Situation(job=job(), reason=Reason.CAPACITY, ahead=ahead, eta_s=eta_s)
    view = job_view(situation, NOW)

    assert view.note == expected
    assert (view.ahead, view.eta_s) == (ahead, eta_s)


def test_a_view_lists_a_bounded_number_of_jobs() -> None:
    view = job_view(Situation(job=waiting(1_000), reason=Reason.DEPENDENCY), NOW)

    assert len(view.waiting_for) == LISTED
    assert view.note.endswith("and 995 more")


def test_lineage_is_shown() -> None:
    view = job_view(Situation(job=job(parent_id="j-p", root_id="j-p", depth=1)), NOW)

    assert (view.parent_id, view.depth) == ("j-p", 1)


def test_a_result_has_structure_diff_worktree_and_acceptance() -> None:
    answer = {"city": "Paris", "rivers": ["Seine"]}
    outcome = Outcome(
        text="{}", structured=json.dumps(answer), worktree="/t/j-a", diff="d" * (DIFF_CHARS + 7), corrections=1
    )
    done = job(JobState.SUCCEEDED, accept="make test", outcome=outcome, finished_ms=NOW)
    view = result_view(Situation(job=done), NOW)

    assert (view.structured, view.worktree, view.accepted, view.corrections) == (answer, "/t/j-a", True, 1)
    assert view.diff.endswith("[7 characters more]")
    assert job_view(Situation(job=done), NOW).worktree == "/t/j-a"


def test_structure_that_is_longer_than_a_page_is_left_to_the_text() -> None:
    whole = json.dumps({"x": "y" * 100})
    done = job(JobState.SUCCEEDED, outcome=Outcome(text=whole, structured=whole))
    view = result_view(Situation(job=done), NOW, max_chars=50)

    assert (view.structured, view.next_offset) == (None, 50)


@pytest.mark.parametrize(
    ("accept", "failure", "expected"),
    [
        ("", Failure.NONE, None),
        ("true", Failure.NONE, True),
        ("true", Failure.NOT_ACCEPTED, False),
        ("true", Failure.TIMED_OUT, None),
    ],
)
def test_acceptance_is_told_only_where_the_check_was_reached(
    accept: str, failure: Failure, expected: bool | None
) -> None:
    state = JobState.FAILED if failure else JobState.SUCCEEDED
    ended = job(state, accept=accept, outcome=Outcome(failure=failure))

    assert result_view(Situation(job=ended), NOW).accepted is expected
    assert result_view(Situation(job=replace(ended, outcome=None)), NOW).accepted is None
