"""A child gets no more than its parent has, over any chain of children, whatever is asked for and in whatever words."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePath

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from policy.trees import job, spec, submission

from claude_jobs.domain.job import JobSpec, PermissionMode, ProjectFiles
from claude_jobs.errors import NotPermitted
from claude_jobs.policy.narrowing import narrow, narrow_terms

PLAN, DONT_ASK, ACCEPT, BYPASS = (
    PermissionMode.PLAN,
    PermissionMode.DONT_ASK,
    PermissionMode.ACCEPT_EDITS,
    PermissionMode.BYPASS,
)
NONE, INSTRUCTIONS, FULL = ProjectFiles.NONE, ProjectFiles.INSTRUCTIONS, ProjectFiles.FULL
ALL = frozenset({"permission_mode", "project", "tools", "cwd", "model", "accept", "priority", "org"})


def refused(parent: JobSpec, child: JobSpec, asked: frozenset[str] = ALL) -> NotPermitted:
    with pytest.raises(NotPermitted) as error:
        narrow(parent, child, asked=asked)
    return error.value


def allowed(parent: JobSpec, child: JobSpec) -> bool:
    try:
        narrow(parent, child, asked=ALL)
    except NotPermitted:
        return False
    return True


def test_what_was_not_asked_for_becomes_the_parents_where_it_is_wider() -> None:
    parent = spec(
        permission_mode=DONT_ASK, project=NONE, tools=("Read",), model="haiku", env=(("PATH", "/bin"),), cwd="/work"
    )
    child = narrow(parent, spec(cwd="/work/sub", env=(("PATH", "/evil"),)), asked=frozenset())

    assert (child.permission_mode, child.project, child.tools) == (DONT_ASK, NONE, ("Read",))
    assert (child.model, child.env, child.cwd) == ("haiku", parent.env, "/work/sub")


def test_what_is_narrower_stays() -> None:
    parent = spec(permission_mode=BYPASS, project=FULL, tools=("Read", "Bash"))
    wanted = spec(permission_mode=PLAN, project=NONE, tools=("Read",), model="haiku", effort="max", timeout_s=9.0)

    assert narrow(parent, wanted, asked=ALL) == wanted
    assert narrow(parent, spec(), asked=frozenset()).permission_mode is ACCEPT


def test_a_resumed_session_keeps_its_model_and_an_uncovered_set_of_tools_becomes_the_parents() -> None:
    child = spec(model="haiku", resume_session="s", tools=("Bash",))

    assert narrow(spec(tools=("Read",)), child, asked=frozenset()) == replace(child, tools=("Read",))


@pytest.mark.parametrize(
    ("field", "parent", "child"),
    [
        ("permission_mode", spec(), spec(permission_mode=BYPASS)),
        ("permission_mode", spec(permission_mode=PLAN), spec(permission_mode=DONT_ASK)),
        ("permission_mode", spec(permission_mode=DONT_ASK), spec(permission_mode=ACCEPT)),
        ("project", spec(), spec(project=FULL)),
        ("project", spec(project=NONE), spec(project=INSTRUCTIONS)),
        ("tools", spec(tools=("Read",)), spec(tools=("Read", "Bash"))),
        ("tools", spec(tools=()), spec(tools=("Read",))),
        ("cwd", spec(), spec(cwd="/elsewhere")),
        ("accept", spec(), spec(accept="make test")),
    ],
)
def test_more_than_the_parent_has_is_refused_by_name(field: str, parent: JobSpec, child: JobSpec) -> None:
    error = refused(parent, child)

    assert error.field == field
    assert field in error.message
    assert "Leave" in error.message


def test_a_refusal_says_what_is_too_much_what_there_is_and_what_to_do() -> None:
    error = refused(spec(tools=("Read", "Bash(git *)")), spec(tools=("Read", "Bash(rm *)", "WebFetch")))

    assert error.message == (
        "tools: 'Bash(rm *)', 'WebFetch' is more than this job has ('Read', 'Bash(git *)'), and a child can only get less. "
        "Leave tools out to give it the same, name fewer, or say in your answer what needs those tools."
    )
    many = refused(spec(tools=tuple(f"T{number}" for number in range(200))), spec(tools=("Bash",))).message
    assert "'T7' and 192 more" in many


@pytest.mark.parametrize(
    ("has", "rule"),
    [
        ("Bash", "Bash"),
        ("Bash", "Bash(git *)"),
        ("Bash(git *)", "Bash(git *)"),
        ("Bash(git *)", "Bash(git:*)"),
        ("Bash(git *)", "Bash(git log *)"),
        ("Bash(git *)", "Bash(git log --format=%h -5)"),
        ("Bash(git:*)", "Bash(git log:*)"),
        ("Bash(git *)", "Bash(git)"),
        ("WebFetch", "WebFetch(domain:example.org)"),
        ("WebFetch(domain:example.org)", "WebFetch(domain:example.org)"),
        ("Read(//etc/**)", "Read(//etc/**)"),
        ("Edit(~/notes/**)", "Edit(~/notes/**)"),
        ("Edit(src/**)", "Edit(src/**)"),
        ("Read", "mcp__claude-jobs__spawn"),
        ("Read", "mcp__claude-jobs"),
        ("mcp__other__tool", "mcp__other__tool"),
    ],
)
def test_a_rule_is_covered(has: str, rule: str) -> None:
    assert allowed(spec(tools=(has,)), spec(tools=(rule,)))


@pytest.mark.parametrize(
    ("has", "rule"),
    [
        ("Bash(git *)", "Bash"),
        ("Bash(git *)", "Bash(*)"),
        ("Bash(git *)", "Bash(gitk *)"),
        ("Bash(git *)", "Bash(g *)"),
        ("Bash(git log *)", "Bash(git *)"),
        ("Bash(git)", "Bash(git log *)"),
        ("Bash(git *)", "Bash(git log && rm *)"),
        ("Bash(git *)", "Bash(git log; rm x)"),
        ("Bash(git *)", "Bash(git log $(rm x))"),
        ("Bash(git *)", "Bash(git log `rm x`)"),
        ("Bash(git *)", "Bash(git log | sh)"),
        ("Bash(git *)", "Bash(git log > /etc/passwd)"),
        ("Bash(git *)", "Bash(git * && rm *)"),
        ("Bash(git *)", "Bash(git log\nrm *)"),
        ("Bash(git *)", "Bash(git log), Bash(rm *)"),
        ("Bash(git * main)", "Bash(git push main)"),
        ("WebFetch", "WebFetch(domain:x),Bash(*)"),
        ("WebFetch", "WebFetch(domain:x, Bash, Read)"),
        ("Read", "mcp__claude-jobs-evil__spawn"),
        ("Read", "mcp__claude-jobs__spawn(x),Bash(*)"),
        ("Read", "Read(//etc/**)"),
        ("Edit", "Edit(~/**)"),
        ("Edit(src/**)", "Write(src/**)"),
        ("Read", "Edit"),
        ("NotBash(git *)", "Bash(git log *)"),
    ],
)
def test_a_rule_is_not_covered(has: str, rule: str) -> None:
    assert refused(spec(tools=(has,)), spec(tools=(rule,))).field == "tools"


def test_a_relative_path_means_another_place_in_another_directory() -> None:
    parent = spec(tools=("Edit(src/**)", "Edit(//work/src/**)"), permission_mode=DONT_ASK)

    assert not allowed(parent, spec(tools=("Edit(src/**)",), cwd="/work/a", permission_mode=DONT_ASK))
    assert allowed(parent, spec(tools=("Edit(//work/src/**)",), cwd="/work/a", permission_mode=DONT_ASK))
    assert narrow(parent, spec(cwd="/work/a"), asked=frozenset()).tools == ("Edit(//work/src/**)",)
    assert narrow(parent, spec(), asked=frozenset()).tools == parent.tools


@pytest.mark.parametrize("rule", ["Read", "Edit", "Write", "Glob", "Grep", "NotebookEdit", "Task", "TodoWrite"])
def test_the_default_set_covers_what_asks_nobody(rule: str) -> None:
    assert allowed(spec(), spec(tools=(rule,)))


@pytest.mark.parametrize("rule", ["Bash", "Bash(ls *)", "WebFetch", "WebSearch", "Monitor", "Skill", "Edit(//etc/**)"])
def test_the_default_set_does_not_cover_what_would_ask(rule: str) -> None:
    assert "default tools" in refused(spec(), spec(tools=(rule,))).message


def test_under_bypass_every_rule_of_an_available_tool_is_covered() -> None:
    everything = spec(permission_mode=BYPASS)
    some = spec(permission_mode=BYPASS, tools=("Bash(git *)", "Read(//etc/**)"))

    assert allowed(everything, spec(tools=("Bash", "WebFetch", "Edit(//etc/**)"), accept="make && make test"))
    assert allowed(some, spec(tools=("Bash", "Read"), accept="make && make test"))
    assert refused(some, spec(tools=("WebFetch",))).field == "tools"
    assert refused(spec(permission_mode=BYPASS, tools=("Read",)), spec(accept="make")).field == "accept"


@pytest.mark.parametrize(
    ("parent", "accept", "expected"),
    [
        (spec(tools=("Bash",)), "make && make test", True),
        (spec(accept="make && make test"), "make && make test", True),
        (spec(tools=("Bash(make *)",)), "make test", True),
        (spec(tools=("Bash(make test)",)), "make test", True),
        (spec(tools=("Bash(make *)",)), "make test && rm -r x", False),
        (spec(tools=("Bash(make *)",)), "make *", False),
        (spec(tools=("Bash(make *)",)), "true", False),
        (spec(tools=("Read",)), "true", False),
        (spec(tools=("Bash",), permission_mode=PLAN), "true", False),
        (spec(tools=("Bash",), permission_mode=DONT_ASK), "true", True),
        (spec(), "", True),
    ],
)
def test_an_acceptance_check_is_a_command_that_the_parent_may_run(parent: JobSpec, accept: str, expected: bool) -> None:
    wanted = spec(accept=accept, tools=(), permission_mode=PLAN)

    assert allowed(parent, wanted) == expected


@pytest.mark.parametrize(
    ("cwd", "expected"),
    [
        ("/work", True),
        ("/work/a/b", True),
        ("/workshop", False),
        ("/", False),
        ("/work/../etc", False),
        ("/tree/a", True),
    ],
)
def test_a_child_works_inside_the_parents_directories(cwd: str, expected: bool) -> None:
    def ask() -> JobSpec:
        return narrow(spec(), spec(cwd=cwd), asked=frozenset({"cwd"}), places=("/tree",))

    if expected:
        assert ask().cwd == cwd
    else:
        with pytest.raises(NotPermitted, match="outside of this job's own directory '/work'"):
            ask()


RULES = st.sampled_from(
    (
        "Read",
        "Edit",
        "Bash",
        "WebFetch",
        "Task",
        "Bash(*)",
        "Bash(git *)",
        "Bash(git:*)",
        "Bash(git log *)",
        "Bash(git log)",
        "Bash(git log && rm *)",
        "Bash(rm *)",
        "Bash(git log, Bash)",
        "Edit(src/**)",
        "Edit(//work/**)",
        "Edit(//etc/**)",
        "Read(//etc/**)",
        "Read(//etc/**),Bash(*)",
        "WebFetch(domain:x),Bash(*)",
        "WebFetch(domain:x)",
        "mcp__claude-jobs__spawn",
        "mcp__claude-jobs__spawn(x),Bash",
    )
)
SPECS = st.builds(
    spec,
    cwd=st.sampled_from(("/work", "/work/src", "/work/a", "/etc", "/work/a/src", "/")),
    permission_mode=st.sampled_from(PermissionMode),
    project=st.sampled_from(ProjectFiles),
    tools=st.none() | st.lists(RULES, max_size=4).map(tuple),
    accept=st.sampled_from(("", "", "git log", "rm x", "git log && rm x", "git *")),
    model=st.sampled_from(("opus", "haiku")),
)
COMMANDS = ("git", "git log", "git log -1", "git push", "gitk", "rm x", "git log && rm x", "git *")
PATHS = ("/work/x", "/work/src/x", "/work/a/x", "/work/a/src/x", "/etc/x")


def acts(job_spec: JobSpec) -> set[tuple[str, str]]:
    """All that the CLI would let a job do unasked, of a small world. Said from its measured behaviour, not from our rules."""
    rules = None if job_spec.tools is None else split(",".join(job_spec.tools))
    names = None if rules is None else {rule.partition("(")[0].strip() for rule in rules}
    patterns = [match for rule in rules or () if (match := re.fullmatch(r"(\w+)\((.*)\)", rule, re.DOTALL))]
    mode = job_spec.permission_mode

    def has(name: str) -> bool:
        return names is None or name in names

    def runs(command: str) -> bool:
        parts = command.split(" && ")
        return all(any(m[1] == "Bash" and matches(m[2], part) for m in patterns) for part in parts)

    def may_run(command: str) -> bool:
        return has("Bash") and (mode is BYPASS or (mode is not PLAN and ("Bash" in (rules or ()) or runs(command))))

    def may_touch(name: str, path: str) -> bool:
        inside = PurePath(path).is_relative_to(job_spec.cwd)
        by_mode = mode is BYPASS or (inside and (name == "Read" or mode is ACCEPT))
        named = any(m[1] == name and fnmatchcase(path, anchored(m[2], job_spec.cwd)) for m in patterns)
        return has(name) and (by_mode or (named and (name == "Read" or mode is not PLAN)))

    found = {("run", command) for command in COMMANDS if may_run(command)}
    found |= {(name, path) for name in ("Read", "Edit") for path in PATHS if may_touch(name, path)}
    if has("WebFetch") and (mode is BYPASS or (names and "WebFetch" in names)):
        found |= {("web", "x")} | ({("web", "any")} if mode is BYPASS or "WebFetch" in (rules or ()) else set())
    return found


def split(text: str) -> list[str]:
    """At any comma, which is the least favourable way for us, and at those outside of parentheses."""
    outside = re.sub(r"\([^()]*\)", lambda match: match[0].replace(",", "\0"), text)
    return [part.replace("\0", ",").strip() for part in outside.split(",")] + [part.strip() for part in text.split(",")]


def matches(pattern: str, command: str) -> bool:
    if pattern == "*":
        return True
    prefix = pattern[:-2] if pattern.endswith((" *", ":*")) else ""
    return command == (prefix or pattern) or bool(prefix and command.startswith(prefix + " "))


def anchored(pattern: str, cwd: str) -> str:
    return pattern[1:] if pattern.startswith("//") else f"{cwd}/{pattern}"


@settings(deadline=None, max_examples=200)
@given(st.lists(SPECS, min_size=2, max_size=5), st.frozensets(st.sampled_from(sorted(ALL))))
def test_no_chain_of_children_ever_widens_anything(specs: list[JobSpec], asked: frozenset[str]) -> None:
    modes, projects = (
        list[PermissionMode]((PLAN, DONT_ASK, ACCEPT, BYPASS)),
        list[ProjectFiles]((NONE, INSTRUCTIONS, FULL)),
    )
    line = [specs[0]]
    for wanted in specs[1:]:
        try:
            line.append(narrow(line[-1], wanted, asked=asked))
        except NotPermitted as error:
            assert error.field in ALL

    for above, child in pairwise(line):
        assert acts(child) <= acts(above)
        assert modes.index(child.permission_mode) <= modes.index(above.permission_mode)
        assert projects.index(child.project) <= projects.index(above.project)
        assert PurePath(child.cwd).is_relative_to(above.cwd)
        assert child.env == above.env
        assert child.accept in ("", above.accept) or runs_itself(above, child.accept)


def runs_itself(above: JobSpec, command: str) -> bool:
    return ("run", command) in acts(above)


@given(SPECS)
def test_a_child_that_asks_for_nothing_or_for_the_same_is_never_refused(parent: JobSpec) -> None:
    plain = replace(spec(), cwd=parent.cwd)

    assert acts(narrow(parent, plain, asked=frozenset())) <= acts(parent)
    assert narrow(parent, replace(parent, tools=None), asked=ALL).tools == parent.tools


def test_terms_are_the_parents() -> None:
    parent = replace(job("j-a"), offers=("bbb",), org="acme", pool="host:x", priority=2, deadline_ms=1_000)
    plain = narrow_terms(parent, submission(), asked=frozenset())
    lower = narrow_terms(parent, replace(submission(), priority=-1, deadline_ms=500), asked=ALL - {"org"})
    later = narrow_terms(parent, replace(submission(), deadline_ms=5_000, org="acme"), asked=ALL)

    assert (plain.offers, plain.org, plain.pool, plain.priority, plain.deadline_ms) == (
        ("bbb",),
        "acme",
        "host:x",
        2,
        1_000,
    )
    assert (lower.priority, lower.deadline_ms) == (-1, 500)
    assert later.deadline_ms == 1_000
    assert narrow_terms(job("j-a"), submission(), asked=ALL).deadline_ms is None


@pytest.mark.parametrize(("field", "value"), [("priority", 3), ("org", "other")])
def test_better_terms_are_refused(field: str, value: int | str) -> None:
    parent = replace(job("j-a"), org="acme", priority=2)
    with pytest.raises(NotPermitted) as error:
        narrow_terms(parent, replace(submission(), **{"org": "acme", field: value}), asked=frozenset({field}))

    assert error.value.field == field
