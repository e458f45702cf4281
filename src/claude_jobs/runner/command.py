"""The command line and environment of one attempt. Pure: everything it depends on is an argument."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from claude_jobs.domain.job import PermissionMode, ProjectFiles
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.domain.usage import NANO
from claude_jobs.runner.environment import is_secret, secret_values
from claude_jobs.runner.mcp_config import HOME, RULE, Access, PrivateFile, config_of
from claude_jobs.runner.order import Order
from claude_jobs.runner.proctree import MARK
from claude_jobs.runner.prompt import CONTINUE, system_line, user_line
from claude_jobs.runner.schema import compiled
from claude_jobs.runner.transcript import Standing, prompt_id

JOB_ID = "CLAUDE_JOBS_JOB_ID"
OAUTH_TOKEN = "CLAUDE_CODE_OAUTH_TOKEN"  # noqa: S105 - the variable's name
API_KEY = "ANTHROPIC_API_KEY"
SECRETS = (OAUTH_TOKEN, API_KEY)
"""The variables that carry a credential's secret."""
_FIXED_ENV = {
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
}
SETTINGS = '--settings={"crossSessionInbound":"refuse"}'
"""CLIs of one user take messages from each other as prompts, unasked and while they wait: a job takes none (measured)."""
_RULED_BY_MODE = frozenset({"Read", "Edit", "Write", "NotebookEdit", "Glob", "Grep"})
"""Naming one of these makes it available; whether it may act, and where, the permission mode decides."""
_ALIASES = {"Agent": "Task", "KillShell": "TaskStop"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start and what to write to its stdin first.

    Attributes:
        system: Line that adds to the system prompt of the whole process, b"" for none.
        prompt: The first message.
        counts_from_nusd: The CLI's own count of the session's cost begins here.
        private: File that `argv` names; it is there while the process lives.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: str
    system: bytes = field(repr=False)
    prompt: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    counts_from_nusd: int = 0
    private: PrivateFile | None = None

    @property
    def stdin(self) -> bytes:
        """All of it, for a process that starts."""
        return self.system + self.prompt


def build(
    order: Order,
    claude: Path,
    *,
    standing: Standing = Standing(),  # noqa: B008 - frozen
    instructions: str = "",
    access: Access | None = None,
) -> Command:
    """The command of one attempt.

    Args:
        standing: Where the job stands with its session.
        instructions: Text of the project's CLAUDE.md files.
        access: How the job reaches its worker; None: not at all.

    Raises:
        InvalidRequest: The schema of its answer is none.
    """
    spec = order.spec
    system = "\n\n".join(text for text in (instructions, spec.system) if text.strip())
    servers = config_of(order, access)
    return Command(
        argv=(str(claude), *_arguments(order, standing, servers)),
        env={**_environment(order), **({HOME: access.home} if access else {})},
        cwd=spec.cwd,
        system=system_line(system) if system else b"",
        prompt=_first_line(order, standing),
        secrets=_secrets(order),
        counts_from_nusd=standing.cost_nusd,
        private=servers,
    )


def _secrets(order: Order) -> tuple[str, ...]:
    """None of these may come out, whatever the job prints."""
    credential = order.credential
    known = (credential.secret, order.lineage_secret, *secret_values(credential.profile))
    return tuple(dict.fromkeys(secret for secret in known if secret))


def _first_line(order: Order, standing: Standing) -> bytes:
    if standing.has_said:
        return user_line(CONTINUE)
    return user_line(order.spec.prompt, message_id=prompt_id(order) if standing.resume else "")


def _arguments(order: Order, standing: Standing, servers: PrivateFile | None) -> list[str]:
    """`--name=value` throughout, so that no value can be taken for an option."""
    spec = order.spec
    arguments = ["-p", "--output-format=stream-json", "--input-format=stream-json", "--verbose"]
    arguments += ["--include-partial-messages", f"--model={spec.model}"]
    arguments += [*_session(order, standing), "--strict-mcp-config", *_mcp_servers(servers), *_sources(spec.project)]
    arguments.append(SETTINGS)
    arguments += [f"--permission-mode={spec.permission_mode.value}", *_tools(spec.tools, may_spawn=servers is not None)]
    if spec.effort:
        arguments.append(f"--effort={spec.effort}")
    if spec.output_schema:
        arguments.append(f"--json-schema={compiled(spec.output_schema).for_cli}")
    if spec.max_cost_usd is not None:
        left_nusd = max(1_000, round(spec.max_cost_usd * NANO) - order.spent_nusd)
        # The CLI holds against it what this process spends, not what the session has cost before (measured).
        arguments.append(f"--max-budget-usd={left_nusd / NANO:.6f}")
    return arguments


def _session(order: Order, standing: Standing) -> list[str]:
    if not standing.resume:
        return [f"--session-id={order.session_id}"]
    arguments = [f"--resume={standing.resume}"]
    if standing.is_fork:
        arguments += ["--fork-session", f"--session-id={order.session_id}"]
    if order.spec.resume_session:
        # Else the CLI goes on with the system texts of the earlier job, and ours are not heard.
        arguments.append("--system-prompt-snapshot=off")
    return arguments


def _mcp_servers(file: PrivateFile | None) -> list[str]:
    return [f"--mcp-config={file.path}"] if file else []


def _sources(project: ProjectFiles) -> list[str]:
    match project:
        case ProjectFiles.NONE | ProjectFiles.INSTRUCTIONS:
            return ["--setting-sources="]
        case ProjectFiles.FULL:
            return []
        case _:
            assert_never(project)


def _tools(tools: tuple[str, ...] | None, *, may_spawn: bool) -> list[str]:
    arguments = [] if tools is None else ["--tools=" + ",".join(tool_names(tools))]
    rules = [tool for tool in tools or () if tool not in _RULED_BY_MODE] + [RULE] * may_spawn
    return [*arguments, "--allowedTools=" + ",".join(rules)] if rules else arguments


def tool_names(tools: tuple[str, ...]) -> tuple[str, ...]:
    """The built-in tools named by `tools`, each once: "Bash(git *)" names Bash; servers' tools are not built in."""
    bases = (tool.partition("(")[0].strip() for tool in tools)
    return tuple(dict.fromkeys(base for base in bases if base and not base.startswith("mcp__")))


def missing_tools(tools: tuple[str, ...] | None, offered: tuple[str, ...]) -> tuple[str, ...]:
    """Tools asked for that this CLI does not have: it would go on without a word."""
    if not tools:
        return ()
    return tuple(name for name in tool_names(tools) if name not in offered and _ALIASES.get(name) not in offered)


def _environment(order: Order) -> dict[str, str]:
    env = {name: value for name, value in order.spec.env if not is_secret(name)}
    env.setdefault("PATH", os.defpath)
    if order.spec.permission_mode is not PermissionMode.BYPASS:
        env.pop("IS_SANDBOX", None)
    return {
        **env,
        **dict(order.credential.profile),
        **_FIXED_ENV,
        **_secret(order.credential),
        MARK: order.home_mark,
        JOB_ID: order.job_id,
    }


def _secret(credential: Credential) -> dict[str, str]:
    match credential.kind:
        case TokenKind.OAUTH:
            return {OAUTH_TOKEN: credential.secret}
        case TokenKind.API_KEY:
            return {API_KEY: credential.secret}
        case TokenKind.LOGIN | TokenKind.CLOUD:
            return {}
        case _:
            assert_never(credential.kind)
