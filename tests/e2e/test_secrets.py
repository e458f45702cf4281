"""Secrets are in memory, on the private socket and in the environment of their own job: searched for everywhere else."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support_processes import wait_until
from support_worker import Place, Session, kill_hard, rehearse

from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rehearsal.script import Fault, Script, Token
from claude_jobs.rehearsal.server import Rehearsal

pytestmark = pytest.mark.slow

MakePlace = Callable[..., Place]
MakeStage = Callable[..., tuple[Place, Rehearsal]]
NEEDLE = "Zq7Kx9needle"
OAUTH = [f"sk-ant-oat01-{NEEDLE}{n}-{n * 17:040d}" for n in (1, 2, 3)]
API_KEY = f"sk-ant-api03-{NEEDLE}4-{68:080d}"
REFUSED = f"sk-ant-oat01-{NEEDLE}5-{85:040d}"
PRIVATE = {
    "CLAUDE_JOBS_PASS_ENV": "MY_PASSWORD",
    "MY_PASSWORD": f"{NEEDLE}6",
    "HTTPS_PROXY": f"http://me:{NEEDLE}7@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
}
TOKENS = {f"CLAUDE_CODE_TOKEN{n}": secret for n, secret in enumerate([*OAUTH, API_KEY, REFUSED], start=1)}
SCRIPT = Script(
    tokens=(
        *(Token(name=f"t{n}", secret=secret) for n, secret in enumerate([*OAUTH, API_KEY])),
        Token(name="refused", secret=REFUSED, always=Fault.UNAUTHORIZED),
    )
)


@contextmanager
def watching(what: str) -> Generator[list[str]]:
    """Notes every process whose /proc/…/`what` shows a secret, and who may not."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for file in Path("/proc").glob(f"[0-9]*/{what}"):
                try:
                    text = file.read_bytes()
                except OSError:
                    continue
                if NEEDLE.encode() in text:
                    found.append(f"{file}: {text[:200]!r}")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def files_with_needle(*folders: Path) -> list[str]:
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and NEEDLE.encode() in path.read_bytes()
    ]


def everything_told(here: Place, job_ids: list[str]) -> str:
    """Every answer of the socket and of MCP, every error, and the output of the shell commands."""
    told: list[object] = [here.call(method) for method in ("health", "tokens", "jobs", "models", "billing")]
    told += [here.events(job_id) for job_id in job_ids]
    told += [here.result(job_id, 0) for job_id in job_ids]
    for method, params in (("result", {"job_id": "j-none"}), ("submit", {"items": [{"prompt": ""}]}), ("nonsense", {})):
        with pytest.raises(ClaudeJobsError) as error:
            here.call(method, **params)
        told.append(vars(error.value))
    commands = [("ps",), ("status",), ("tokens",), ("doctor",), ("status", "--json"), ("tokens", "--json")]
    commands += [(name, job_id) for job_id in job_ids[:3] for name in ("logs", "result")]
    commands += [("spawn", "x", "--cwd", "/no/such/directory"), ("url",)]
    for command in commands:
        done = here.command(*command)
        told.append([command, done.stdout, done.stderr])
    session = Session(here)
    told += [session.tool("status"), session.tool("result", job_id=job_ids[0]), session.tool("spawn", prompt="")]
    session.close()
    return json.dumps(told, default=str)


def test_no_secret_shows_through_limits_failures_and_crashes(make_stage: MakeStage) -> None:
    here, _ = make_stage(SCRIPT, tokens=0, CLAUDE_JOBS_LOG_LEVEL="debug", **TOKENS, **PRIVATE)
    with watching("cmdline") as shown:
        prompts = [
            rehearse("plain"),
            rehearse("moves", fault="usage_limit", times=1),
            rehearse("never", fault="500"),
            rehearse("bad", fault="400"),
            *(rehearse(f"long {n}", duration_s=2) for n in range(3)),
        ]
        ids = here.submit(prompts, max_attempts=4)  # a key at its limit costs attempts
        health = here.health()
        environs = [Path(f"/proc/{health[name]}/environ").read_bytes() for name in ("pid", "keeper_pid")]
        kill_hard(health["pid"])
        wait_until(lambda: here.of(ids[2], "retry"), 60)
        here.call("cancel", job_ids=ids[2:3])
        results = here.ended(ids)
        told = everything_told(here, ids)

    assert [(one["state"], one["error"]) for one in results] == [
        ("succeeded", ""),
        ("succeeded", ""),
        ("cancelled", "cancelled"),
        ("failed", "bad_request"),
        *[("succeeded", "")] * 3,
    ]
    assert shown == []
    assert not any(NEEDLE.encode() in environ for environ in environs)
    assert NEEDLE not in told
    assert files_with_needle(here.root, here.home.runtime_dir) == []


