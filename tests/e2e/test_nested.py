"""Jobs that spawn jobs, with the real claude: over MCP, from a shell, from a shell that hides where it belongs."""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support_cli import CLAUDE
from support_processes import is_running, wait_until
from support_worker import COMMAND, Json, Place, kill_hard, rehearse

from claude_jobs.rehearsal.script import Script, Token
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner import proctree
from claude_jobs.services.recursion import lineage_key, lineage_secret

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nested")]

MakeStage = Callable[..., tuple[Place, Rehearsal]]
MCP = "mcp__claude-jobs__"


def word(name: str, level: int = 0) -> str:
    """A template of the rehearsal that is filled in at `level` of prompts in prompts."""
    return "{" * (level + 1) + name + "}" * (level + 1)


def spawning(level: int, last: int) -> str:
    """A prompt: spawn a job that does the same one level deeper, wait for it, and tell what it said."""
    if level == last:
        return rehearse(f"leaf {level}")
    spawn = {"prompt": spawning(level + 1, last), "label": f"level {level + 1}"}
    wait = {"job_id": word("job", level), "wait_s": 100}
    tools = [{"name": MCP + "spawn", "input": spawn}, {"name": MCP + "result", "input": wait}]
    return rehearse(f"level {level} heard: {word('result', level)}", tools=tools)


def shell(here: Place, *commands: str) -> str:
    """The id of a job whose shell runs `commands`, each with its output in files of its own; see `heard`."""
    script = here.root / "work" / "script.sh"
    lines = [
        f"( {command} ) > {here.root}/heard.{at} 2> {here.root}/heard.{at}.err" for at, command in enumerate(commands)
    ]
    script.write_text("\n".join(lines) + "\n")
    run = {"name": "Bash", "input": {"command": f"sh {script}", "timeout": 120_000}}
    (job_id,) = here.submit([rehearse("done", tool=run)], tools=["Bash"])
    return job_id


def heard(here: Place, at: int, of: str = "") -> str:
    return (here.root / f"heard.{at}{of}").read_text()


def spawned(here: Place, at: int = 0) -> Json:
    """The job that command number `at` has spawned."""
    job: Json = json.loads(heard(here, at))
    return here.call("result", job_id=job["job_id"])


def tree(here: Place, job_id: str) -> list[Json]:
    """All jobs of its tree, the oldest first."""
    return here.call("jobs", tree=job_id, limit=500, unread_first=False)["jobs"][::-1]


def scrubbed(here: Place, command: str, **more: str) -> str:
    """A command with nothing in its environment but what it takes to find the worker."""
    env = {name: here.env[name] for name in ("PATH", "HOME", "TMPDIR", "CLAUDE_JOBS_HOME")} | more
    return "env -i " + shlex.join(f"{name}={value}" for name, value in env.items()) + " " + command


def secret(here: Place, job_id: str, epoch: int = 1) -> str:
    return lineage_secret(lineage_key(here.home.lineage_key_file), job_id, epoch)


def mark(here: Place, job_id: str, epoch: int = 1) -> str:
    return f"{here.home.home_id}:{here.health()['owner']}:{job_id}:{epoch}"


SPAWN = f"{COMMAND} spawn --json --detach"


def test_three_levels_over_mcp_with_one_slot_and_one_token(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_SLOTS="1", CLAUDE_JOBS_TOKEN_CONCURRENCY="1")
    (root,) = here.submit([spawning(0, 3)])
    (result,) = here.ended([root], 150)
    jobs = tree(here, root)

    assert result["text"].startswith("level 0 heard: level 1 heard: level 2 heard: leaf 3")
    assert [job["depth"] for job in jobs] == [0, 1, 2, 3]
    assert [job["parent_id"] for job in jobs] == ["", *(job["job_id"] for job in jobs[:-1])]
    assert {job["state"] for job in jobs} == {"succeeded"}
    for job in jobs[:-1]:
        kinds = [event["kind"] for event in here.events(job["job_id"])]
        assert kinds.count("blocked") == kinds.count("unblocked") >= 1
    nothing_is_left(here, [job["job_id"] for job in jobs])


