"""A job as a caller writes it, checked and completed into a Submission. One place for every rule about bad input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from claude_jobs.domain.job import (
    Dependency,
    DependencyMode,
    DependencyOn,
    Job,
    JobSpec,
    PermissionMode,
    ProjectFiles,
    Submission,
)
from claude_jobs.errors import InvalidRequest, NotPermitted
from claude_jobs.policy.narrowing import narrow, narrow_terms
from claude_jobs.policy.rank import MAX_PRIORITY
from claude_jobs.policy.templates import references
from claude_jobs.runner.environment import split
from claude_jobs.runner.paths import expanded
from claude_jobs.runner.prompt import check_prompt
from claude_jobs.services.caller import Caller
from claude_jobs.services.moments import parse_moment

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}(\[[0-9a-z]+\])?")
OUR_TOOLS = "mcp__claude-jobs"
_PLAINLY = frozenset({"permission_mode", "project", "priority"})
"""Fronts send these only when they were asked for."""
_SESSION_HOME = frozenset({"HOME", "CLAUDE_CONFIG_DIR"})
_TOOL = re.compile(r"[A-Za-z_][\w-]*(\([^()\n]*\))?")


def scrub(text: object) -> object:
    """Replace lone surrogates by U+FFFD, as the CLI would: no encoder downstream can refuse the text then."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(scrub)]
Short = Annotated[Text, Field(max_length=200)]


