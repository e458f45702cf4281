"""Pure rule that a job may give its children no more than it has itself: tools, permissions, directory, terms.

Only what is provably within the parent's is let through; nothing here looks at files, so paths come in resolved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TypeVar

from claude_jobs.domain.job import Job, JobSpec, PermissionMode, ProjectFiles, Submission
from claude_jobs.errors import NotPermitted

PATH_TOOLS = frozenset({"Read", "Edit", "Write", "NotebookEdit", "Glob", "Grep"})
"""Bare, the permission mode says where they may act; with a path ("Edit(//etc/**)") they act there unasked (measured)."""
UNASKED = PATH_TOOLS | {"Task", "Agent", "TaskStop", "TodoWrite", "ToolSearch"}
"""What the CLI's default set does without asking, so that naming it adds nothing. Bash, Monitor, WebFetch, WebSearch ask (measured)."""
SHOWN_RULES = 8
_SHELL = "Bash"
_MODES = (PermissionMode.PLAN, PermissionMode.DONT_ASK, PermissionMode.ACCEPT_EDITS, PermissionMode.BYPASS)
_PROJECTS = (ProjectFiles.NONE, ProjectFiles.INSTRUCTIONS, ProjectFiles.FULL)
_OURS = re.compile(r"mcp__claude-jobs(__\w+)?", re.ASCII)
_PLAIN_COMMAND = re.compile(r"[\w ./:=@%+-]+", re.ASCII)
"""No quotes, expansion, redirection, operators or wildcards: the words are what they look like."""
_BREAKS_LIST = re.compile(r"[(),\n]")
"""Rules reach the CLI as one comma-separated list; with these a pattern could end early and name another tool."""
_Rank = TypeVar("_Rank", PermissionMode, ProjectFiles)


def narrow(parent: JobSpec, child: JobSpec, *, asked: frozenset[str], places: Sequence[str] = ()) -> JobSpec:
    """The child's spec within the parent's. A field that was not asked for becomes the parent's where it would be wider.

    Free for every child: prompt, system, effort, time-out, attempts, schema, and nesting, which the tree's limits hold.
    The environment is always the parent's; so is the model, unless one was asked for or a session goes on with its own.

    Args:
        asked: Names of the fields that the caller set.
        places: Directories that are the parent's to give beside its `cwd`, such as the worktree of a job it resumes.

    Raises:
        NotPermitted: permission_mode, project, cwd, tools or accept ask for more than the parent has.
    """
    _check_cwd((parent.cwd, *places), child.cwd)
    _check_accept(parent, child)
    return replace(
        child,
        permission_mode=_least(_MODES, parent.permission_mode, child.permission_mode, "permission_mode", asked),
        project=_least(_PROJECTS, parent.project, child.project, "project", asked),
        tools=_tools(parent, child, is_asked="tools" in asked),
        model=child.model if "model" in asked or child.resume_session else parent.model,
        env=parent.env,
    )


def _check_cwd(places: Sequence[str], wanted: str) -> None:
    path = PurePath(wanted)
    if ".." not in path.parts and any(path.is_relative_to(place) for place in places):
        return
    raise NotPermitted(
        f"cwd {wanted!r} is outside of this job's own directory {places[0]!r}, and a child may only work inside it. "
        "Leave cwd out or name a directory in there; say in your answer what is to be done elsewhere.",
        field="cwd",
    )


def _least(order: Sequence[_Rank], has: _Rank, wants: _Rank, field: str, asked: frozenset[str]) -> _Rank:
    if order.index(wants) <= order.index(has):
        return wants
    if field not in asked:
        return has
    within = ", ".join(one.value for one in order[: order.index(has) + 1])
    raise NotPermitted(
        f"{field}={wants.value} is more than this job has ({has.value}), and a child can only get less. "
        f"Leave {field} out, or take one of: {within}.",
        field=field,
    )


def _tools(parent: JobSpec, child: JobSpec, *, is_asked: bool) -> tuple[str, ...] | None:
    if child.tools is None:
        return _inherited(parent, child.cwd)
    wider = [rule for rule in child.tools if not _covers(parent, rule, child.cwd)]
    if not wider:
        return child.tools
    if not is_asked:
        return _inherited(parent, child.cwd)
    has = "the default tools, which run no shell command unasked" if parent.tools is None else _listed(parent.tools)
    raise NotPermitted(
        f"tools: {_listed(wider)} is more than this job has ({has}), and a child can only get less. "
        "Leave tools out to give it the same, name fewer, or say in your answer what needs those tools.",
        field="tools",
    )


