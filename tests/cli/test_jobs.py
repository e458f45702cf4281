"""The command end to end: real worker, real claude processes, the rehearsal API behind them."""

import json
import signal
import urllib.request
from pathlib import Path

import pytest
from support_command import directive, run, start
from support_processes import PATIENCE_S, wait_until

from claude_jobs.cli.rehearse import Stage
from claude_jobs.cli.stopping import elected
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def spawned(stage: Stage, prompt: str, *options: str) -> str:
    return run("spawn", prompt, *options, environ=stage.environ, cwd=stage.work).out.strip()


def state_of(stage: Stage, job_id: str) -> str:
    return run("status", job_id, "--json", environ=stage.environ).json()["jobs"][0]["state"]


def let_go(stage: Stage, job_id: str) -> None:
    """Have the API answer what it holds, as often as it is asked, until the job has ended."""
    asked = urllib.request.Request(stage.environ["ANTHROPIC_BASE_URL"] + "/rehearsal/release", method="POST")

    def has_ended() -> bool:
        urllib.request.urlopen(asked, timeout=60).close()
        return state_of(stage, job_id) == "succeeded"

    wait_until(has_ended)


def test_spawn_wait_prints_the_answer_alone_on_stdout(stage: Stage) -> None:
    ran = run(
        "spawn", "--wait", "--label", "greeting", directive("Say hello.", reply="Hello there."), environ=stage.environ
    )

    assert (ran.code, ran.out) == (0, "Hello there.\n")
    assert "succeeded in" in ran.err
    assert "claude --resume" in ran.err


def test_spawn_wait_json_is_the_whole_result(stage: Stage) -> None:
    ran = run(
        "spawn", "--wait", "--json", "--model", "haiku", directive("Say hello.", reply="Hello."), environ=stage.environ
    )
    job = ran.json()

    assert ran.code == 0
    assert (job["state"], job["text"], job["model"]) == ("succeeded", "Hello.", "haiku")
    assert not run("status", job["job_id"], "--json", environ=stage.environ).json()["jobs"][0]["unread"]


def test_a_prompt_that_looks_like_an_option_goes_behind_two_dashes(stage: Stage) -> None:
    ran = run("spawn", "--wait", "--", directive("--help me", reply="Yes."), environ=stage.environ)

    assert (ran.code, ran.out) == (0, "Yes.\n")


def test_prompt_from_stdin_that_is_not_utf8(stage: Stage) -> None:
    prompt = directive("caf", reply="Read.").encode() + b" caf\xe9"
    ran = run("spawn", "-", "--wait", environ=stage.environ, stdin=prompt)

    assert (ran.code, ran.out) == (0, "Read.\n")
    assert "not UTF-8" in ran.err


def test_a_long_answer_comes_whole(stage: Stage) -> None:
    ran = run("spawn", "--wait", directive("Write much.", reply="abcdefgh", reply_kb=300), environ=stage.environ)

    assert ran.code == 0
    assert len(ran.out) >= 300 * 1024


def test_a_failed_job_is_exit_code_1(stage: Stage) -> None:
    ran = run("spawn", "--wait", "--max-attempts", "1", directive("Fail.", fault="400"), environ=stage.environ)

    assert ran.code == 1
    assert "failed:" in ran.err


def test_refusals_name_the_field_and_the_next_step(stage: Stage) -> None:
    bypass = run("spawn", "x", "--permission-mode", "bypassPermissions", environ=stage.environ)
    nowhere = run("spawn", "x", "--cwd", "/nowhere/at/all", environ=stage.environ)

    assert (bypass.code, nowhere.code) == (3, 2)
    assert "CLAUDE_JOBS_ALLOW_BYPASS" in bypass.err
    assert "/nowhere/at/all" in nowhere.err


def test_the_same_key_is_the_same_job(stage: Stage) -> None:
    prompt = directive("Once.", reply="Once.")
    first, second = spawned(stage, prompt, "--key", "only-once"), spawned(stage, prompt, "--key", "only-once")

    assert first == second


def test_result_before_the_end_is_code_6_and_cancel_is_5(stage: Stage) -> None:
    job_id = spawned(stage, directive("Think for long.", hold=True))
    wait_until(lambda: state_of(stage, job_id) == "running")
    early = run("result", job_id, environ=stage.environ)
    listed = run("ps", environ=stage.environ)
    cancelled = run("cancel", job_id, "--json", environ=stage.environ)
    late = run("result", job_id, "--wait", environ=stage.environ)

    assert early.code == 6
    assert job_id in listed.out
    assert cancelled.code == 0
    assert cancelled.json()["jobs"][0]["survivors"] == []
    assert late.code == 5


def test_cancel_all_ends_everything(stage: Stage) -> None:
    ids = {spawned(stage, directive("Hold.", hold=True)) for _ in range(2)}
    ran = run("cancel", "--all", "--json", environ=stage.environ)

    assert ran.code == 0
    assert ids <= {job["job_id"] for job in ran.json()["jobs"]}  # an earlier test's job may still run
    assert run("ps", "--json", environ=stage.environ).json() == {"jobs": []}


def test_a_job_that_does_not_exist_is_a_usage_error(stage: Stage) -> None:
    for command in ("status", "result", "logs", "cancel"):
        ran = run(command, "j-nope", environ=stage.environ)

        assert ran.code == 2, command
        assert "'j-nope'" in ran.err


