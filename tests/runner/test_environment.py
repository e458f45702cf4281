"""Which variables a job gets, which of them no file may hold, and what of a credential's profile is whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.support import oauth, order

from claude_jobs.runner import errand
from claude_jobs.runner.environment import capture, capture_profile, doors, private, secret_values, split

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_ALL": "C",
    "HTTP_PROXY": "http://proxy:3128",
    "https_proxy": "http://me:secret@proxy:3128",
    "NO_PROXY": "me@example.org",
    "DATABASE_URL": "postgres://me:secret@db",
    "AWS_PROFILE": "work",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
    "ANTHROPIC_API_KEY": "sk-ant-api03-x",
    "EDITOR": "vi",
}


def test_what_may_be_secret_is_told_apart() -> None:
    plain, kept = split(capture(ENVIRON, ["DATABASE_URL", "AWS_PROFILE", "ANTHROPIC_API_KEY", "PATH"]))

    assert [name for name, _ in plain] == ["HOME", "HTTP_PROXY", "LC_ALL", "NO_PROXY", "PATH"]
    assert [name for name, _ in kept] == ["AWS_PROFILE", "DATABASE_URL", "https_proxy"]


@given(st.dictionaries(st.sampled_from([*ENVIRON, "X", "CLAUDE_CODE_USE_BEDROCK"]), st.text("a@:1", max_size=4)))
def test_nothing_captured_is_lost_and_a_profile_falls_into_the_same_two_parts(environ: dict[str, str]) -> None:
    captured = capture(environ, [*ENVIRON, "X"])
    profile = capture_profile(environ)
    plain, kept = split(captured)
    whole = tuple(sorted({**dict(kept), **dict(profile)}.items()))

    assert sorted((*plain, *kept)) == list(captured)
    assert set(doors(whole)) >= set(profile)
    assert set(private(whole)) == set(whole) - set(doors(whole))
    assert set(private(whole)) <= set(kept)


def test_secrets_are_known_by_their_name_or_their_place_in_an_address() -> None:
    profile = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "AWS_REGION": "eu-central-1",
        "DATABASE_URL": "postgres://me:p%40ss@db/x",
        "HTTPS_PROXY": "http://me@proxy:3128",
        "MY_PASSWORD": "mine",
        "NODE_ENV": "production",
    }

    assert set(secret_values(tuple(profile.items()))) == {"aws-secret", "p%40ss", "p@ss", "mine"}


@pytest.mark.parametrize("switch", [(), (("CLAUDE_CODE_USE_BEDROCK", "1"),)], ids=["own", "of the cloud"])
def test_a_clouds_variables_are_the_credentials_where_its_switch_is_on(switch: tuple[tuple[str, str], ...]) -> None:
    profile = (("AWS_PROFILE", "work"), *switch)

    assert private(profile) == (() if switch else profile)


def test_a_helper_of_a_job_gets_its_private_variables_and_no_credential(tmp_path: Path) -> None:
    credential = replace(oauth(), profile=(("ANTHROPIC_BASE_URL", "http://127.0.0.1:1"), ("DATABASE_URL", "db")))

    env = errand.environment(order(tmp_path, credential=credential))

    assert env["DATABASE_URL"] == "db"
    assert "ANTHROPIC_BASE_URL" not in env
    assert credential.secret not in env.values()
