"""The first line of a connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from claude_jobs.errors import ClaudeJobsError, InvalidRequest, JobNotFound, QueueFull, StoreTooNew
from claude_jobs.rpc import hello as hellos
from claude_jobs.rpc import offer
from claude_jobs.rpc.fault import from_fault, to_fault
from claude_jobs.rpc.hello import Lineage


def test_a_hello_is_understood_as_it_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        "PATH": "/bin",
        "SECRET_OF_MINE": "x",
        "WANTED": "y",
        "CLAUDE_JOBS_PASS_ENV": "WANTED, ABSENT",
        "CLAUDE_CODE_TOKEN10": "oat-10",
        "CLAUDE_CODE_TOKEN2": "sk-ant-api03-2",
        "CLAUDE_CODE_TOKEN": "oat-0",
        "CLAUDE_CODE_OAUTH_TOKEN": "oat-login",
        "ANTHROPIC_API_KEY": "key",
        "ANTHROPIC_BASE_URL": "http://localhost:1",
    }

    hello = hellos.parse(offer.build(environ, "mcp"))

    assert hello.kind == "mcp"
    assert hello.cwd == str(tmp_path)
    assert hello.env == (("PATH", "/bin"), ("WANTED", "y"))
    assert hello.profile == (("ANTHROPIC_BASE_URL", "http://localhost:1"),)
    assert hello.credentials == (
        ("CLAUDE_CODE_TOKEN", "oauth", "oat-0"),
        ("CLAUDE_CODE_TOKEN2", "api_key", "sk-ant-api03-2"),
        ("CLAUDE_CODE_TOKEN10", "oauth", "oat-10"),
        ("CLAUDE_CODE_OAUTH_TOKEN", "oauth", "oat-login"),
        ("ANTHROPIC_API_KEY", "api_key", "key"),
    )
    assert hello.lineage is None


def test_bytes_that_are_no_text_survive() -> None:
    environ = {"PATH": b"/b\xff".decode("utf-8", "surrogateescape")}

    assert hellos.parse(offer.build(environ, "rpc")).env == (("PATH", "/b\udcff"),)


def test_a_front_inside_a_job_says_which() -> None:
    environ = {"CLAUDE_JOBS_MARK": "0a1b2c3d:owner:job-1:2", "CLAUDE_JOBS_JOB_SECRET": "s"}

    assert hellos.parse(offer.build(environ, "rpc")).lineage == Lineage(job="job-1", epoch=2, secret="s")
    assert hellos.parse(offer.build({"CLAUDE_JOBS_MARK": "h:o:job-1:x"}, "rpc")).lineage == Lineage(
        job="job-1", epoch=0
    )
    assert hellos.parse(offer.build({"CLAUDE_JOBS_MARK": "job-1"}, "rpc")).lineage is None
    assert offer.is_inside_job(environ)
    assert not offer.is_inside_job({})


def test_a_front_inside_a_job_offers_nothing() -> None:
    """The CLI hands its API key on to the server it starts."""
    environ = {"CLAUDE_JOBS_MARK": "h:o:job-1:2", "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://localhost:1"}

    hello = hellos.parse(offer.build(environ, "mcp"))

    assert (hello.credentials, hello.profile) == ((), ())


def test_secrets_do_not_show_in_a_repr() -> None:
    environ = {"CLAUDE_CODE_TOKEN": "sekret", "ANTHROPIC_BASE_URL": "sekret", "PATH": "sekret"}

    assert "sekret" not in repr(hellos.parse(offer.build(environ, "rpc")))


def test_a_hello_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(InvalidRequest, match="CLAUDE_JOBS_PASS_ENV"):
        offer.build({"A": "x" * (1 << 20), "CLAUDE_JOBS_PASS_ENV": "A"}, "rpc")


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{", b"[]", b"1", b'"x"', b'{"v":1}', b'{"v":2}', b"\xff\xfe", b'{"v":1,"kind":"telnet"}'],
)
def test_what_is_no_hello_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidRequest):
        hellos.parse(line)


@pytest.mark.parametrize("name", ["version", "pid", "cwd", "env", "profile", "credentials", "lineage"])
@pytest.mark.parametrize("value", [1.5, [1], {"a": 1}, "x", [{"name": 1}]])
def test_a_hello_with_a_field_of_another_type_is_refused_or_read(name: str, value: object) -> None:
    message = {**json.loads(offer.build({}, "rpc")), name: value}

    try:
        hellos.parse(json.dumps(message).encode())
    except InvalidRequest:
        return
    assert name in ("pid", "version", "cwd")


@pytest.mark.parametrize(
    "error",
    [
        JobNotFound("j1"),
        QueueFull(limit=1, queued=1, asked=2),
        StoreTooNew(path="/x", found=2, supported=1),
        InvalidRequest("No.", field="cwd"),
        ClaudeJobsError("Plain."),
    ],
)
def test_an_error_comes_out_as_it_went_in(error: ClaudeJobsError) -> None:
    again = from_fault(json.loads(json.dumps(to_fault(error))))

    assert type(again) is type(error)
    assert vars(again) == {**vars(error), "code": error.code, "retryable": error.retryable}
    assert str(again) == str(error)


def test_an_error_of_an_unknown_code_keeps_it() -> None:
    error = from_fault({"code": "from_the_future", "message": "Hm.", "retryable": True})

    assert (type(error), error.code, error.retryable, error.message) == (
        ClaudeJobsError,
        "from_the_future",
        True,
        "Hm.",
    )