class JobRequest(BaseModel):
    """One job as asked for. Everything but the prompt has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    prompt: Text
    model: Short = ""
    cwd: Annotated[str, Field(max_length=4_096)] = ""
    system: Annotated[Text, Field(max_length=100_000)] = ""
    tools: Annotated[tuple[str, ...] | None, Field(max_length=200)] = None
    permission_mode: PermissionMode = PermissionMode.ACCEPT_EDITS
    project: ProjectFiles = ProjectFiles.INSTRUCTIONS
    effort: Literal["", "low", "medium", "high", "xhigh", "max"] = ""
    max_cost_usd: Annotated[float | None, Field(gt=0, le=1_000_000)] = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    label: Short = ""
    labels: Annotated[tuple[Short, ...], Field(max_length=50)] = ()
    timeout_s: Annotated[float | None, Field(gt=0, le=86_400)] = None
    max_attempts: Annotated[int | None, Field(ge=1, le=100)] = None
    strict: bool = False
    fresh: bool | None = None
    nest: bool | None = None
    key: Short = ""
    org: Short = ""
    id: Annotated[str, Field(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
    depends_on: Annotated[tuple[Short, ...], Field(max_length=1_000)] = ()
    needs: DependencyMode = DependencyMode.ALL
    on: DependencyOn = DependencyOn.SUCCESS
    deadline: str | float = ""
    not_before: str | float = ""
    output_schema: dict[str, object] | None = None
    worktree: bool = False
    accept: Annotated[Text, Field(max_length=10_000)] = ""
    accept_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    resume: Short = ""
    fork: bool = False

    def asked(self) -> frozenset[str]:
        """Names of the fields that ask for something: for another value than the default, or plainly for the default.

        Of the fields that every front sends along, the default says nothing.
        """
        fields, said = type(self).model_fields, self.model_fields_set
        changed = {name for name in said if getattr(self, name) != fields[name].default}
        return frozenset(changed | (said & _PLAINLY))

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> JobRequest:
        """From JSON.

        Raises:
            InvalidRequest: Names the field, what is wrong with it, and for an unknown one the known ones.
        """
        try:
            return cls.model_validate(dict(data), strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                message = f"Unknown field {name!r}. Known are: {', '.join(cls.model_fields)}."
            elif first["type"] == "missing":
                message = f"Field {name!r} is missing."
            else:
                message = f"Field {name!r}: {first['msg']}."
            raise InvalidRequest(message, field=name) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """The operator's settings that a request is held against."""

    model: str
    max_attempts: int
    timeout_ceiling_s: float
    pool: str
    max_depth: int
    worktrees: Path
    trusted_dirs: tuple[Path, ...] = ()
    allow_bypass: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a request stands in.

    Attributes:
        parent: The job that asks, None outside of jobs.
        source: The job whose session it goes on with, None for a new session.
        places: Index by plan-local id of the jobs that are submitted together.
    """

    now_ms: int
    parent: Job | None = None
    source: Job | None = None
    places: Mapping[str, int] = field(default_factory=dict[str, int])


def complete(
    request: JobRequest, caller: Caller, offers: tuple[str, ...], rules: RequestRules, site: Site
) -> Submission:
    """The Submission for `request`.

    Raises:
        InvalidRequest: prompt, model, cwd, tools, moments or dependencies are not usable.
        NotPermitted: project=full or bypassPermissions where the operator does not allow them; a job inside a job that
            asks for more than that one has.
    """
    spec = _spec(request, caller, rules, site)
    not_before_ms, deadline_ms = _moments(request, site.now_ms, dict(caller.env).get("TZ", ""))
    submission = Submission(
        spec=spec,
        offers=offers,
        submitter=caller.submitter,
        pool=rules.pool,
        key=request.key,
        priority=request.priority,
        label=request.label or request.id,
        labels=request.labels,
        org=request.org,
        depends_on=_dependencies(request, site.places),
        needs=request.needs,
        on=request.on,
        not_before_ms=not_before_ms,
        deadline_ms=deadline_ms,
    )
    if site.source is not None and not request.fork:
        submission = replace(
            submission, session_id=site.source.session_id, session_cost_nusd=site.source.session_cost_nusd
        )
    if site.parent is None:
        return submission
    asked = request.asked()
    narrowed = narrow(_at_work(site.parent, rules), spec, asked=asked, places=_lent(site.parent, site.source))
    child = replace(submission, parent_id=site.parent.id, spec=narrowed)
    return narrow_terms(site.parent, child, asked=asked)


def _at_work(parent: Job, rules: RequestRules) -> JobSpec:
    """The spec with the directory that the parent really works in, which its relative tool rules mean, too."""
    if not parent.spec.worktree:
        return parent.spec
    return replace(parent.spec, cwd=str((rules.worktrees / parent.id).resolve()))


def _lent(parent: Job, source: Job | None) -> tuple[str, ...]:
    """Where a session goes on that the parent may resume, wherever it works itself.

    Of its tree that is a worktree that was left behind; of what it spawned also where that one was allowed to work.
    """
    if source is None:
        return ()
    theirs = source.spec.cwd if source.parent_id == parent.id else ""
    return tuple(place for place in (_kept(source), theirs) if place)


def _spec(request: JobRequest, caller: Caller, rules: RequestRules, site: Site) -> JobSpec:
    source = site.source
    cwd = _cwd(request.cwd, caller.cwd) if source is None else _same_cwd(request, source)
    worktree = request.worktree if source is None else _has_lost_worktree(source)
    check_prompt(request.prompt)
    _check_tools(request)
    model = request.model or (source.spec.model if source else rules.model)
    if not _MODEL.fullmatch(model):
        raise InvalidRequest(f"Model {model!r} is not a model name. See `list_models`.", field="model")
    if request.timeout_s is not None and request.timeout_s > rules.timeout_ceiling_s:
        message = f"timeout_s={request.timeout_s:g} exceeds CLAUDE_TIMEOUT_SECONDS={rules.timeout_ceiling_s:g}. Ask for less, or raise it."
        raise InvalidRequest(message, field="timeout_s")
    given = request.asked()
    depth = site.parent.depth + 1 if site.parent else 0
    tools = source.spec.tools if source and "tools" not in given else request.tools
    mode = source.spec.permission_mode if source and "permission_mode" not in given else request.permission_mode
    project = source.spec.project if source and "project" not in given else request.project
    forbids_nest = source.spec.forbids_nest if source and request.nest is None else request.nest is False
    _check_permissions(mode, project, cwd, rules)
    return JobSpec(
        prompt=request.prompt,
        model=model,
        cwd=cwd,
        system=request.system,
        tools=tools,
        permission_mode=mode,
        project=project,
        effort=request.effort,
        max_cost_usd=request.max_cost_usd,
        timeout_s=request.timeout_s,
        max_attempts=request.max_attempts or rules.max_attempts,
        strict=request.strict,
        fresh=request.fresh,
        nest=not forbids_nest and _wants_nest(request.nest, tools) and depth < rules.max_depth,
        forbids_nest=forbids_nest,
        output_schema=_schema(request.output_schema),
        worktree=worktree,
        accept=request.accept.strip(),
        accept_timeout_s=request.accept_timeout_s,
        resume_session=source.session_id if source else "",
        fork=request.fork,
        env=_env(caller, source),
    )


def _wants_nest(asked: bool | None, tools: tuple[str, ...] | None) -> bool:
    """Whether the job is to be able to spawn jobs: with the default tools, or where it names ours."""
    if asked is not None:
        return asked
    return tools is None or any(tool.startswith(OUR_TOOLS) for tool in tools)


def _same_cwd(request: JobRequest, source: Job) -> str:
    """A session lives in its directory."""
    place = _kept(source) or source.spec.cwd
    if request.cwd and _cwd(request.cwd, place) != place:
        message = f"Job {source.id!r} ran in {place!r}, and its session goes on there only. Leave cwd out."
        raise InvalidRequest(message, field="cwd")
    if request.worktree and not _has_lost_worktree(source):
        raise InvalidRequest("A resumed job goes on where it was; it cannot get a worktree.", field="worktree")
    return _cwd(place, place)


def _kept(source: Job) -> str:
    """The worktree that it has left, "" if there is none (any more)."""
    left = source.outcome.worktree if source.outcome else ""
    return left if left and Path(left).is_dir() else ""


def _has_lost_worktree(source: Job) -> bool:
    """Its session goes on in a new one then: what was to be kept apart from the checkout stays apart."""
    return source.spec.worktree and not _kept(source)


def _env(caller: Caller, source: Job | None) -> tuple[tuple[str, str], ...]:
    """The caller's, as far as a file may hold it, but the session must be found where the earlier job left it."""
    plain, _ = split(caller.env)
    if source is None:
        return plain
    home = {name: value for name, value in source.spec.env if name in _SESSION_HOME}
    rest = {name: value for name, value in plain if name not in _SESSION_HOME}
    return tuple(sorted({**rest, **home}.items()))


