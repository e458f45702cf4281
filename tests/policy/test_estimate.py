"""Guesses of running time: what makes them longer, what they are learned from."""

from __future__ import annotations

from dataclasses import asdict, replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.domain.job import JobSpec
from claude_jobs.policy.estimate import (
    EXAMINED_CHARS,
    MARGIN,
    MAX_FILES,
    MIN_SAMPLES,
    estimate_s,
    features,
    kind,
    learned_s,
)

PLAIN = JobSpec(prompt="Say hello.", model="opus", cwd="/", tools=())
specs = st.builds(
    JobSpec,
    prompt=st.text(max_size=400),
    model=st.sampled_from(("opus", "haiku")),
    cwd=st.just("/"),
    tools=st.sampled_from((None, (), ("Read",), ("Edit",), ("Bash(git *)",))),
    effort=st.sampled_from(("", "low", "medium", "high", "xhigh", "max", "new")),
    output_schema=st.sampled_from(("", "{}")),
    worktree=st.booleans(),
)
run_times = st.lists(st.integers(1, 3_600_000), max_size=100)


@given(specs)
def test_the_guess_is_positive_and_grows_with_everything_that_makes_a_job_longer(spec: JobSpec) -> None:
    plain = replace(spec, effort="low", tools=(), output_schema="", worktree=False, prompt="p")
    longer = [
        replace(plain, prompt="p" * 2_000),
        replace(plain, effort="max"),
        replace(plain, output_schema="{}"),
        replace(plain, worktree=True),
        replace(plain, tools=("Read",)),
    ]

    assert estimate_s(spec) > 0
    assert all(estimate_s(one) > estimate_s(plain) for one in longer)
    assert estimate_s(replace(plain, tools=("Read",), prompt="see a.py")) > estimate_s(
        replace(plain, tools=("Read",), prompt="see a_py")
    )


@pytest.mark.parametrize(
    ("tools", "nest", "expected"),
    [
        ((), False, "none"),
        ((), True, "read"),
        (("Read", "Grep"), False, "read"),
        (("Read(src/**)",), False, "read"),
        (("Read", "Edit"), False, "write"),
        (None, False, "write"),
        (("Bash(git *)",), False, "shell"),
        (("Read", "mcp__github__issues"), False, "shell"),
    ],
)
def test_tools_are_told_apart_by_the_most_they_can_do(tools: tuple[str, ...] | None, nest: bool, expected: str) -> None:
    spec = replace(PLAIN, tools=tools, nest=nest)

    assert features(spec).tool_class == expected
    assert kind(spec) == f"opus/{expected}/default"


@pytest.mark.parametrize(
    ("prompt", "files"),
    [
        ("Fix src/a.py, then b/c.ts.", 2),
        ("Fix src/a.py and src/a.py again.", 1),
        ("`README.md` (see ~/.config/x.toml and ./Makefile.in)", 3),
        ("src\u00e9/\u00fcber.py", 1),
        ("Look at https://example.com/page.html and www.example.com", 0),
        ("e.g. and/or i.e. 3.14 v2.1.329 ... and so on.", 0),
        ("", 0),
        (" ".join(f"f{n}.py" for n in range(500)), MAX_FILES),
        (" " * EXAMINED_CHARS + "late.py", 0),
        ("a" * 100_000 + ".py", 0),
    ],
)
def test_files_that_a_prompt_names_are_counted(prompt: str, files: int) -> None:
    assert features(replace(PLAIN, prompt=prompt)).files_named == files


@given(specs)
def test_what_is_recorded_holds_no_text_of_the_job(spec: JobSpec) -> None:
    secret = "sk-ant-oat01-secret"
    recorded = asdict(features(replace(spec, prompt=f"{spec.prompt} {secret}/notes.txt", system=secret)))

    assert secret not in repr(recorded)
    assert recorded["prompt_chars"] > len(spec.prompt)


@given(specs, run_times)
def test_a_learned_guess_covers_nearly_all_that_was_seen(spec: JobSpec, seen_ms: list[int]) -> None:
    learned = learned_s(spec, seen_ms)

    if len(seen_ms) < MIN_SAMPLES:
        assert learned is None
    else:
        assert learned is not None
        assert sum(ms / 1000 * MARGIN <= learned for ms in seen_ms) >= 0.95 * len(seen_ms)
        assert learned == learned_s(spec, sorted(seen_ms))


def test_tiny_jobs_do_not_teach_that_all_of_their_kind_are_tiny() -> None:
    spec = replace(PLAIN, prompt="p" * 100_000)

    assert estimate_s(spec) / 5 < (learned_s(spec, [50] * MIN_SAMPLES) or 0) < estimate_s(spec)
