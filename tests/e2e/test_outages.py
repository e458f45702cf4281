"""What passes by itself is waited out, uncounted: an API that is away or ill, a claude that is being replaced."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support_cli import CLAUDE
from support_processes import wait_until
from support_worker import Json, Place, kill_hard, real_place, rehearse, rehearsing

from claude_jobs.rehearsal.server import Rehearsal

pytestmark = pytest.mark.slow

MakePlace = Callable[..., Place]
MakeStage = Callable[..., tuple[Place, Rehearsal]]
OLD_LADDER = 3
"""Attempts in all by default: a trouble that was counted would fail a job after so many."""


@contextmanager
def reserved_port() -> Generator[int]:
    """A port where nobody listens, and that nobody else is given: a server of ours can still have it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        yield int(probe.getsockname()[1])


def tried(here: Place, job_id: str, times: int) -> list[Json]:
    """Its retries, once there are so many."""
    return wait_until(lambda: found if len(found := here.of(job_id, "retry")) >= times else None)


def job(here: Place, job_id: str) -> Json:
    return here.call("jobs", ids=[job_id])["jobs"][0]


def test_an_api_that_was_away_for_longer_than_three_attempts_costs_none(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        away = Rehearsal(port=port)
        away.url = f"http://127.0.0.1:{port}"
        here = stack.enter_context(real_place(tmp_path, away))
        client = here.client()
        lost, given_up = here.submit([rehearse("back again"), rehearse("never")], client)
        hasty = here.submit([rehearse("at once")], client, max_attempts=1)[0]
        retries = tried(here, lost, OLD_LADDER)
        waiting = job(here, lost)
        acks = here.call("cancel", job_ids=[given_up])["jobs"]
        kill_hard(here.health()["pid"])
        told = here.ended([given_up, hasty])
        api = stack.enter_context(rehearsing(port=port))
        result = here.ended([lost])[0]

    assert (result["state"], result["text"], result["attempts"]) == ("succeeded", "back again", 1)
    assert {event["failure"] for event in retries} == {"network"}
    assert {event["attempts"] for event in retries} == {0}
    assert waiting["state"] in ("queued", "running")
    assert acks[0]["survivors"] == []
    assert [one["state"] for one in told] == ["cancelled", "failed"]
    assert (told[1]["error"], told[1]["attempts"]) == ("network", 1)
    assert "See that the API can be reached" in told[1]["note"]
    assert [one.status for one in api.requests] == [200]


def test_an_api_that_is_ill_for_a_while_costs_no_attempt(make_stage: MakeStage) -> None:
    here, api = make_stage()
    # A stream that is cut costs two requests: claude asks again without one.
    plan = {"529": OLD_LADDER, "cut": 2 * OLD_LADDER}
    ids = here.submit([rehearse(f"after {fault}", fault=fault, times=times) for fault, times in plan.items()])

    results = here.ended(ids, 400)

    assert [(one["state"], one["text"]) for one in results] == [("succeeded", f"after {fault}") for fault in plan]
    assert [one["attempts"] for one in results] == [1, 1]
    assert len([one for one in api.requests if one.fault]) == sum(plan.values())
    assert all(len(here.of(job_id, "retry")) >= OLD_LADDER for job_id in ids)
    assert [len(here.of(job_id, "finished")) for job_id in ids] == [1, 1]


def test_a_deadline_ends_the_waiting(make_place: MakePlace) -> None:
    here = make_place(CLAUDE_JOBS_CLI="/nowhere/claude")
    job_id = here.submit(["never"], deadline="8s")[0]

    result = here.ended([job_id])[0]

    assert (result["state"], result["error"]) == ("expired", "deadline")
    assert here.of(job_id, "retry")


def test_a_claude_that_is_missing_for_a_while_costs_no_attempt(make_stage: MakeStage, tmp_path: Path) -> None:
    claude = tmp_path / "claude"
    here, _ = make_stage()
    here.env["CLAUDE_JOBS_CLI"] = str(claude)
    waiting_for_it = here.submit([rehearse("found")])[0]
    retries = tried(here, waiting_for_it, OLD_LADDER)
    wait_until(lambda: "install Claude Code" in job(here, waiting_for_it)["note"])
    claude.symlink_to(CLAUDE)
    result = here.ended([waiting_for_it])[0]

    assert (result["state"], result["text"], result["attempts"]) == ("succeeded", "found", 1)
    assert {event["failure"] for event in retries} == {"cli_missing"}


def test_a_claude_that_is_being_written_costs_no_attempt(make_place: MakePlace) -> None:
    here = make_place()
    first = here.submit(["before"])[0]
    here.ended([first])
    with Path(here.env["CLAUDE_JOBS_CLI"]).open("a"):
        job_id = here.submit(["meanwhile"])[0]
        retries = tried(here, job_id, OLD_LADDER)
    result = here.ended([job_id])[0]

    assert (result["state"], result["attempts"]) == ("succeeded", 1)
    assert {event["failure"] for event in retries} == {"spawn_failed"}
