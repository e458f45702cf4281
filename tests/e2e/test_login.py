"""The CLI's own login as a token: no secret of ours, and no race for its refresh."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime

import pytest
from support_worker import Json, Place, rehearse

from claude_jobs.rehearsal.script import Fault, Script, Token
from claude_jobs.rehearsal.server import Rehearsal

pytestmark = pytest.mark.slow

MakeStage = Callable[..., tuple[Place, Rehearsal]]


REVOKED = "sk-ant-oat01-rehearsal-revoked"


def log_in(here: Place, token: str = "sk-ant-oat01-rehearsal-1") -> None:
    """What `claude /login` leaves."""
    login = {
        "accessToken": token,
        "refreshToken": "sk-ant-ort01-none",
        "expiresAt": round(time.time() * 1000) + 86_400_000,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    (here.root / "config" / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login}))


def at(event: Json) -> float:
    return datetime.fromisoformat(str(event["at"])).timestamp()


def test_first_job_on_a_login_starts_alone_and_the_rest_after_its_first_answer(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=0)
    log_in(here)

    ids = here.submit([rehearse(f"answer {n}", delay_s=0.5) for n in range(3)])
    results = here.ended(ids)
    admitted = sorted(at(here.of(job_id, "admitted")[0]) for job_id in ids)
    tokens = here.call("tokens")["tokens"]

    assert [result["text"] for result in results] == ["answer 0", "answer 1", "answer 2"]
    assert admitted[1] - admitted[0] > 0.4
    assert [(token["name"], token["kind"]) for token in tokens] == [("claude login", "login")]


def test_a_refused_login_is_named_as_the_cause_and_its_renewal_is_all_that_is_needed(make_stage: MakeStage) -> None:
    tokens = (
        Token(name="ok", secret="sk-ant-oat01-rehearsal-1"),
        Token(name="no", secret=REVOKED, always=Fault.UNAUTHORIZED),
    )
    here, _ = make_stage(Script(tokens=tokens), tokens=0)
    log_in(here, REVOKED)
    first, second = here.submit([rehearse("first"), rehearse("second")])
    failed = here.ended([first])[0]
    waiting = here.result(second, 0)
    refused = here.command("spawn", "hello")

    log_in(here)
    result = here.ended([second])[0]
    spawned = here.command("spawn", rehearse("third"), "--wait")

    assert failed["error"] == "authentication"
    assert waiting["reason"] == "needs_credential"
    assert "claude login (" in waiting["note"]
    assert refused.returncode == 3
    assert "claude login (" in refused.stderr
    assert "claude /login" in refused.stderr
    assert (result["state"], result["text"]) == ("succeeded", "second")
    assert (spawned.returncode, spawned.stdout.strip()) == (0, "third")


def test_without_token_and_login_a_spawn_is_refused_with_the_remedy(make_stage: MakeStage) -> None:
    here, _ = make_stage(tokens=0)

    refused = here.command("spawn", "hello")

    assert refused.returncode == 3
    assert "claude /login" in refused.stderr
    assert "CLAUDE_CODE_TOKEN" in refused.stderr