def test_each_way_leads_on_from_the_other_ways(make_stage: MakeStage) -> None:
    """Over MCP, then from that job's shell, then from a shell without an environment: one tree, each told by its child."""
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_SLOTS="1", CLAUDE_JOBS_TOKEN_CONCURRENCY="1")
    second = here.root / "second"

    def told(command: str) -> str:
        run = {"name": "Bash", "input": {"command": command, "timeout": 120_000}}
        return rehearse("heard: {result}", tool=run)

    second.write_text(told(scrubbed(here, f"{COMMAND} spawn --wait {shlex.quote(rehearse('leaf'))}")))
    spawn = {"prompt": told(f"{COMMAND} spawn --wait --tools Bash -f {second}").replace("{result}", word("result", 1))}
    wait = {"job_id": word("job"), "wait_s": 100}
    calls = [{"name": MCP + "spawn", "input": {**spawn, "tools": ["Bash"]}}, {"name": MCP + "result", "input": wait}]
    (root,) = here.submit([rehearse("heard: {result}", tools=calls)], tools=["Bash", "mcp__claude-jobs"])
    here.ended([root], 150)
    jobs = tree(here, root)
    answers = [here.result(job["job_id"])["text"] for job in jobs]

    assert [answer[:5] for answer in answers] == ["heard", "heard", "heard", "leaf"]
    assert all("leaf" in answer for answer in answers)
    assert [job["depth"] for job in jobs] == [0, 1, 2, 3]
    assert [job["parent_id"] for job in jobs] == ["", *(job["job_id"] for job in jobs[:-1])]
    assert {job["state"] for job in jobs} == {"succeeded"}
    nothing_is_left(here, [job["job_id"] for job in jobs])


def test_jobs_whose_processes_were_started_ahead_are_themselves(make_stage: MakeStage) -> None:
    """In a full queue the next job's claude starts before its turn, and gets its server at its turn."""
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_SLOTS="1")
    roots = here.submit([f"Number {n}. {spawning(0, 1)}" for n in range(4)])
    results = here.ended(roots, 150)
    trees = [tree(here, root) for root in roots]

    assert [result["text"].split("\n")[0] for result in results] == ["level 0 heard: leaf 1"] * 4
    assert [[job["parent_id"] for job in jobs] for jobs in trees] == [["", root] for root in roots]
    nothing_is_left(here, [job["job_id"] for jobs in trees for job in jobs])


def nothing_is_left(here: Place, job_ids: Sequence[str]) -> None:
    """No file of an attempt, and no secret in any file, log, event or answer."""
    assert not any(path.is_file() for path in here.home.lineage_dir.rglob("*"))
    kept = b"".join(path.read_bytes() for path in here.root.rglob("*") if path.is_file() and not path.is_symlink())
    told = json.dumps([here.events(job_id) for job_id in job_ids] + [here.result(job_id) for job_id in job_ids])
    for job_id in job_ids:
        assert secret(here, job_id).encode() not in kept
        assert secret(here, job_id) not in told


def test_a_job_deeper_than_allowed_is_refused_with_the_chain(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1, CLAUDE_MAX_RECURSION_DEPTH="1")
    refusal, prompt = here.root / "refusal", here.root / "prompt"
    command = f"{SPAWN} deeper > {refusal}.draft 2>&1; {scrubbed(here, f'{SPAWN} deeper')} >> {refusal}.draft 2>&1"
    deeper = {"name": "Bash", "input": {"command": f"{command}; mv {refusal}.draft {refusal}"}}
    prompt.write_text(rehearse("tried", tool=deeper))
    root = shell(here, f"{SPAWN} --tools Bash -f {prompt}")
    wait_until(refusal.exists, 120)
    child = spawned(here)["job_id"]
    said = refusal.read_text()

    assert said.count("CLAUDE_MAX_RECURSION_DEPTH=1") >= 2
    assert root in said
    assert child in said
    assert [job["depth"] for job in tree(here, root)] == [0, 1]


