"""What is kept of an earlier run of a plan. Pure: jobs as the worker lists them come in, steps come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from claude_jobs.cli.plan import Plan, read_plan
from claude_jobs.cli.resuming import Decision, again, first, plan_label, request_of

TEXT = """\
name: n
jobs:
  - {id: a, prompt: one}
  - {id: b, prompt: 'two {{a.result}}'}
  - {id: c, prompt: three, depends_on: [b]}
  - {id: d, prompt: alone}
"""


def plan(tmp_path: Path, text: str = TEXT) -> Plan:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return read_plan(str(file), {}, max_parallel=None, fail_fast=False)


def ran(tmp_path: Path, text: str = TEXT, *, run: str = "r1", **states: str) -> list[dict[str, Any]]:
    """The jobs of a run as the worker lists them, newest first; all succeeded but for `states`."""
    steps = first(plan(tmp_path, text), run, "/work").steps
    return [
        {"job_id": f"j-{step.item.name}", "state": states.get(step.item.id, "succeeded"), "key": step.key}
        for step in reversed(steps)
    ]


def decided(tmp_path: Path, text: str, known: list[dict[str, Any]], cwd: str = "/work") -> Decision:
    return again(plan(tmp_path, text), known, "r9", cwd)


def actions(decision: Decision) -> dict[str, str]:
    return {step.item.name: step.action for step in decision.steps}


def test_without_an_earlier_run_all_is_handed_in(tmp_path: Path) -> None:
    decision = decided(tmp_path, TEXT, [])

    assert set(actions(decision).values()) == {"handed in"}
    assert len({step.key for step in decision.steps}) == 4


def test_what_has_succeeded_is_kept_what_failed_runs_again_what_runs_is_left(tmp_path: Path) -> None:
    decision = decided(tmp_path, TEXT, ran(tmp_path, b="failed", c="cancelled", d="running"))

    assert actions(decision) == {"a": "kept", "b": "run again", "c": "run again", "d": "left running"}
    assert [step.job_id for step in decision.steps] == ["j-a", "j-b", "j-c", "j-d"]
    assert (decision.replaced, decision.dropped) == ((), ())


def test_a_change_reaches_everything_behind_it_and_nothing_else(tmp_path: Path) -> None:
    decision = decided(tmp_path, TEXT.replace("prompt: one", "prompt: ONE"), ran(tmp_path))

    assert actions(decision) == {"a": "handed in", "b": "handed in", "c": "handed in", "d": "kept"}
    assert "changed" in decision.steps[0].why


def test_what_still_runs_of_an_older_version_is_replaced(tmp_path: Path) -> None:
    decision = decided(tmp_path, TEXT.replace("alone", "on its own"), ran(tmp_path, d="queued"))

    assert decision.replaced == ("j-d",)


def test_what_is_no_longer_in_the_plan_goes_on_and_is_named(tmp_path: Path) -> None:
    shorter = TEXT.replace("  - {id: d, prompt: alone}\n", "")
    decision = decided(tmp_path, shorter, ran(tmp_path, d="running"))

    assert (decision.replaced, decision.dropped) == ((), ("j-d",))


def test_a_new_job_waits_for_a_kept_one_by_its_id(tmp_path: Path) -> None:
    changed = TEXT.replace("two {{a.result}}", "TWO {{ a.result }}")
    decision = decided(tmp_path, changed, ran(tmp_path))
    b, c = (request_of(step, decision.steps, ["n"]) for step in decision.those("handed in"))

    assert b["prompt"] == "TWO {{j-a.result}}"
    assert (c["id"], c["depends_on"], c["labels"]) == ("c", ["b"], ["n"])


def test_a_label_is_no_change_and_another_directory_is_one(tmp_path: Path) -> None:
    labelled = TEXT.replace("prompt: alone", "prompt: alone, label: mine")

    assert actions(decided(tmp_path, labelled, ran(tmp_path)))["d"] == "kept"
    assert set(actions(decided(tmp_path, TEXT, ran(tmp_path), cwd="/elsewhere")).values()) == {"handed in"}


def test_jobs_without_ids_are_known_by_what_they_say(tmp_path: Path) -> None:
    known = ran(tmp_path, "[same, same, other]")
    decision = decided(tmp_path, "[new, same, other, same]", known)

    assert [step.action for step in decision.steps] == ["handed in", "kept", "kept", "kept"]
    assert decision.steps[1].job_id != decision.steps[3].job_id
    assert decision.steps[0].why == "it is new"


def test_only_the_latest_run_counts_and_other_jobs_of_the_label_do_not(tmp_path: Path) -> None:
    older, newer = ran(tmp_path, run="old", a="failed"), ran(tmp_path, run="new")
    stranger = {"job_id": "j-x", "state": "failed", "key": "somebody else's"}
    decision = decided(tmp_path, TEXT, [stranger, *newer, *older])

    assert set(actions(decision).values()) == {"kept"}
    assert all(":new:" in key for key in (job["key"] for job in newer))


def test_a_job_with_its_own_key_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="take it out"):
        decided(tmp_path, "[{prompt: a, key: mine}]", [])


def test_keys_and_labels_fit_their_bounds(tmp_path: Path) -> None:
    longest = decided(tmp_path, f"[{{prompt: a, id: {'i' * 64}}}]", [])
    near, far = plan_label(Path("/a/plan.yaml")), plan_label(Path("/" + "long/" * 80 + "plan.yaml"))

    assert len(longest.steps[0].key) <= 180
    assert near == "plan:/a/plan.yaml"
    assert len(far) <= 200 and far.endswith("long/plan.yaml")
    assert far != plan_label(Path("/other/" + "long/" * 80 + "plan.yaml"))