def _check_tools(request: JobRequest) -> None:
    for tool in request.tools or ():
        if not _TOOL.fullmatch(tool):
            message = f"Tool {tool!r} is not a tool name or rule; write for example 'Read' or 'Bash(git log *)'."
            raise InvalidRequest(message, field="tools")
    if request.fork and not request.resume:
        raise InvalidRequest("fork=true needs resume=<job id>: it copies that job's session.", field="fork")


def _schema(schema: dict[str, object] | None) -> str:
    if schema is None:
        return ""
    from claude_jobs.runner.schema import check_schema

    text = json.dumps(schema, sort_keys=True)
    check_schema(text)
    return text


def _moments(request: JobRequest, now_ms: int, zone: str) -> tuple[int | None, int | None]:
    not_before = parse_moment(request.not_before, now_ms, "not_before", zone=zone) if request.not_before != "" else None
    deadline = parse_moment(request.deadline, now_ms, "deadline", zone=zone) if request.deadline != "" else None
    if deadline is not None and deadline <= max(now_ms, not_before or 0):
        what = "is over already" if deadline <= now_ms else "comes before not_before"
        raise InvalidRequest(f"deadline={request.deadline!r} {what}: the job could never run.", field="deadline")
    return not_before, deadline


def _dependencies(request: JobRequest, places: Mapping[str, int]) -> tuple[Dependency, ...]:
    """Those named, and those whose results the prompt wants."""
    named = dict.fromkeys([*request.depends_on, *references(request.prompt)])
    for name in named:
        if name not in places and not name.startswith("j-"):
            known = f"Known here are: {', '.join(sorted(places)[:20])}." if places else "Name a job by its id (j-…)."
            raise InvalidRequest(f"There is no job {name!r} to depend on. {known}", field="depends_on")
    return tuple(Dependency(name=name, job_id=f"#{places[name]}" if name in places else name) for name in named)


def _cwd(asked: str, fallback: str) -> str:
    path = Path(fallback, expanded(asked)) if asked else Path(fallback)
    if "\0" in str(path):
        raise InvalidRequest("cwd contains a NUL character.", field="cwd")
    if not path.is_absolute():
        raise InvalidRequest(f"cwd {str(path)!r} is not absolute.", field="cwd")
    try:
        is_directory = path.is_dir()
    except OSError as error:
        raise InvalidRequest(f"cwd {str(path)!r}: {error.strerror}. Name another.", field="cwd") from error
    if not is_directory:
        raise InvalidRequest(f"cwd {str(path)!r} is not a directory. Create it, or name another.", field="cwd")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InvalidRequest(f"cwd {str(path)!r} may not be entered by this user.", field="cwd")
    return str(path.resolve())


def _check_permissions(mode: PermissionMode, project: ProjectFiles, cwd: str, rules: RequestRules) -> None:
    if mode is PermissionMode.BYPASS and not rules.allow_bypass:
        message = "permission_mode=bypassPermissions is off here. Name the tools the job needs, or set CLAUDE_JOBS_ALLOW_BYPASS=true."
        raise NotPermitted(message, field="permission_mode")
    trusted = any(Path(cwd).is_relative_to(expanded(directory).resolve()) for directory in rules.trusted_dirs)
    if project is ProjectFiles.FULL and not trusted:
        message = f"project=full would run {cwd!r}'s own hooks and settings. Add it to CLAUDE_JOBS_TRUSTED_DIRS if you trust it."
        raise NotPermitted(message, field="project")