def test_a_shell_of_a_job_is_in_that_job_by_environment_and_by_descent(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1)
    (other,) = here.submit([rehearse("late", hold=True)])
    job_id = shell(
        here,
        f"{SPAWN} inherited",
        scrubbed(here, f"{SPAWN} scrubbed"),
        scrubbed(here, f"{SPAWN} forged", CLAUDE_JOBS_MARK=mark(here, other)),
        scrubbed(here, f"setsid {SPAWN} session", CLAUDE_JOBS_DEPTH="0", CLAUDE_CODE_TOKEN="sk-ant-oat01-mine"),
        f"ANTHROPIC_API_KEY=sk-ant-api03-mine {SPAWN} brought",
        f"{COMMAND} tokens --json",
    )
    here.ended([job_id], 120)
    children = [spawned(here, at) for at in range(5)]

    assert {child["parent_id"] for child in children} == {job_id}
    assert {child["depth"] for child in children} == {1}
    assert {child["token"] for child in here.ended([child["job_id"] for child in children], 120)} == {
        here.result(job_id)["token"]
    }
    assert [token["name"] for token in here.call("tokens")["tokens"]] == ["CLAUDE_CODE_TOKEN1"]
    assert [job["job_id"] for job in tree(here, other)] == [other]


def test_a_shell_that_waits_for_its_job_gives_its_place_to_it(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_SLOTS="1")
    job_id = shell(here, f"{COMMAND} spawn --wait --json {shlex.quote(rehearse('from the child'))}")
    here.ended([job_id], 120)
    kinds = [event["kind"] for event in here.events(job_id)]

    assert json.loads(heard(here, 0))["text"] == "from the child"
    assert kinds.count("blocked") == kinds.count("unblocked") == 1
    assert [job["parent_id"] for job in tree(here, job_id)] == ["", job_id]


def test_what_does_not_belong_to_its_job_is_refused_with_a_sentence(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=1)
    (ended,) = here.submit([rehearse("done")])
    here.ended([ended])
    (other,) = here.submit([rehearse("late", hold=True)])
    wait_until(lambda: here.result(other, 0)["state"] == "running", 60)
    stolen = f"CLAUDE_JOBS_MARK={mark(here, other)} CLAUDE_JOBS_JOB_SECRET={secret(here, other)}"
    old = f"CLAUDE_JOBS_MARK={mark(here, ended)} CLAUDE_JOBS_JOB_SECRET={secret(here, ended)}"
    wrong = f"CLAUDE_JOBS_MARK={mark(here, other)} CLAUDE_JOBS_JOB_SECRET={secret(here, ended)}"
    out = here.root / "heard.orphan"
    orphan = f"sleep 1; {scrubbed(here, f'{SPAWN} x')} > {out}.draft 2>&1; mv {out}.draft {out}"
    job_id = shell(
        here,
        f"{stolen} {SPAWN} x",
        f"{old} {SPAWN} x",
        f"{wrong} {SPAWN} x",
        scrubbed(here, f"{SPAWN} x", CLAUDE_JOBS_HOME=str(here.root / "elsewhere"), CLAUDE_CODE_TOKEN="t"),
        f"{COMMAND} worker --stop",
        f"( setsid sh -c {shlex.quote(orphan)} & ); while [ ! -e {out} ]; do sleep 0.2; done",
    )
    here.ended([job_id], 120)
    owner = here.health()["owner"]

    assert [other in heard(here, 0, ".err"), ended in heard(here, 1, ".err")] == [True, True]
    assert "not that of job" in heard(here, 2, ".err")
    assert "inside this job" in heard(here, 3, ".err")
    assert "session of your own" in heard(here, 4, ".err")
    assert "foreground" in out.read_text()
    assert [job["job_id"] for job in tree(here, job_id)] == [job_id]
    assert len(here.call("jobs")["jobs"]) == 3
    assert owner == here.health()["owner"]
    late = here.command("spawn", "x", CLAUDE_JOBS_MARK=mark(here, ended), CLAUDE_JOBS_JOB_SECRET=secret(here, ended))
    assert "succeeded" in late.stderr
    assert not (here.root / "elsewhere" / "elect.lock").exists()


