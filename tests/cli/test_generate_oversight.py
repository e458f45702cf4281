"""The commands beside `generate`: explain, usage, quota, cache, routes and models."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from support_command import Ran, directive, run

from claude_jobs.cli import explain
from claude_jobs.cli.rehearse import Stage
from claude_jobs.policy.providers import KEY_NAMES, NAMES

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


def ask(stage: Stage, prompt: str, *args: str) -> dict[str, Any]:
    """The answer to it as JSON; the command succeeds."""
    ran = run("generate", "--provider", "openai", "--json", *args, "--", prompt, environ=stage.environ)
    assert ran.code == 0, ran.err
    return ran.json()


def command(stage: Stage, *args: str) -> Ran:
    return run(*args, environ=stage.environ)


def test_a_fallback_is_explained_step_by_step(stage: Stage) -> None:
    prompt = directive("Fall back.", fault="404", times=1)
    answer = ask(stage, prompt, "--fallback", "claude")
    told = command(stage, "explain", answer["id"])
    record = command(stage, "explain", answer["id"], "--json").json()
    head, titles, *steps = told.out.splitlines()

    assert head.startswith(f"{answer['id']} 20")
    assert f"claude/{answer['model']}" in head
    assert titles.split() == list(explain.STEPS.values())
    assert [line.split()[2:4] for line in steps if "attempt" in line or "fallback" in line] == [
        ["attempt", "model_not_found"],
        ["fallback", "next"],
        ["attempt", "ok"],
    ]
    assert len(steps) == len(record["explain"]) == len(answer["explain"])
    assert "sk-rehearsal" not in told.out


def test_without_an_id_the_latest_calls_come_newest_first(stage: Stage) -> None:
    first, second = (ask(stage, "Again.", "--org", "latest") for _ in range(2))
    told = command(stage, "explain", "--org", "latest")
    calls = command(stage, "explain", "--org", "latest", "--limit", "1", "--json").json()["calls"]

    assert [line.split()[2:5] for line in told.out.splitlines()[1:]] == [
        [second["id"], "ok", "hit"],
        [first["id"], "ok", str(first["usage"]["total_tokens"])],
    ]
    assert [call["id"] for call in calls] == [second["id"]]


def test_a_call_that_nobody_knows_is_a_usage_error(stage: Stage) -> None:
    ran = command(stage, "explain", "g-none")

    assert (ran.code, ran.out) == (2, "")
    assert "`claude-jobs explain` lists the latest" in ran.err


def test_ids_of_calls_are_completed(stage: Stage) -> None:
    answer = ask(stage, "Complete me.")
    completing = {
        "_CLAUDE_JOBS_COMPLETE": "bash_complete",
        "COMP_WORDS": "claude-jobs explain g-",
        "COMP_CWORD": "2",
    }
    ran = run(environ={**stage.environ, **completing})

    assert answer["id"] in ran.out


def test_usage_sums_up_what_was_asked_as_table_csv_json_and_focus(stage: Stage) -> None:
    for prompt in ("One.", "Two.", "Two."):
        ask(stage, prompt, "--org", "sums")
    of = ("usage", "--org", "sums", "--since", "1h")
    table = command(stage, *of).out.splitlines()
    rows = list(csv.DictReader(io.StringIO(command(stage, *of, "--format", "csv").out)))
    by_key = command(stage, *of, "--by", "provider,key", "--json").json()
    focus = list(csv.DictReader(io.StringIO(command(stage, *of, "--format", "focus").out)))
    later = command(stage, "usage", "--org", "sums", "--since", "2h", "--until", "1h")

    assert table[0].split()[:4] == ["DAY", "ORG", "PROVIDER", "MODEL"]
    assert table[1].split()[1:3] == ["sums", "openai"]
    assert [(row["calls"], row["cached"]) for row in rows] == [("3", "1")]
    assert f"${float(rows[0]['cost_usd']):.6f}" in table[1]
    assert sum(row["calls"] for row in by_key["rows"]) == 3
    assert all(row["key"] and not row["model"] for row in by_key["rows"])
    assert focus[0]["BilledCost"] == rows[0]["cost_usd"]
    assert (later.code, later.out, later.err) == (0, "", "Nothing was used.\n")


def test_usage_with_several_groups_ends_in_a_total(stage: Stage) -> None:
    for org in ("total-1", "total-2"):
        ask(stage, "Count me.", "--org", org)
    *rows, total = command(stage, "usage", "--by", "org").out.splitlines()[1:]

    assert total.split()[0] == "total"
    assert int(total.split()[1]) == sum(int(row.split()[1]) for row in rows)


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["--by", "colour"], "'colour'"),
        (["--since", "yesterday"], "since"),
        (["--format", "xml"], "xml"),
    ],
)
def test_usage_that_cannot_be_summed_up_is_a_usage_error(stage: Stage, args: list[str], advice: str) -> None:
    ran = command(stage, "usage", *args)

    assert (ran.code, ran.out) == (2, "")
    assert advice in ran.err


def test_a_quota_is_set_shown_met_and_dropped(stage: Stage) -> None:
    made = command(stage, "quota", "set", "900", "--window", "day", "--subject", "limited")
    used = ask(stage, "Within it.", "--org", "limited", "--max-tokens", "500")["usage"]["total_tokens"]
    shown = command(stage, "quota", "show", "--org", "limited")
    refused = run(
        *("generate", "--provider", "openai", "--org", "limited", "--max-tokens", "899", "Beyond it."),
        environ=stage.environ,
    )
    dropped = command(stage, "quota", "drop", made.out.strip())
    gone = command(stage, "quota", "drop", made.out.strip())
    after = command(stage, "quota", "show", "--org", "limited", "--json").json()

    assert made.out == "org:limited|tokens|day\n"
    assert made.err.startswith("org limited, tokens per day: 0 of 900 used; it resets 20")
    assert shown.out.splitlines()[1].split("  ")[:2] == ["org limited, tokens per day", str(used)]
    assert (refused.code, dropped.code, gone.code) == (3, 0, 2)
    assert "Quota exceeded" in refused.err and "claude-jobs quota set" in refused.err
    assert "was set" in gone.err
    assert after == {"quotas": []}


def test_a_nearly_used_quota_is_told_with_the_answer(stage: Stage) -> None:
    command(stage, "quota", "set", "1000", "--subject", "nearly")
    ran = run(
        *("generate", "--provider", "openai", "--org", "nearly", "--max-tokens", "850", "How much is left?"),
        environ=stage.environ,
    )

    assert ran.code == 0
    assert "Note: Quota of org nearly, tokens per 3600 s: at 8" in ran.err


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["-1"], "-1"),
        (["0.5"], "no whole number of tokens"),
        (["10", "--window", "fortnight"], "No window 'fortnight'"),
        (["10", "--scope", "planet"], "planet"),
    ],
)
def test_a_quota_that_is_none_is_a_usage_error(stage: Stage, args: list[str], advice: str) -> None:
    ran = command(stage, "quota", "set", "--", *args) if args == ["-1"] else command(stage, "quota", "set", *args)

    assert (ran.code, ran.out) == (2, "")
    assert advice in ran.err


def test_what_is_cleared_from_the_cache_is_asked_again(stage: Stage) -> None:
    ask(stage, "Keep me.", "--org", "kept")
    before = command(stage, "cache", "--help").code, command(stage, "cache", "show", "--json").json()
    other = command(stage, "cache", "clear", "--provider", "grok", "--json").json()
    unsaid = command(stage, "cache", "clear")
    cleared = command(stage, "cache", "clear", "--org", "kept")
    again = ask(stage, "Keep me.", "--org", "kept")
    shown = command(stage, "cache")

    assert before[1]["entries"] >= 1
    assert other == {"invalidated": 0}
    assert unsaid.code == 2 and "--all" in unsaid.err
    assert cleared.err == "1 answer cleared.\n"
    assert again["cached"] == ""
    assert shown.out.startswith("answers    ")
    assert "of 1,000" in shown.out


def test_routes_in_trouble_are_shown(stage: Stage) -> None:
    prompt = directive("Break.", fault="401")
    keyless = {name: value for name, value in stage.environ.items() if not name.startswith(KEY_NAMES["qwen"])}
    environ = {**keyless, "DASHSCOPE_API_KEY": "sk-nobody-knows"}
    failed = run("generate", "--provider", "qwen", prompt, environ=environ)
    told = command(stage, "routes")
    found = command(stage, "routes", "--json").json()
    (key,) = [one for one in found["keys"] if one["provider"] == "qwen"]

    assert failed.code == 1
    assert key["dead"]
    assert f"({key['key']})  refused" in told.out
    assert "sk-nobody-knows" not in told.out + failed.err


def test_models_are_listed_with_what_they_cost(stage: Stage) -> None:
    told = command(stage, "models", "--provider", "claude-cli")
    by_alias = command(stage, "models", "--provider", "anthropic", "--json").json()
    unknown = command(stage, "models", "--provider", "clod")
    everything = command(stage, "models", "--json").json()["models"]

    assert told.out.splitlines()[0].split()[:2] == ["PROVIDER", "MODEL"]
    assert any(line.split()[1:3] == ["sonnet", "default"] for line in told.out.splitlines())
    assert {model["provider"] for model in by_alias["models"]} == {"claude"}
    assert unknown.code == 2
    assert "Did you mean 'claude'" in unknown.err
    assert {model["provider"] for model in everything} == {*NAMES, "claude-cli"}
