"""Bad input is refused with the field's name and the next step; good input is completed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_jobs.domain.job import (
    Dependency,
    Job,
    JobSpec,
    JobState,
    Outcome,
    PermissionMode,
    ProjectFiles,
    Submission,
)
from claude_jobs.domain.usage import Usage
from claude_jobs.errors import InvalidRequest, NotPermitted
from claude_jobs.runner.prompt import MAX_PROMPT_BYTES
from claude_jobs.services.caller import Caller
from claude_jobs.services.request import JobRequest, RequestRules, Site, complete, scrub

RULES = RequestRules(
    model="sonnet", max_attempts=3, timeout_ceiling_s=900, pool="local", max_depth=3, worktrees=Path("/worktrees")
)
NOW_MS = 1_700_000_000_000
SITE = Site(now_ms=NOW_MS)


def submit(request: JobRequest, cwd: Path, rules: RequestRules = RULES, site: Site = SITE) -> Submission:
    return complete(request, Caller(cwd=str(cwd), submitter="uid:1"), ("fp",), rules, site)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "x" * (MAX_PROMPT_BYTES + 1)}, "prompt"),
        ({"prompt": "x", "model": "no such model!"}, "model"),
        ({"prompt": "x", "model": "--help"}, "model"),
        ({"prompt": "x", "cwd": "/does/not/exist"}, "cwd"),
        ({"prompt": "x", "cwd": "nul\0"}, "cwd"),
        ({"prompt": "x", "cwd": "~nobody-of-that-name/x"}, "cwd"),
        ({"prompt": "x", "tools": ["--dangerous"]}, "tools"),
        ({"prompt": "x", "timeout_s": 901}, "timeout_s"),
        ({"prompt": "x", "depends_on": ["build"]}, "depends_on"),
        ({"prompt": "Sum up {{build.result}}"}, "depends_on"),
        ({"prompt": "x", "deadline": "yesterday"}, "deadline"),
        ({"prompt": "x", "deadline": "2001-01-01T00:00Z"}, "deadline"),
        ({"prompt": "x", "deadline": "1m", "not_before": "2m"}, "deadline"),
        ({"prompt": "x", "not_before": "soon"}, "not_before"),
        ({"prompt": "x", "fork": True}, "fork"),
        ({"prompt": "x", "output_schema": {"type": "no such type"}}, "output_schema"),
    ],
)
def test_unusable_field_is_named(tmp_path: Path, fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submit(JobRequest.parse(fields), tmp_path)

    assert caught.value.field == field
    assert "errors.pydantic.dev" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "promt": "y"}, "promt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "effort": "huge"}, "effort"),
        ({"prompt": "x", "permission_mode": "yolo"}, "permission_mode"),
        ({"prompt": "x", "max_cost_usd": -1}, "max_cost_usd"),
        ({"prompt": "x", "priority": 1001}, "priority"),
        ({"prompt": "x", "max_attempts": 0}, "max_attempts"),
        ({"prompt": "x", "id": "a b"}, "id"),
        ({"prompt": "x", "needs": "some"}, "needs"),
        ({"prompt": "x", "accept_timeout_s": 0}, "accept_timeout_s"),
    ],
)
def test_malformed_request_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        JobRequest.parse(fields)

    assert caught.value.field == field


def test_bypass_needs_the_operators_consent(tmp_path: Path) -> None:
    request = JobRequest(prompt="x", permission_mode=PermissionMode.BYPASS)

    with pytest.raises(NotPermitted, match="CLAUDE_JOBS_ALLOW_BYPASS"):
        submit(request, tmp_path)


def test_full_project_needs_a_trusted_directory(tmp_path: Path) -> None:
    request = JobRequest(prompt="x", project=ProjectFiles.FULL)
    trusting = replace(RULES, trusted_dirs=(tmp_path.resolve(),))

    with pytest.raises(NotPermitted, match="CLAUDE_JOBS_TRUSTED_DIRS"):
        submit(request, tmp_path)
    submit(request, tmp_path, trusting)


def test_relative_cwd_is_below_the_callers(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    submission = submit(JobRequest(prompt="x", cwd="sub"), tmp_path)

    assert submission.spec.cwd == str((tmp_path / "sub").resolve())
    assert submission.spec.model == "sonnet"


@given(st.text(alphabet=st.characters(), max_size=50))
def test_scrubbed_text_can_be_encoded(text: str) -> None:
    scrubbed = scrub(text)

    assert isinstance(scrubbed, str)
    scrubbed.encode("utf-8")


def test_lone_surrogates_become_replacement_characters() -> None:
    assert JobRequest.parse({"prompt": "a\ud800b"}).prompt == "a\ufffdb"


def job(cwd: Path, **fields: object) -> Job:
    """A job that ran in `cwd`."""
    whole: dict[str, object] = {
        "id": "j-aaaaa",
        "spec": JobSpec(prompt="x", model="opus", cwd=str(cwd.resolve()), env=(("HOME", "/theirs"), ("PATH", "/bin"))),
        "state": JobState.SUCCEEDED,
        "root_id": "j-aaaaa",
        "depth": 0,
        "offers": ("parents",),
        "submitter": "uid:1",
        "pool": "local",
        "session_id": "s-1",
        "session_cost_nusd": 7,
        "rank": 1,
        "created_ms": 1,
        "queued_since_ms": 1,
        "usage": Usage(),
    }
    return Job(**{**whole, **fields})  # pyright: ignore[reportArgumentType]


def test_moments_are_taken_from_now(tmp_path: Path) -> None:
    submission = submit(JobRequest(prompt="x", not_before="30s", deadline="2h"), tmp_path)

    assert submission.not_before_ms == NOW_MS + 30_000
    assert submission.deadline_ms == NOW_MS + 7_200_000


def test_what_the_prompt_refers_to_is_a_dependency(tmp_path: Path) -> None:
    request = JobRequest(prompt="Compare {{a.result}} with {{j-7k2m.result}}", depends_on=("b", "a"))

    submission = submit(request, tmp_path, site=Site(now_ms=NOW_MS, places={"a": 0, "b": 1}))

    assert submission.depends_on == (
        Dependency(name="b", job_id="#1"),
        Dependency(name="a", job_id="#0"),
        Dependency(name="j-7k2m", job_id="j-7k2m"),
    )


@pytest.mark.parametrize(
    ("fields", "depth", "nest"),
    [
        ({}, 0, True),
        ({"tools": []}, 0, False),
        ({"tools": ["Read"]}, 0, False),
        ({"tools": ["Read", "mcp__claude-jobs__spawn"]}, 0, True),
        ({"nest": False}, 0, False),
        ({"tools": ["Read"], "nest": True}, 1, True),
        ({}, 2, True),
        ({}, 3, False),
    ],
)
def test_a_job_gets_our_server_where_it_may_spawn(
    tmp_path: Path, fields: dict[str, object], depth: int, nest: bool
) -> None:
    parent = job(tmp_path, depth=depth - 1, state=JobState.RUNNING) if depth else None

    submission = submit(JobRequest.parse({"prompt": "x", **fields}), tmp_path, site=Site(now_ms=NOW_MS, parent=parent))

    assert submission.spec.nest is nest
    assert submission.spec.forbids_nest is (fields.get("nest") is False)


@pytest.mark.parametrize(("asked", "forbids"), [(None, True), (True, False)])
def test_a_job_that_was_forbidden_to_spawn_goes_on_so_unless_that_is_taken_back(
    tmp_path: Path, asked: bool | None, forbids: bool
) -> None:
    source = job(tmp_path)
    source = replace(source, spec=replace(source.spec, forbids_nest=True))

    spec = submit(JobRequest(prompt="And?", resume="j-aaaaa", nest=asked), tmp_path, site=_after(source)).spec

    assert (spec.forbids_nest, spec.nest) == (forbids, not forbids)


def test_a_resumed_job_goes_on_in_the_session_with_what_the_first_one_had(tmp_path: Path) -> None:
    source = job(tmp_path)

    resumed = submit(JobRequest(prompt="And then?", resume="j-aaaaa"), tmp_path / "..", site=_after(source))
    forked = submit(JobRequest(prompt="Or?", resume="j-aaaaa", fork=True), tmp_path, site=_after(source))

    assert (resumed.session_id, resumed.session_cost_nusd, resumed.spec.resume_session) == ("s-1", 7, "s-1")
    assert (resumed.spec.model, resumed.spec.cwd) == ("opus", source.spec.cwd)
    assert ("HOME", "/theirs") in resumed.spec.env
    assert (forked.session_id, forked.spec.resume_session, forked.spec.fork) == ("", "s-1", True)


def test_a_session_does_not_move_to_another_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    with pytest.raises(InvalidRequest, match="goes on there only"):
        submit(JobRequest(prompt="x", resume="j-aaaaa", cwd="sub"), tmp_path, site=_after(job(tmp_path)))


def _after(source: Job) -> Site:
    return Site(now_ms=NOW_MS, source=source)


def test_a_child_has_its_parents_means(tmp_path: Path) -> None:
    parent = job(tmp_path, state=JobState.RUNNING, deadline_ms=NOW_MS + 60_000, org="acme")

    child = submit(JobRequest(prompt="x"), tmp_path, site=Site(now_ms=NOW_MS, parent=parent))

    assert (child.parent_id, child.offers, child.org) == ("j-aaaaa", ("parents",), "acme")
    assert child.deadline_ms == parent.deadline_ms
    assert child.spec.env == parent.spec.env


def test_a_child_stays_in_its_parents_directory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parent = job(tmp_path / "in", state=JobState.RUNNING)

    with pytest.raises(NotPermitted, match="cwd"):
        submit(JobRequest(prompt="x", cwd=str(tmp_path)), tmp_path, site=Site(now_ms=NOW_MS, parent=parent))


def in_worktree(tmp_path: Path, **fields: object) -> tuple[Job, Path, RequestRules]:
    """A running job that works in a worktree of `tmp_path`, that worktree, and the rules of the place."""
    here = tmp_path / "worktrees" / "j-aaaaa"
    (here / "src").mkdir(parents=True)
    parent = job(tmp_path, state=JobState.RUNNING)
    spec = replace(parent.spec, worktree=True, **fields)
    return replace(parent, spec=spec), here.resolve(), replace(RULES, worktrees=tmp_path / "worktrees")


def test_a_child_of_a_job_in_a_worktree_works_there_and_not_in_the_checkout(tmp_path: Path) -> None:
    parent, here, rules = in_worktree(tmp_path)
    site = Site(now_ms=NOW_MS, parent=parent)

    assert submit(JobRequest(prompt="x"), here / "src", rules, site).spec.cwd == str(here / "src")
    for cwd in (tmp_path, here.parent):
        with pytest.raises(NotPermitted, match=f"own directory {str(here)!r}"):
            submit(JobRequest(prompt="x", cwd=str(cwd)), here, rules, site)


def test_relative_rules_of_a_job_in_a_worktree_mean_the_worktree(tmp_path: Path) -> None:
    parent, here, rules = in_worktree(tmp_path, tools=("Edit(src/**)", "Read"))
    site = Site(now_ms=NOW_MS, parent=parent)

    assert submit(JobRequest(prompt="x"), here, rules, site).spec.tools == ("Edit(src/**)", "Read")
    assert submit(JobRequest(prompt="x"), here / "src", rules, site).spec.tools == ("Read",)


def left_behind(tmp_path: Path, **fields: object) -> tuple[Job, Path, Path]:
    """An ended job that had a worktree of a directory, that directory, and where its worktree was left."""
    work, left = tmp_path / "work", tmp_path / "left"
    work.mkdir()
    left.mkdir()
    source = job(work, id="j-bbbbb", root_id="j-aaaaa", outcome=Outcome(worktree=str(left)), **fields)
    return replace(source, spec=replace(source.spec, worktree=True)), work, left


@pytest.mark.parametrize("spawned_by", ["j-aaaaa", "j-ccccc"])
def test_a_job_resumes_one_of_its_tree_in_the_worktree_that_it_left(tmp_path: Path, spawned_by: str) -> None:
    source, work, left = left_behind(tmp_path, parent_id=spawned_by)
    site = Site(now_ms=NOW_MS, parent=job(work, state=JobState.RUNNING), source=source)

    child = submit(JobRequest(prompt="And?", resume="j-bbbbb"), work, site=site)

    assert (child.spec.cwd, child.spec.worktree) == (str(left.resolve()), False)
    with pytest.raises(NotPermitted):
        submit(JobRequest(prompt="And?", cwd=str(left)), work, site=replace(site, source=None))


def test_a_job_resumes_its_child_again_where_that_went_on_last(tmp_path: Path) -> None:
    _, work, left = left_behind(tmp_path)
    parent = job(work, state=JobState.RUNNING)
    mine, others = (job(left, id="j-bbbbb", root_id="j-aaaaa", parent_id=one) for one in ("j-aaaaa", "j-ccccc"))
    request = JobRequest(prompt="And?", resume="j-bbbbb")

    assert submit(request, work, site=replace(_after(mine), parent=parent)).spec.cwd == str(left.resolve())
    with pytest.raises(NotPermitted):
        submit(request, work, site=replace(_after(others), parent=parent))


@pytest.mark.parametrize("fork", [False, True])
def test_a_session_whose_worktree_is_gone_goes_on_in_a_new_one(tmp_path: Path, fork: bool) -> None:
    source, work, left = left_behind(tmp_path)
    left.rmdir()

    for outcome in (source.outcome, Outcome()):
        for asks in (False, True):
            request = JobRequest(prompt="And?", resume="j-bbbbb", fork=fork, worktree=asks)
            spec = submit(request, tmp_path, site=_after(replace(source, outcome=outcome))).spec
            assert (spec.cwd, spec.worktree) == (str(work.resolve()), True)


def test_a_session_from_the_checkout_stays_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot get a worktree"):
        submit(JobRequest(prompt="x", resume="j-aaaaa", worktree=True), tmp_path, site=_after(job(tmp_path)))


def test_a_resumed_job_keeps_no_permission_that_is_not_given_now(tmp_path: Path) -> None:
    source = job(tmp_path)
    bypassing = replace(source, spec=replace(source.spec, permission_mode=PermissionMode.BYPASS))
    plainly = JobRequest(prompt="x", resume="j-aaaaa", permission_mode=PermissionMode.ACCEPT_EDITS)

    with pytest.raises(NotPermitted, match="CLAUDE_JOBS_ALLOW_BYPASS"):
        submit(JobRequest(prompt="x", resume="j-aaaaa"), tmp_path, site=_after(bypassing))
    assert submit(plainly, tmp_path, site=_after(bypassing)).spec.permission_mode is PermissionMode.ACCEPT_EDITS