def test_a_claude_that_a_job_starts_by_hand_is_in_that_job(make_stage: MakeStage) -> None:
    here, api = make_stage(tokens=1)
    config = here.root / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"claude-jobs": {"command": COMMAND, "args": ["mcp"]}}}))
    prompt = here.root / "prompt"
    prompt.write_text(rehearse("by hand", tool={"name": MCP + "spawn", "input": {"prompt": rehearse("child")}}))
    hand = (
        f"{CLAUDE} -p --model sonnet --tools '' --strict-mcp-config --setting-sources '' --mcp-config {config} "
        f"--allowedTools mcp__claude-jobs < {prompt}"
    )
    more = {
        "ANTHROPIC_BASE_URL": api.url,
        "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-rehearsal-2",
        "CLAUDE_CONFIG_DIR": here.env["CLAUDE_CONFIG_DIR"],
    }
    job_id = shell(here, scrubbed(here, hand, **more))
    here.ended([job_id], 120)

    assert heard(here, 0).startswith("by hand")
    assert [job["parent_id"] for job in tree(here, job_id)] == ["", job_id]
    assert [token["name"] for token in here.call("tokens")["tokens"]] == ["CLAUDE_CODE_TOKEN1"]


def test_the_key_that_pays_for_a_job_is_no_new_offer_of_it(make_stage: MakeStage) -> None:
    """The CLI hands an API key on to the servers it starts."""
    key = "sk-ant-api03-rehearsal"
    script = Script(tokens=(Token(name="key", secret=key),))
    here, _ = make_stage(script, tokens=0, ANTHROPIC_API_KEY=key)
    (job_id,) = here.submit([spawning(0, 1)])
    (result,) = here.ended([job_id], 120)
    tokens = here.call("tokens")["tokens"]

    assert result["state"] == "succeeded", result
    assert {job["state"] for job in tree(here, job_id)} == {"succeeded"}
    assert [token["name"] for token in tokens] == ["ANTHROPIC_API_KEY"]


def test_a_job_that_is_taken_over_spawns_as_its_next_attempt(make_stage: MakeStage) -> None:
    here, api = make_stage(tokens=1)
    spawn = {"name": MCP + "spawn", "input": {"prompt": rehearse("child")}}
    (job_id,) = here.submit([rehearse("after", tool=spawn, hold=True)])
    wait_until(lambda: here.of(job_id, "started"), 60)
    health = here.health()
    kill_hard(health["pid"])
    wait_until(lambda: here.health()["pid"] != health["pid"], 60)
    release_until(here, api, job_id)

    assert here.result(job_id)["state"] == "succeeded"
    assert [job["parent_id"] for job in tree(here, job_id)] == ["", job_id]
    assert [event["epoch"] for event in here.of(job_id, "admitted")] == [1, 2]


def release_until(here: Place, api: Rehearsal, job_id: str) -> None:
    def is_over() -> Any:
        asked = urllib.request.Request(f"{api.url}/rehearsal/release", data=b"{}", method="POST")
        with urllib.request.urlopen(asked, timeout=60):
            pass
        return here.result(job_id, 0)["state"] not in ("queued", "running", "blocked")

    wait_until(is_over, 100)


def test_a_job_whose_worker_steps_aside_is_known_to_the_next_one(make_place: Callable[..., Place]) -> None:
    here = make_place(tokens=1)
    out, go = here.root / "heard.0", here.root / "go"
    tries = f"{SPAWN} a; {scrubbed(here, f'{SPAWN} b')}; {COMMAND} spawn --wait --json c"
    tried = f"sleep 1; {scrubbed(here, SPAWN)} d > {out}.tried 2>&1; mv {out}.tried {out}.orphan"
    orphan = f"( setsid sh -c {shlex.quote(tried)} & ); while [ ! -e {out}.orphan ]; do sleep 0.1; done"
    here.stand_in(
        f"while [ ! -e {go} ]; do sleep 0.1; done; {{ {tries}; {orphan}; }} > {out}.draft 2> {out}.err; mv {out}.draft {out}"
    )
    (job_id,) = here.submit(["root"])
    here.all_started([job_id])
    before = here.health()
    here.call("step_aside")
    here.stand_in()
    after = here.health()
    go.touch()
    here.ended([job_id], 120)
    jobs = tree(here, job_id)

    assert before["pid"] != after["pid"]
    assert [job["parent_id"] for job in jobs] == ["", job_id, job_id, job_id], (out.read_text(), here.log())
    assert {job["state"] for job in here.ended([job["job_id"] for job in jobs])} == {"succeeded"}
    assert "foreground" in Path(f"{out}.orphan").read_text()


