"""Plan files: what they may look like, what they mean, and errors that name line and field. Nothing is sent here."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from claude_jobs.cli.documents import MAX_BYTES, parse
from claude_jobs.cli.plan import Plan, read_plan
from claude_jobs.errors import InvalidRequest

YAML = """\
name: release
defaults:
  model: haiku
  labels: [v2]
max_parallel: 3
on_failure: fail_fast
jobs:
  - id: survey
    prompt: What is in src/?
  - id: tests
    prompt: |
      Write tests for this:
      {{survey.result}}
    model: opus
    on: end
    deadline: 2026-11-22T10:00Z
  - id: notes
    prompt: Sum up.
    depends_on: [survey, tests]
    needs: any
"""


def plan(tmp_path: Path, text: str, name: str = "plan.yaml", *, options: Mapping[str, object] | None = None) -> Plan:
    file = tmp_path / name
    file.write_text(text)
    return read_plan(str(file), options or {}, max_parallel=None, fail_fast=False)


def refusal(tmp_path: Path, text: str, name: str = "plan.yaml") -> str:
    with pytest.raises((click.UsageError, InvalidRequest)) as caught:
        plan(tmp_path, text, name)
    return caught.value.message


def test_a_plan_has_defaults_dependencies_and_waves(tmp_path: Path) -> None:
    found = plan(tmp_path, YAML)
    survey, tests, notes = found.items

    assert (found.name, found.max_parallel, found.fail_fast) == ("release", 3, True)
    assert found.path == (tmp_path / "plan.yaml").resolve()
    assert (survey.fields["model"], tests.fields["model"], survey.fields["labels"]) == ("haiku", "opus", ["v2"])
    assert (tests.fields["on"], tests.fields["deadline"]) == ("end", "2026-11-22T10:00Z")
    assert (tests.waits_for, notes.waits_for) == (("survey",), ("survey", "tests"))
    assert [[item.id for item in wave] for wave in found.waves()] == [["survey"], ["tests"], ["notes"]]


def test_a_jobs_own_field_wins_over_the_command_line_and_that_over_defaults(tmp_path: Path) -> None:
    found = plan(tmp_path, YAML, options={"model": "sonnet", "effort": "low"})

    assert [item.fields["model"] for item in found.items] == ["sonnet", "opus", "sonnet"]
    assert {item.fields["effort"] for item in found.items} == {"low"}


def test_null_takes_a_default_back(tmp_path: Path) -> None:
    found = plan(tmp_path, "defaults: {max_cost_usd: 1}\njobs:\n  - prompt: a\n    max_cost_usd: null\n  - b\n")

    assert ["max_cost_usd" in item.fields for item in found.items] == [False, True]


def test_json_and_json_lines_say_the_same(tmp_path: Path) -> None:
    jobs = [{"id": "a", "prompt": "one"}, {"prompt": "two", "depends_on": ["a"]}]
    as_json = plan(tmp_path, json.dumps({"jobs": jobs}), "plan.json")
    as_list = plan(tmp_path, json.dumps(jobs), "plan.json")
    as_lines = plan(tmp_path, "\n\n".join(map(json.dumps, jobs)), "plan.jsonl")

    assert as_json.items == as_list.items == as_lines.items
    assert as_lines.items[1].waits_for == ("a",)


@pytest.mark.parametrize(
    "text",
    [
        '"one"\n{"prompt": "two"}\n',
        '[\n "one",\n {"prompt": "two"}]',
        "- one\n- prompt: two\n",
        '{"jobs": ["one", {"prompt": "two"}]}',
        'jobs: ["one", {prompt: two}]',
    ],
)
def test_on_stdin_the_format_is_told_by_how_it_begins(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    found = read_plan("-", {}, max_parallel=2, fail_fast=True)

    assert [item.fields["prompt"] for item in found.items] == ["one", "two"]
    assert (found.path, found.max_parallel, found.fail_fast) == (None, 2, True)


def test_line_separators_inside_a_prompt_do_not_split_it(tmp_path: Path) -> None:
    found = plan(tmp_path, '"one\N{LINE SEPARATOR}still one"\n', "jobs.jsonl")

    assert [item.fields["prompt"] for item in found.items] == ["one\N{LINE SEPARATOR}still one"]


def test_words_of_yaml_1_1_are_text_and_ids_may_be_numbers(tmp_path: Path) -> None:
    found = plan(tmp_path, "- id: 1\n  prompt: yes\n- prompt: no\n  depends_on: 1\n  not_before: 10:30\n")

    assert [item.fields["prompt"] for item in found.items] == ["yes", "no"]
    assert found.items[1].waits_for == ("1",)
    assert found.items[1].fields["not_before"] == "10:30"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs:\n- prompt: a\n- prompt: b\n  modle: x\n", "Line 4: Unknown field 'modle'"),
        ("jobs:\n- id: t\n  prompt: b\n  effort: huge\n", "Line 4, job 't': Field 'effort'"),
        ("jobs:\n- id: a\n", "Line 2, job 'a': Field 'prompt' is missing"),
        ("jobs:\n- 12\n", "Line 2 is neither an object nor a string"),
        ("- {id: a, prompt: x}\n- {id: a, prompt: y}\n", "Line 2: the id 'a' is taken, see Line 1"),
        ("- {id: a, prompt: x, depends_on: [b]}\n", "Line 1, job 'a': it depends on 'b', and no job is called so"),
        (
            "- id: a\n  prompt: use {{ b.result }}\n",
            "Line 2, job 'a': it asks for {{b.result}}, and no job is called so",
        ),
        ("- {id: a, prompt: x, depends_on: [a]}\n", "wait for each other: a -> a"),
        (
            "- {id: a, prompt: x, depends_on: [c]}\n- {id: b, prompt: x, depends_on: [a]}\n- {id: c, prompt: '{{b.result}}'}\n",
            "Line 1, job 'a': these jobs wait for each other: a -> c -> b -> a",
        ),
        ("job: []\n", "is no plan: write a list of jobs"),
        ("jobs: []\nname: x\n", "holds no jobs"),
        ("", "holds no jobs"),
        ("jobs: one\n", "`jobs` must be a list"),
        ("jobs: [a]\nparallel: 3\n", "Line 2: unknown field 'parallel'. Known are: name, defaults, max_parallel"),
        ("jobs: [a]\nmax_parallel: 0\n", "Line 2: `max_parallel` must be a whole number"),
        ("jobs: [a]\non_failure: stop\n", "Line 2: `on_failure` must be continue or fail_fast"),
        ("jobs: [a]\ndefaults: {id: x}\n", "Line 2: 'id' is each job's own"),
        ("defaults:\n  modle: x\njobs: [a]\n", "Line 2: Unknown field 'modle'"),
    ],
)
def test_a_wrong_plan_is_refused_by_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ('{"jobs": [{"prompt": "a"}, {"id": "t", "prompt": "b", "modle": 1}]}', "p.json", "Job 2 ('t'): Unknown field"),
        ('{"jobs": [{"prompt": "a", "prompt": "b"}]}', "p.json", "the key 'prompt' stands twice"),
        ('{"jobs": [', "p.json", "The file is not JSON: Expecting value: line 1 column 11"),
        ('"one"\n{oops\n', "p.jsonl", "Line 2 is not JSON"),
        ('"one"\n{"prompt": "x", "prompt": "y"}\n', "p.jsonl", "Line 2: the key 'prompt' stands twice"),
        ("1\n", "p.jsonl", "Line 1 is neither"),
        ("\n", "p.jsonl", "holds no jobs"),
        ('{"jobs": [{"prompt": "a", "timeout_s": NaN}]}', "p.json", "NaN is not JSON"),
        ("[" * 100_000, "p.json", "nested too deeply"),
    ],
)
def test_json_is_refused_as_precisely_as_it_can_be(tmp_path: Path, text: str, name: str, said: str) -> None:
    assert said in refusal(tmp_path, text, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1,\n", "Line 3 is not YAML that can be used"),
        ("jobs:\n- prompt: a\n  prompt: b\n", "Line 3 is not YAML that can be used: the key 'prompt' stands twice"),
        ("jobs:\n- !!python/object/apply:os.system [ls]\n", "Line 2 is not YAML that can be used: the tag"),
        ("a: &a [*a]\n", "an alias names something that it is part of"),
        ("a: 1\n--- \nb: 2\n", "another document"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("a: \x07\n", "not YAML"),
        ("- " * 5_000 + "a", "nested too deeply"),
        ("- prompt: " + "9" * 5_000, "a number with 5000 digits"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_aliases_may_be_used_and_bombs_may_not(tmp_path: Path) -> None:
    shared = plan(tmp_path, "jobs:\n- {prompt: a, tools: &t [Read, Grep]}\n- {prompt: b, tools: *t}\n")
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10))

    assert shared.items[1].fields["tools"] == ["Read", "Grep"]
    assert "its aliases make more than" in refusal(tmp_path, f"l0: &l0 [lol]\n{levels}\n")


def test_documents_are_bounded_and_say_what_to_do(tmp_path: Path) -> None:
    said = refusal(tmp_path, f"- {'x' * MAX_BYTES}\n")

    assert f"at most {MAX_BYTES} are read" in said
    assert ".jsonl" in said


def test_lines_are_those_of_the_fields() -> None:
    document = parse(YAML, "plan.yaml")

    assert [document.line("jobs", 1, field) for field in ("id", "prompt", "model", "nope")] == [10, 11, 14, 10]
    assert document.line("max_parallel") == 5
