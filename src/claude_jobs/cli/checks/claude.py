"""Checks of the CLI, its login, who pays, and whether Claude Code knows us."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from claude_jobs.cli.checks.check import Check, noted, ok, problem
from claude_jobs.cli.checks.machine import Look, Patient, env_file
from claude_jobs.cli.installation import Entry, config_file, own_command, registered
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import ClaudeJobsError, ClaudeNotFound, LoginUnknown
from claude_jobs.policy import credentials
from claude_jobs.runner.environment import Pairs, capture, capture_profile
from claude_jobs.runner.executable import claude_version, find_claude
from claude_jobs.services.caller import Caller
from claude_jobs.services.login import LoginProbe
from claude_jobs.services.tokens import is_cloud, profile_of

_PAYERS = {
    credentials.OAUTH: "a Claude subscription",
    credentials.API_KEY: "an Anthropic API account, per use",
}
_LOGIN_REMEDY = "Log in with `claude /login`, or put the token of `claude setup-token` into CLAUDE_CODE_TOKEN."


def _claude(patient: Patient) -> list[Check]:
    try:
        found = _find(patient, patient.environ.get("PATH", os.defpath))
    except ClaudeNotFound as error:
        what, _, remedy = error.message.partition(". ")
        return [problem("claude", f"{what}.", remedy)]
    version = claude_version(found)
    if not version:
        return [
            problem("claude", f"{found} does not answer `--version`.", "Run it by hand, or install Claude Code anew.")
        ]
    return [ok("claude", f"{version} at {found}")]


def _find(patient: Patient, path: str) -> Path:
    return find_claude(patient.settings.cli or None, path)


def _billing(patient: Patient) -> list[Check]:
    """Who pays for a job that is submitted from here, worked out as the worker does it."""
    caller = _caller(patient)
    if is_cloud(caller.profile):
        return [ok("billing", "Jobs are paid by your cloud account (Bedrock or Vertex).")]
    offered = list(caller.credentials)
    own = credentials.pick(env_file(patient.home.env_file)) if not caller.profile else []
    chosen = credentials.chosen(offered) + credentials.chosen(own)
    login = _login(patient, caller)
    if chosen:
        return [*_tokens(chosen, profile_of(caller)), *_unused([*offered, *own], login=login is True)]
    if isinstance(login, LoginUnknown):
        return [problem("billing", login.message, _LOGIN_REMEDY)]
    if login:
        message = "Jobs are paid by the account that claude is logged in with."
        return [ok("billing", message), *_unused([*offered, *own], login=False)]
    if credentials.fallback(offered) or credentials.fallback(own):
        where = "" if credentials.fallback(offered) else f" of {patient.home.env_file}"
        message = f"Jobs are paid by ANTHROPIC_API_KEY{where}, per use: there is no token and no login."
        return [noted("billing", message, "To use a subscription: " + _LOGIN_REMEDY)]
    here = credentials.pick(env_file(Path.cwd() / ".env"))
    if here:
        message = f"Jobs from this directory are paid by {here[0][0]} of its .env file."
        return [noted("billing", message, "To have it everywhere: " + _LOGIN_REMEDY)]
    return [problem("billing", "There is no token and no login: a spawn would be refused.", _LOGIN_REMEDY)]


def _caller(patient: Patient) -> Caller:
    return Caller(
        cwd=str(Path.cwd()),
        submitter="",
        env=capture(patient.environ, patient.settings.pass_env),
        profile=capture_profile(patient.environ),
        credentials=tuple(credentials.pick(patient.environ)),
    )


def _tokens(chosen: list[tuple[str, str, str]], profile: Pairs) -> list[Check]:
    checks: list[Check] = []
    for name, kind, secret in chosen:
        fingerprint = Credential(name=name, kind=TokenKind(kind), secret=secret, profile=profile).fingerprint
        checks.append(ok("billing", f"Jobs are paid by {_PAYERS[kind]}: {name} ({fingerprint})."))
    return checks


def _unused(offered: list[tuple[str, str, str]], *, login: bool) -> list[Check]:
    """What is there and is not used, so that nobody wonders."""
    keys = dict.fromkeys(name for name, _, _ in credentials.fallback(offered))
    unused = [*keys, "the login of claude"] if login else [*keys]
    if not unused:
        return []
    return [
        noted(
            "billing", f"Not used for jobs: {', '.join(unused)}.", "List a key as CLAUDE_CODE_TOKENn to have it used."
        )
    ]


def _login(patient: Patient, caller: Caller) -> bool | LoginUnknown:
    try:
        probe = LoginProbe(lambda path: _find(patient, path))
        return asyncio.run(probe({**dict(caller.env), **dict(caller.profile)}))
    except LoginUnknown as error:
        return error


def _registration(patient: Patient) -> list[Check]:
    entry = registered(patient.environ)
    if entry is None:
        where = config_file(patient.environ)
        return [noted("mcp", f"Claude Code does not know claude-jobs (no entry in {where}).", "claude-jobs install")]
    if not Path(entry.command).is_file():
        return [problem("mcp", f"Claude Code starts {entry.command!r}, which is not there.", "claude-jobs install")]
    try:
        own = Entry(str(own_command()), ("mcp",))
    except ClaudeJobsError:
        own = entry
    if entry != own:
        message = f"Claude Code starts another installation: {entry.command}"
        return [noted("mcp", message, "claude-jobs install makes it this one.")]
    return [ok("mcp", f"Claude Code starts {entry.command} mcp")]


CHECKS: tuple[Look, ...] = (_claude, _billing, _registration)