LEAKY = """
A=$(printf '%*s' {pad} '' | tr ' ' A)
B=$(printf '%*s' {tail} '' | tr ' ' B)
S="$CLAUDE_CODE_OAUTH_TOKEN$ANTHROPIC_API_KEY"; S="${{S:-$AWS_SECRET_ACCESS_KEY}} $MY_PASSWORD $HTTPS_PROXY"
say() {{ printf '{{"type":"assistant","message":{{"id":"m1","model":"m","content":[%s]}}}}\\n' "$1"; }}
say "{{\\"type\\":\\"text\\",\\"text\\":\\"$A $S\\"}}"
say "{{\\"type\\":\\"tool_use\\",\\"id\\":\\"t\\",\\"name\\":\\"Bash\\",\\"input\\":{{\\"command\\":\\"echo $A $S\\"}}}}"
printf '%s%s' "$S" "$B" >&2
sleep 0.3
[ {status} = 0 ] || exit {status}
printf '{{"type":"result","subtype":"success","is_error":false,"result":"I found %s","num_turns":1}}\\n' "$S"
exit 0
"""


CLOUD = {
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "AWS_REGION": "eu-central-1",
    "AWS_SECRET_ACCESS_KEY": f"wJalrXUtnF{NEEDLE}8/{85:020d}",
}


@pytest.mark.parametrize("payer", [TOKENS, CLOUD], ids=["tokens", "cloud"])
def test_a_job_that_prints_its_own_secrets_is_redacted(make_place: MakePlace, payer: dict[str, str]) -> None:
    here = make_place(tokens=0, CLAUDE_JOBS_LOG_LEVEL="debug", **payer, **PRIVATE)
    ids: list[str] = []
    # Texts are cut to phrases and stderr to its tail: some cuts go through the middle of the secret.
    for number, (pad, tail) in enumerate([(0, 0), (130, 8150), (100, 8170), (85, 8140), (470, 8165)]):
        here.stand_in(LEAKY.format(pad=pad, tail=tail, status=number % 2))
        ids += here.submit(["leak"], max_attempts=1)
        here.ended(ids[-1:])

    told = everything_told(here, ids)

    assert all(here.of(job_id, "tool") for job_id in ids)
    assert "[redacted]" in told
    assert NEEDLE not in told
    assert NEEDLE not in here.log()
    assert files_with_needle(here.root / "jobs", here.home.runtime_dir) == []


def test_private_variables_reach_the_job_over_a_crash_and_never_a_file(make_place: MakePlace) -> None:
    here = make_place(tokens=0, CLAUDE_JOBS_LOG_LEVEL="debug", **TOKENS, **PRIVATE)
    seen = here.root / "seen"
    here.stand_in(f'echo "$MY_PASSWORD $HTTPS_PROXY" | cksum >> "{seen}"; [ -e "{seen}.on" ] || sleep 60')
    job_id = here.submit(["x"])[0]
    here.all_started([job_id])
    wait_until(lambda: seen.exists() and seen.read_text())
    kill_hard(here.health()["pid"])
    (here.root / "seen.on").touch()
    result = here.ended([job_id])[0]

    told = everything_told(here, [job_id])

    sums = seen.read_text().splitlines()
    expected = subprocess.run(
        ["cksum"], input=f"{PRIVATE['MY_PASSWORD']} {PRIVATE['HTTPS_PROXY']}\n", capture_output=True, text=True
    )
    assert result["state"] == "succeeded"
    assert sums == [expected.stdout.strip()] * 2
    assert NEEDLE not in told
    assert files_with_needle(here.root, here.home.runtime_dir) == []


def test_a_job_whose_private_variables_nobody_holds_waits_for_who_has_them(make_place: MakePlace) -> None:
    here = make_place(tokens=0, **TOKENS, **PRIVATE)
    here.stand_in("sleep 60")
    job_id = here.submit(["x"])[0]
    here.all_started([job_id])
    health = here.health()
    kill_hard(health["keeper_pid"], health["pid"])
    here.stand_in()
    here.env["MY_PASSWORD"] = "another"
    waiting = wait_until(lambda: one if (one := here.result(job_id, 0))["state"] == "queued" else None, 30)
    here.env["MY_PASSWORD"] = PRIVATE["MY_PASSWORD"]

    result = here.ended([job_id])[0]

    assert waiting["reason"] == "needs_credential"
    assert result["state"] == "succeeded"