def _inherited(parent: JobSpec, cwd: str) -> tuple[str, ...] | None:
    """The parent's tools, without the rules that would mean other files in `cwd`."""
    if parent.tools is None:
        return None
    return tuple(rule for rule in parent.tools if _covers(parent, rule, cwd))


def _listed(rules: Sequence[str]) -> str:
    more = f" and {len(rules) - SHOWN_RULES} more" if len(rules) > SHOWN_RULES else ""
    return (", ".join(map(repr, rules[:SHOWN_RULES])) or "none") + more


def _covers(parent: JobSpec, rule: str, cwd: str) -> bool:
    """Whether the parent could do without asking all that `rule` lets a child do in `cwd`."""
    if _OURS.fullmatch(rule):
        return True
    base, pattern = _parts(rule)
    if parent.permission_mode is PermissionMode.BYPASS and _is_one_rule(pattern):
        return parent.tools is None or base in {_parts(has)[0] for has in parent.tools}
    if parent.tools is None:
        return rule in UNASKED
    if rule in parent.tools:
        return base not in PATH_TOOLS or cwd == parent.cwd or not pattern or pattern.startswith(("//", "~"))
    if base in PATH_TOOLS or not _is_one_rule(pattern):
        return False
    return base in parent.tools or (base == _SHELL and any(_is_prefix(has, pattern) for has in parent.tools))


def _parts(rule: str) -> tuple[str, str]:
    base, _, rest = rule.partition("(")
    return base, rest.removesuffix(")")


def _is_one_rule(pattern: str) -> bool:
    return not _BREAKS_LIST.search(pattern)


def _is_prefix(has: str, pattern: str) -> bool:
    """Whether "Bash(git *)" (`has`) lets run all that "Bash(git log *)" (`pattern`: "git log *") does.

    Only for a wildcard at the end of either, and a plain command before it: that much is sure.
    """
    base, own = _parts(has)
    prefix, command = _before_wildcard(own), _before_wildcard(pattern)
    if base != _SHELL or prefix == own or not _PLAIN_COMMAND.fullmatch(command):
        return False
    return command == prefix or command.startswith(prefix + " ")


def _before_wildcard(pattern: str) -> str:
    return pattern[:-2] if pattern.endswith((" *", ":*")) else pattern


def _check_accept(parent: JobSpec, child: JobSpec) -> None:
    """The acceptance check is a shell command that nobody is asked about: the parent must be able to run it itself."""
    if child.accept in ("", parent.accept) or _may_run(parent, child.accept, child.cwd):
        return
    raise NotPermitted(
        f"accept={child.accept!r} runs a shell command that this job may not run itself. "
        "Leave accept out and check the child's work with the tools you have, or take the same check as this job's own.",
        field="accept",
    )


def _may_run(parent: JobSpec, command: str, cwd: str) -> bool:
    if parent.permission_mode is PermissionMode.PLAN:
        return False
    if _covers(parent, _SHELL, cwd):
        return True
    is_plain = _PLAIN_COMMAND.fullmatch(command) is not None
    return is_plain and _covers(parent, f"{_SHELL}({command})", cwd)


def narrow_terms(parent: Job, submission: Submission, *, asked: frozenset[str]) -> Submission:
    """The submission on its parent's terms: its tokens, org and pool, at most its priority, at the latest its deadline.

    Raises:
        NotPermitted: A higher priority than the parent's, or another org, was asked for.
    """
    if "priority" in asked and submission.priority > parent.priority:
        raise NotPermitted(
            f"priority={submission.priority} is higher than this job's own ({parent.priority}). "
            "Leave priority out or ask for a lower one; whoever submitted this job could raise it there.",
            field="priority",
        )
    if "org" in asked and submission.org != parent.org:
        raise NotPermitted(
            f"org={submission.org!r} is not this job's ({parent.org!r}), and a child is billed with its parent. Leave org out.",
            field="org",
        )
    deadlines = [at_ms for at_ms in (submission.deadline_ms, parent.deadline_ms) if at_ms is not None]
    return replace(
        submission,
        offers=parent.offers,
        org=parent.org,
        pool=parent.pool,
        priority=submission.priority if "priority" in asked else parent.priority,
        deadline_ms=min(deadlines, default=None),
    )
