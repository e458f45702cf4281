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
        {
            "job_id": f"j-{step.item.name}",
            "state": states.get(step.item.id, "succeeded"),
            "key": step.key,
            "batch_id": f"b-{run}",
        }
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
    assert (decision.replaced, decision.dropped, decision.batch_id) == ((), (), "b-r1")


def test_a_change_reaches_everything_behind_it_and_nothing_else(tmp_path: Path) -> None:
    decision = decided(tmp_path, TEXT.replace("prompt: one", "prompt: ONE"), ran(tmp_path))

    assert actions(decision) == {"a": "handed in", "b": "handed in", "c": "handed in", "d": "kept"}
    assert "changed" in decision.steps[0].why


REVIEW = """\
jobs:
  - {id: bugs, prompt: look}
  - {id: style, prompt: taste}
  - {id: report, prompt: 'sum up {{bugs.result}} {{style.result}}', on: end}
  - {id: mail, prompt: 'send {{report.result}}'}
"""


def resumed(tmp_path: Path, known: list[dict[str, Any]], decision: Decision, **states: str) -> list[dict[str, Any]]:
    """The jobs after a decision was carried out; all succeeded but for `states`."""
    new = [
        {"job_id": f"j-{step.item.name}-2", "name": step.item.name, "key": step.key, "batch_id": decision.batch_id}
        for step in decision.those("handed in")
    ]
    jobs = [*new, *({**job, "name": job["job_id"].removeprefix("j-")} for job in known)]
    return [{**job, "state": states.get(job["name"], "succeeded")} for job in jobs]


def waiting(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is queued waits for other jobs."""
    return [{**job, "reason": "dependency"} if job["state"] == "queued" else job for job in known]


def test_what_went_by_an_answer_that_is_sought_again_is_handed_in_anew_with_all_behind_it(tmp_path: Path) -> None:
    known = ran(tmp_path, REVIEW, bugs="failed")
    decision = decided(tmp_path, REVIEW, known)
    report, mail = decision.those("handed in")

    assert actions(decision) == {"bugs": "run again", "style": "kept", "report": "handed in", "mail": "handed in"}
    assert report.why == "it has succeeded, but waits for bugs, which is run again"
    assert mail.why == "it has succeeded, but waits for report, which is handed in"
    assert not {report.key, mail.key} & {job["key"] for job in known}
    assert decision.outdated == ("j-mail", "j-report")
    assert request_of(report, decision.steps, [])["prompt"] == "sum up {{j-bugs.result}} {{j-style.result}}"
    assert request_of(mail, decision.steps, [])["prompt"] == "send {{report.result}}"


def test_the_newest_version_of_a_job_stands_for_it(tmp_path: Path) -> None:
    known = ran(tmp_path, REVIEW, bugs="failed")
    done = resumed(tmp_path, known, decided(tmp_path, REVIEW, known))
    nothing = decided(tmp_path, REVIEW, done)
    once_more = decided(
        tmp_path, REVIEW, [{**job, "state": "failed"} if job["name"] == "bugs" else job for job in done]
    )

    assert set(actions(nothing).values()) == {"kept"}
    assert [step.job_id for step in nothing.steps] == ["j-bugs", "j-style", "j-report-2", "j-mail-2"]
    assert len({step.key for step in once_more.those("handed in")} | {job["key"] for job in done}) == len(done) + 2


def test_what_runs_by_an_answer_that_is_sought_again_is_replaced_and_what_has_not_heard_it_is_left(
    tmp_path: Path,
) -> None:
    replaced = decided(tmp_path, REVIEW, waiting(ran(tmp_path, REVIEW, bugs="failed", report="running", mail="queued")))
    left = decided(tmp_path, REVIEW, waiting(ran(tmp_path, REVIEW, bugs="failed", report="queued", mail="queued")))

    assert actions(replaced) == {"bugs": "run again", "style": "kept", "report": "handed in", "mail": "handed in"}
    assert replaced.replaced == ("j-mail", "j-report")
    assert actions(left) == {"bugs": "run again", "style": "kept", "report": "left running", "mail": "left running"}


def test_what_was_cancelled_itself_runs_again_under_its_id(tmp_path: Path) -> None:
    decision = decided(tmp_path, REVIEW, ran(tmp_path, REVIEW, bugs="failed", report="cancelled", mail="failed"))

    assert actions(decision) == {"bugs": "run again", "style": "kept", "report": "run again", "mail": "run again"}


def test_a_job_that_was_run_again_by_hand_counts_too(tmp_path: Path) -> None:
    times = {"j-bugs": {"finished_ms": 30, "reopened_ms": 20}, "j-report": {"finished_ms": 10, "reopened_ms": None}}
    known = [{**job, **times.get(job["job_id"], {})} for job in ran(tmp_path, REVIEW)]
    decision = decided(tmp_path, REVIEW, known)
    earlier = decided(tmp_path, REVIEW, [{**job, "reopened_ms": 5} for job in known])

    assert actions(decision) == {"bugs": "kept", "style": "kept", "report": "handed in", "mail": "handed in"}
    assert decision.steps[2].why == "it has succeeded, but waits for bugs, which was run again since"
    assert set(actions(earlier).values()) == {"kept"}


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