def test_ctrl_c_leaves_the_job_running_and_says_how_to_get_back(stage: Stage) -> None:
    with start(
        ["spawn", "--wait", directive("Take your time.", hold=True, reply="Done.")], environ=stage.environ
    ) as waiting:
        assert waiting.stderr is not None
        job_id = waiting.stderr.readline().decode().split()[1]
        wait_until(lambda: state_of(stage, job_id) == "running")
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=PATIENCE_S)
    let_go(stage, job_id)
    after = run("result", job_id, "--wait", environ=stage.environ)

    assert waiting.returncode == 130
    assert f"claude-jobs result {job_id} --wait" in said.decode()
    assert (after.code, after.out) == (0, "Done.\n")


def test_a_wait_outlives_the_death_of_the_worker(stage: Stage) -> None:
    with start(["spawn", "--wait", directive("Go on.", hold=True, reply="Went on.")], environ=stage.environ) as waiting:
        assert waiting.stderr is not None
        job_id = waiting.stderr.readline().decode().split()[1]
        wait_until(lambda: state_of(stage, job_id) == "running")
        keeper = elected(Home.resolve(stage.environ))
        assert keeper is not None
        proctree.send(proctree.children(keeper.pid)[0], signal.SIGKILL)
        let_go(stage, job_id)
        out, said = waiting.communicate(timeout=PATIENCE_S)

    assert (waiting.returncode, out) == (0, b"Went on.\n"), said


def test_logs_follow_to_the_end(stage: Stage) -> None:
    job_id = spawned(stage, directive("Soon.", delay_s=1, reply="There."))
    ran = run("logs", job_id, "-f", "--json", environ=stage.environ)
    events = [json.loads(line) for line in ran.out.splitlines()]
    again = run("logs", job_id, environ=stage.environ)

    assert ran.code == 0
    assert [events[0]["kind"], events[-1]["kind"]] == ["submitted", "finished"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert "finished" in again.out.splitlines()[-1]


def test_batch_wait_json_has_every_answer_in_order(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    lines = [
        directive("One.", reply="1"),
        {"prompt": directive("Two.", reply="2"), "label": "second", "model": "haiku"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = run("batch", str(file), "--wait", "--json", "--max-parallel", "2", environ=stage.environ)
    jobs = ran.json()["jobs"]

    assert ran.code == 0
    assert [job["text"] for job in jobs] == ["1", "2"]
    assert [job["label"] for job in jobs] == ["", "second"]
    assert [job["model"] for job in jobs] == ["sonnet", "haiku"]


def test_batch_from_stdin_detached_prints_ids(stage: Stage) -> None:
    ran = run("batch", "-", environ=stage.environ, stdin=json.dumps(directive("One.", reply="1")).encode() + b"\n")
    job_id = ran.out.strip()

    assert ran.code == 0
    assert run("result", job_id, "--wait", environ=stage.environ).out == "1\n"


def test_a_batch_with_a_failure_is_exit_code_1(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        json.dumps(directive("Good.", reply="ok")) + "\n" + json.dumps(directive("Bad.", fault="400")) + "\n"
    )
    ran = run("batch", str(file), "--wait", "--max-attempts", "1", environ=stage.environ)

    assert ran.code == 1
    assert "1 succeeded, 1 failed" in ran.err
    assert ": failed in" in ran.out


def test_tokens_show_use_and_no_secret(stage: Stage) -> None:
    assert run("spawn", "--wait", "hello", environ=stage.environ).code == 0
    ran = run("tokens", "--json", environ=stage.environ)
    table = run("tokens", environ=stage.environ)

    assert {token["name"] for token in ran.json()["tokens"]} == {f"CLAUDE_CODE_TOKEN{n}" for n in (1, 2, 3)}
    assert sum(token["jobs"] for token in ran.json()["tokens"]) > 0
    assert "5h" in table.out
    for secret in stage.secrets:
        assert secret not in ran.out + table.out


def test_a_token_that_is_not_known_cannot_be_restored(stage: Stage) -> None:
    ran = run("tokens", "--restore", "000000000000", environ=stage.environ)

    assert ran.code == 2
    assert "000000000000" in ran.err


@pytest.mark.parametrize("filters", [("--state", "failed"), ("--batch", "b-none"), ("--label", "another")])
def test_a_job_that_a_filter_leaves_out_is_not_called_unknown(stage: Stage, filters: tuple[str, ...]) -> None:
    job_id = spawned(stage, directive("Say hello.", reply="Hello."), "--label", "mine")
    wait_until(lambda: state_of(stage, job_id) == "succeeded")
    ran = run("status", job_id, *filters, "--json", environ=stage.environ)
    told = run("status", job_id, *filters, environ=stage.environ)
    unknown = run("status", job_id, "j-none", *filters, environ=stage.environ)

    assert (ran.code, ran.json()["jobs"]) == (0, [])
    assert "No job fits" in told.out + told.err
    assert unknown.code != 0
    assert "'j-none'" in unknown.err


def test_unread_results_come_first_in_status(stage: Stage) -> None:
    job_id = spawned(stage, directive("Unread.", reply="news"), "--label", "unread-one")
    wait_until(lambda: state_of(stage, job_id) == "succeeded", 60)
    listed = run("status", "--json", "--limit", "1", environ=stage.environ).json()

    assert (listed["jobs"][0]["job_id"], listed["jobs"][0]["unread"]) == (job_id, True)
    assert run("status", "--label", "unread-one", environ=stage.environ).out.count(job_id) == 1
