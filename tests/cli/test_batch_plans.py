"""Plans end to end: real worker, real claude processes, the rehearsal API behind them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from support_command import COMMAND, Ran, directive, run
from support_processes import wait_until

from claude_jobs.cli.rehearse import Stage

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def write(path: Path, jobs: list[Any], **head: object) -> str:
    """A plan as JSON, which is YAML too."""
    path.write_text(json.dumps({**head, "jobs": jobs}))
    return str(path)


def command(stage: Stage, *args: str) -> Ran:
    return run(*args, environ=stage.environ, cwd=stage.work)


def test_a_plan_runs_in_order_and_hands_results_on(stage: Stage, tmp_path: Path) -> None:
    jobs = [
        {"id": "capital", "prompt": directive("The capital of France?", reply="It is Paris-on-Seine.")},
        {"id": "river", "prompt": directive("What flows through {{capital.result}}?", reply="Asked: {prompt}")},
        {"id": "last", "prompt": directive("Sum up.", reply="Done."), "depends_on": ["river"], "on": "end"},
    ]
    plan = write(tmp_path / "plan.yaml", jobs, name="geography", defaults={"model": "haiku"})
    ran = command(stage, "batch", plan, "--wait", "--json")
    answer = ran.json()
    labelled = command(stage, "status", "--label", "geography", "--json").json()

    assert ran.code == 0, ran.err
    assert [job["state"] for job in answer["jobs"]] == ["succeeded"] * 3
    assert [job["label"] for job in answer["jobs"]] == ["capital", "river", "last"]
    assert "It is Paris-on-Seine." in answer["jobs"][1]["text"]
    assert {job["model"] for job in answer["jobs"]} == {"haiku"}
    assert (answer["report"]["jobs"], answer["report"]["ended"], answer["report"]["failures"]) == (3, 3, {})
    assert labelled["total"] == 3


def test_progress_is_one_line_where_nobody_looks(stage: Stage, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", [directive(f"{n}", reply=str(n)) for n in range(3)])
    ran = command(stage, "batch", plan, "--wait")
    lines = [line for line in ran.err.splitlines() if "/3 done" in line]

    assert ran.code == 0
    assert lines[-1].startswith("3/3 done")
    assert all("\x1b" not in line for line in lines)
    assert " of work in " in ran.err.splitlines()[-1]


def test_a_dry_run_shows_the_waves_and_starts_no_worker(environ: dict[str, str], tmp_path: Path) -> None:
    jobs = [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two", "depends_on": ["a"]}, {"id": "c", "prompt": "x"}]
    plan = write(tmp_path / "plan.yaml", jobs, max_parallel=2, on_failure="fail_fast")
    ran = run("batch", plan, "--dry-run", environ=environ)
    as_json = run("batch", plan, "--dry-run", "--json", environ=environ).json()

    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines()[1:]] == [["1", "a"], ["1", "c"], ["2", "b"]]
    assert "at most 2 at once; the first failure cancels the rest. Nothing was sent." in ran.err
    assert [(job["job"], job["waits"]) for job in as_json["jobs"]] == [("a", ""), ("c", ""), ("b", "a")]
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_a_wrong_plan_names_the_line_before_a_worker_is_started(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("jobs:\n- {id: a, prompt: x, depends_on: [b]}\n- {id: b, prompt: y, depends_on: [a]}\n")
    ran = run("batch", str(file), environ=environ)

    assert ran.code == 2
    assert "Line 2, job 'a': these jobs wait for each other: a -> b -> a." in ran.err
    assert not Path(environ["CLAUDE_JOBS_HOME"]).exists()


def test_fail_fast_cancels_what_has_not_ended(stage: Stage, tmp_path: Path) -> None:
    jobs = [directive("Bad.", fault="400"), directive("Long.", hold=True)]
    ran = command(
        stage, "batch", write(tmp_path / "p.json", jobs), "--fail-fast", "--max-attempts", "1", "--wait", "--json"
    )

    assert ran.code == 1
    assert [job["state"] for job in ran.json()["jobs"]] == ["failed", "cancelled"]


def test_what_depends_on_a_failure_does_not_run_unless_it_says_so(stage: Stage, tmp_path: Path) -> None:
    jobs = [
        {"id": "bad", "prompt": directive("Bad.", fault="400")},
        {"prompt": directive("Needs it.", reply="never"), "depends_on": ["bad"]},
        {"prompt": directive("Cleans up.", reply="cleaned"), "depends_on": ["bad"], "on": "end"},
    ]
    ran = command(stage, "batch", write(tmp_path / "p.json", jobs), "--max-attempts", "1", "--wait", "--json")
    bad, needs, cleans = ran.json()["jobs"]

    assert (bad["state"], needs["state"], cleans["text"]) == ("failed", "failed", "cleaned")
    assert (needs["error"], needs["attempts"]) == ("dependency", 0)
    assert bad["job_id"] in needs["note"]


def test_resume_runs_only_what_is_missing(stage: Stage, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    jobs: list[dict[str, Any]] = [
        {"id": "good", "prompt": directive("Good.", reply="kept")},
        {"id": "shaky", "prompt": directive("Shaky.", reply="ok"), "accept": f"test -e {flag}", "max_attempts": 1},
        {"id": "after", "prompt": directive("After {{shaky.result}}.", reply="went on")},
        {"id": "edited", "prompt": directive("Old.", reply="old")},
    ]
    plan = write(tmp_path / "plan.json", jobs)
    first = command(stage, "batch", plan, "--wait", "--json").json()["jobs"]
    flag.touch()
    jobs[3]["prompt"] = directive("New {{good.result}}.", reply="new")
    write(tmp_path / "plan.json", jobs)
    preview = command(stage, "batch", plan, "--resume", "--dry-run")
    ran = command(stage, "batch", plan, "--resume", "--wait", "--json")
    second = ran.json()["jobs"]
    nothing = command(stage, "batch", plan, "--resume", "--json").json()

    assert [job["state"] for job in first] == ["succeeded", "failed", "failed", "succeeded"]
    assert first[1]["error"] == "not_accepted"
    assert [word in preview.out for word in ("kept: it has succeeded", "run again: it failed", "handed in")] == [
        True
    ] * 3
    assert ran.code == 0, ran.err
    assert [job["text"] for job in second] == ["kept", "ok", "went on", "new"]
    assert [job["job_id"] for job in second[:3]] == [job["job_id"] for job in first[:3]]
    assert second[3]["job_id"] != first[3]["job_id"]
    assert second[0]["attempts"] == 1
    assert [step["action"] for step in nothing["steps"]] == ["kept"] * 4
    assert nothing["jobs"] == []


def test_resume_asks_anew_what_went_by_a_failure(stage: Stage, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    jobs: list[dict[str, Any]] = [
        {"id": "bugs", "prompt": directive("Bugs.", reply="two bugs"), "accept": f"test -e {flag}", "max_attempts": 1},
        {"id": "report", "prompt": directive("Sum up {{bugs.result}}", reply="Asked: {prompt}"), "on": "end"},
        {"id": "mail", "prompt": directive("Send {{report.result}}", reply="sent")},
        {"id": "fix", "prompt": directive("Fix {{bugs.result}} as in {{mail.result}}", reply="fixed")},
    ]
    plan = write(tmp_path / "plan.json", jobs)
    first = command(stage, "batch", plan, "--wait", "--json").json()["jobs"]
    flag.touch()
    ran = command(stage, "batch", plan, "--resume", "--wait", "--json")
    second = ran.json()["jobs"]
    nothing = command(stage, "batch", plan, "--resume", "--json").json()
    old = command(stage, "status", first[3]["job_id"], "--json").json()["jobs"][0]

    assert [job["state"] for job in first] == ["failed", "succeeded", "succeeded", "failed"]
    assert ran.code == 0, ran.err
    assert "report: handed in; it has succeeded, but waits for bugs, which is run again" in ran.err
    assert "two bugs" in second[1]["text"] and "two bugs" not in first[1]["text"]
    assert [job["state"] for job in second] == ["succeeded"] * 4
    assert [one["job_id"] == two["job_id"] for one, two in zip(first, second, strict=True)] == [True, *[False] * 3]
    assert [step["action"] for step in nothing["steps"]] == ["kept"] * 4
    assert (old["state"], old["attempts"]) == ("cancelled", 0)


def test_a_resumed_plan_is_one_batch_under_its_latest_rules(stage: Stage, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    shaky: dict[str, Any] = {"accept": f"test -e {flag}", "max_attempts": 1}
    jobs: list[dict[str, Any]] = [
        {"id": name, "prompt": directive(f"{name}.", delay_s=0.5, reply="ok"), **shaky} for name in ("a", "b")
    ]
    plan = write(tmp_path / "plan.json", jobs)
    first = command(stage, "batch", plan, "--wait", "--json").json()
    flag.touch()
    jobs += [{"id": name, "prompt": directive(f"{name}.", delay_s=0.5, reply="new")} for name in ("c", "d")]
    write(tmp_path / "plan.json", jobs, max_parallel=1)
    ran = command(stage, "batch", plan, "--resume", "--wait", "--json").json()
    logs = [command(stage, "logs", job["job_id"], "--json").out for job in ran["jobs"]]
    events = sorted((json.loads(line) for log in logs for line in log.splitlines()), key=lambda event: event["seq"])
    kinds = [event["kind"] for event in events]
    after = kinds[kinds.index("reopened") :]
    running = list(accumulate({"admitted": 1, "finished": -1}.get(kind, 0) for kind in after))

    assert {job["state"] for job in first["jobs"]} == {"failed"}
    assert {job["state"] for job in ran["jobs"]} == {"succeeded"}
    assert {ran["batch_id"], *(job["batch_id"] for job in ran["jobs"])} == {first["batch_id"]}
    assert (max(running), running[-1], after.count("admitted")) == (1, 0, 4)


def test_results_of_a_batch_can_be_read_at_any_time_and_what_failed_run_again(stage: Stage, tmp_path: Path) -> None:
    jobs = [{"label": "quick", "prompt": directive("Quick.", reply="here")}, directive("Holds.", hold=True)]
    made = command(stage, "batch", write(tmp_path / "p.json", jobs), "--json").json()
    batch_id, (quick, slow) = made["batch_id"], [job["job_id"] for job in made["jobs"]]
    assert command(stage, "result", quick, "--wait").code == 0
    part = command(stage, "result", batch_id)
    figures = command(stage, "status", "--batch", batch_id)
    cancelled = command(stage, "cancel", batch_id)
    over = command(stage, "result", batch_id, "--json")
    again = command(stage, "retry", batch_id, "--json").json()["jobs"]
    command(stage, "cancel", slow)

    assert part.code == 6
    assert f"== {quick} quick: succeeded" in part.out and "here" in part.out
    assert f"== {slow}: " in part.out
    assert "1/2 done" in figures.err
    assert slow in cancelled.out and quick not in cancelled.out
    assert over.code == 5
    assert over.json()["report"]["failures"] == {"cancelled": 1}
    assert [job["job_id"] for job in again] == [slow]


def test_a_batch_nobody_knows_is_a_usage_error(stage: Stage) -> None:
    for args in (["result", "b-none"], ["result", "b-none", "--wait"]):
        ran = command(stage, *args)

        assert ran.code == 2
        assert "no batch 'b-none'" in ran.err


def test_a_job_goes_on_with_a_new_prompt(stage: Stage) -> None:
    first = command(stage, "spawn", directive("First.", reply="One."), "--wait", "--json").json()
    second = command(
        stage, "spawn", directive("And then?", reply="Two."), "--resume", first["job_id"], "--wait", "--json"
    )
    fork = command(
        stage, "spawn", directive("Or else?", reply="Three."), "--resume", first["job_id"], "--fork", "--wait", "--json"
    )

    assert (second.json()["text"], second.json()["session_id"]) == ("Two.", first["session_id"])
    assert fork.json()["text"] == "Three."
    assert fork.json()["session_id"] != first["session_id"]


def test_time_can_be_said_and_a_deadline_ends_a_job_that_waits(stage: Stage) -> None:
    ran = command(stage, "spawn", directive("Late.", reply="x"), "--not-before", "1h", "--deadline", "2h", "--json")
    past = command(stage, "spawn", "x", "--deadline", "2020-01-01T00:00Z")
    late = command(stage, "spawn", directive("Long.", hold=True), "--deadline", "3s", "--wait")
    listed = command(stage, "status", ran.json()["job_id"], "--json").json()["jobs"][0]
    command(stage, "cancel", ran.json()["job_id"])

    assert listed["state"] == "queued"
    assert past.code == 2 and "deadline" in past.err
    assert late.code == 5 and "expired" in late.err


def test_an_answer_with_a_schema_is_json(stage: Stage, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    call = {"name": "StructuredOutput", "input": {"city": "Paris"}}
    ran = command(
        stage, "spawn", directive("Where?", tool=call, reply="Done."), "--output-schema", str(file), "--wait", "--json"
    )
    wrong = command(stage, "spawn", "x", "--output-schema", "[1]")

    assert ran.code == 0, ran.err
    assert ran.json()["structured"] == {"city": "Paris"}
    assert wrong.code == 2 and "JSON Schema" in wrong.err


def test_the_tree_of_a_job_is_drawn(stage: Stage) -> None:
    job_id = command(stage, "spawn", directive("Alone.", reply="x"), "--label", "root").out.strip()
    wait_until(lambda: command(stage, "result", job_id).code == 0, 60)
    ran = command(stage, "status", "--tree", job_id)
    unknown = command(stage, "status", "--tree", "j-nope")

    assert ran.out.startswith(f"{job_id} [root] succeeded")
    assert unknown.code == 2


def test_the_plan_of_the_readme_can_be_rehearsed(stage: Stage, environ: dict[str, str], tmp_path: Path) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    file = tmp_path / "plan.yaml"
    file.write_text(readme.partition("```yaml\n")[2].partition("```")[0])
    environ |= {"CLAUDE_JOBS_CLI": stage.environ["CLAUDE_JOBS_CLI"]}
    preview = run("batch", str(file), "--dry-run", environ=environ)
    ran = run("batch", str(file), "--rehearsal", "--json", environ=environ, cwd=tmp_path)
    jobs = ran.json()["jobs"]

    assert [line.split()[:2] for line in preview.out.splitlines()[1:]] == [
        *[["1", "survey"], ["1", "style"], ["2", "bugs"], ["3", "report"]]
    ]
    assert ran.code == 0, ran.err
    assert [job["state"] for job in jobs] == ["succeeded"] * 4
    assert [job["model"] for job in jobs] == ["haiku", "haiku", "haiku", "sonnet"]


def test_on_a_terminal_the_line_is_drawn_over(stage: Stage, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", [directive("One.", delay_s=1, reply="1"), directive("Two.", reply="2")])
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [COMMAND, "batch", plan, "--wait"],
        env={**stage.environ, "TERM": "xterm"},
        cwd=stage.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while chunk := os.read(ours, 65_536):
                drawn += chunk
    os.close(ours)

    assert process.returncode == 0
    assert b"/2 done" in drawn
    assert b"\x1b[2K" in drawn  # a line erased