def test_a_tree_that_is_cancelled_while_it_spawns_stops(make_stage: MakeStage) -> None:
    """Nothing of it runs on, not even what was started ahead for those of its jobs that were still queued."""
    here, _ = make_stage(
        tokens=1, CLAUDE_MAX_TOTAL_JOBS="1000", CLAUDE_JOBS_MAX_SPAWN_RATE="1000", CLAUDE_JOBS_SLOTS="3"
    )
    more = here.root / "more"
    more.write_text(rehearse("late", hold=True))
    loop = f"while true; do {SPAWN} -f {more}; done"
    root = shell(here, f"{loop} & {scrubbed(here, f'sh -c {shlex.quote(loop)}')} & wait")
    wait_until(lambda: len(tree(here, root)) > 4 and len(claudes(here)) > 3, 60)
    cancelled = here.call("cancel", job_ids=[root])["jobs"]
    left = [pid for pid in processes_below(here) if is_running(pid)]
    jobs = tree(here, root)
    later = tree(here, root)

    assert left == []
    assert {job["state"] for job in cancelled} == {"cancelled"}
    assert [survivor for job in cancelled for survivor in job.get("survivors", ())] == []
    assert {job["state"] for job in jobs} == {"cancelled"}
    assert [job["job_id"] for job in jobs] == [job["job_id"] for job in later]


def claudes(here: Place) -> list[int]:
    """The CLI processes of the worker: those of running jobs, and those that wait for the next ones."""
    return [proc.pid for proc in proctree.children(here.health()["pid"]) if not proc.is_dead]


def processes_below(here: Place) -> list[int]:
    """All that runs below the worker and the keeper, but these two."""
    health = here.health()
    return [proc.pid for proc in proctree.descendants(health["keeper_pid"]) if proc.pid != health["pid"]]


FLOOD = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from claude_jobs.client import connect
from claude_jobs.errors import ClaudeJobsError

def spawn(n):
    try:
        with connect(start=False) as client:
            client.call("submit", {"items": [{"prompt": f"job {n}", "tools": []}]}, 60)
    except ClaudeJobsError as error:
        return [error.code, getattr(error, "limit", "")]
    return ["accepted", ""]

with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(spawn, range(200)))))
"""


@pytest.mark.parametrize(
    ("settings", "limit", "accepted"),
    [
        ({"CLAUDE_MAX_TOTAL_JOBS": "9", "CLAUDE_JOBS_MAX_SPAWN_RATE": "100"}, "total", 8),
        ({"CLAUDE_MAX_TOTAL_JOBS": "100", "CLAUDE_JOBS_MAX_SPAWN_RATE": "6"}, "rate", 6),
    ],
    ids=["total", "rate"],
)
def test_two_hundred_spawns_at_once_stay_within_the_limits(
    make_stage: MakeStage, settings: dict[str, str], limit: str, accepted: int
) -> None:
    here, _ = make_stage(tokens=1, CLAUDE_JOBS_SLOTS="2", **settings)
    flood = here.root / "flood.py"
    flood.write_text(FLOOD)
    python = Path(COMMAND).with_name("python")
    job_id = shell(here, f"{python} {flood}")
    here.ended([job_id], 120)
    answers: list[list[str]] = json.loads(heard(here, 0))

    assert answers.count(["accepted", ""]) == accepted
    assert answers.count(["recursion_refused", limit]) == 200 - accepted
    assert len(tree(here, job_id)) == accepted + 1
