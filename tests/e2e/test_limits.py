"""Limits and refusals of tokens with the real claude, worker and store: the job goes on, with its session, uncounted."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import pytest
from support_processes import wait_until
from support_worker import SECRETS, Json, Place, rehearse

from claude_jobs.rehearsal.script import Fault, Script, Token
from claude_jobs.rehearsal.server import Rehearsal

pytestmark = pytest.mark.slow

MakeStage = Callable[..., tuple[Place, Rehearsal]]
MOVED_WITHIN_S = 30.0
"""Alone on the machine it takes about one."""
WRITE = {"name": "Write", "input": {"file_path": "{cwd}/note.txt", "content": "half way"}}


def at(event: dict[str, object]) -> float:
    return datetime.fromisoformat(str(event["at"])).timestamp()


def test_job_at_its_limit_moves_on_with_its_session(make_stage: MakeStage) -> None:
    here, api = make_stage()
    job_id = here.submit([rehearse("whole", tool=WRITE, fault="usage_limit", step=1, times=1)])[0]

    result = here.ended([job_id])[0]
    limited = next(one for one in api.requests if one.fault is Fault.USAGE_LIMIT)
    after = next(one for one in api.requests if one.at > limited.at and one.conversation == limited.conversation)
    moved = here.of(job_id, "moved")
    tokens = {token["fingerprint"]: token for token in here.call("tokens")["tokens"]}

    moved_s, answered_s = at(moved[0]) - limited.at, after.at - limited.at
    print(f"moved {moved_s:.2f} s after the limit's answer, asked again after {answered_s:.2f} s")
    assert (result["state"], result["text"], result["attempts"]) == ("succeeded", "whole", 1)
    assert (here.work / "note.txt").read_text() == "half way"
    assert len(moved) == 1
    assert moved_s < MOVED_WITHIN_S
    assert answered_s < MOVED_WITHIN_S
    assert after.token != limited.token
    assert after.step == 1
    assert {moved[0]["from"], moved[0]["token"]} <= set(tokens)
    assert moved[0]["from"] != moved[0]["token"] == result["token"]
    assert tokens[moved[0]["from"]]["status"] == "cooling"
    assert list((here.root / "config" / "projects").glob(f"*/{result['session_id']}.jsonl"))


def test_with_every_token_limited_the_job_sleeps_until_the_reset_and_says_so(make_stage: MakeStage) -> None:
    here, api = make_stage()
    job_id = here.submit([rehearse("rested", fault="usage_limit", times=3, resets_in_s=4)])[0]

    waiting = wait_until(lambda: _as_waiting(here, job_id))
    shown = here.command("ps")
    result = here.ended([job_id])[0]
    limits = [one.at for one in api.requests if one.fault is Fault.USAGE_LIMIT]
    answered = [one.at for one in api.requests if one.status == 200 and one.at > limits[-1]]

    assert "every token is at its limit" in waiting["note"]
    assert " UTC (in " in waiting["note"]
    assert "limit" in shown.stdout
    assert (result["state"], result["text"], result["attempts"]) == ("succeeded", "rested", 1)
    assert len(limits) == 3
    assert answered[0] >= limits[0] + 2.5  # resets are announced in whole seconds
    assert len(here.of(job_id, "finished")) == 1


def _as_waiting(here: Place, job_id: str) -> Json | None:
    job = here.call("jobs", ids=[job_id])["jobs"][0]
    assert job["state"] in ("queued", "running"), job
    return job if (job["state"], job["reason"]) == ("queued", "rate_limit") else None


def test_refused_token_is_quarantined_and_its_job_goes_on_with_another(make_stage: MakeStage) -> None:
    bad = Token(name="bad", secret=SECRETS[0], always=Fault.UNAUTHORIZED)
    script = Script(tokens=(bad, Token(name="good", secret=SECRETS[1])))
    here, api = make_stage(script, tokens=2)
    ids = [here.submit([rehearse(f"answer {n}")])[0] for n in range(2)]

    results = here.ended(ids)
    states = {token["name"]: token for token in here.call("tokens")["tokens"]}
    last = here.ended(here.submit([rehearse("later")]))[0]

    assert [(one["state"], one["attempts"]) for one in results] == [("succeeded", 1)] * 2
    assert states["CLAUDE_CODE_TOKEN1"]["status"] == "quarantined"
    assert states["CLAUDE_CODE_TOKEN1"]["why"]
    assert states["CLAUDE_CODE_TOKEN2"]["status"] == "ready"
    retries = [event for job_id in ids for event in here.of(job_id, "retry")]
    assert {event["failure"] for event in retries} == {"authentication"}
    assert last["state"] == "succeeded"
    refused = [one for one in api.requests if one.fault is Fault.UNAUTHORIZED]
    assert {one.token for one in refused} == {"bad"}


def test_two_tokens_refusing_a_job_fail_it_by_name(make_stage: MakeStage) -> None:
    tokens = tuple(
        Token(name=f"t{n}", secret=secret, always=Fault.UNAUTHORIZED) for n, secret in enumerate(SECRETS[:2])
    )
    here, api = make_stage(Script(tokens=tokens), tokens=2)
    begun = time.monotonic()

    result = here.ended(here.submit([rehearse("never")]))[0]

    assert (result["state"], result["error"]) == ("failed", "authentication")
    assert {one.token for one in api.requests if one.fault} == {"t0", "t1"}
    assert time.monotonic() - begun < 90
