"""`doctor`: looks at everything a job needs and says what is wrong, with its remedy. Changes nothing and starts no worker."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from claude_jobs import log
from claude_jobs.cli import exits, output
from claude_jobs.cli.checks.check import Check, Status

_SIGNS = {Status.OK: "ok", Status.NOTE: "note", Status.PROBLEM: "PROBLEM"}


@click.command()
@output.json_option
def doctor(as_json: bool) -> int:
    """Look for what is wrong, and say who is billed.

    Looks at claude, its login, the providers' keys, the state directory, the store and the worker. Starts and changes nothing.
    """
    from claude_jobs.cli.checks import claude, machine, providers, state, worker

    log.configure("error")  # what the checks find they say themselves
    patient = machine.Patient.of(os.environ)
    found: list[Check] = []
    for look in (*machine.CHECKS, *claude.CHECKS, *providers.CHECKS, *state.CHECKS, *worker.CHECKS):
        checks = look(patient)
        found += checks
        if not as_json:
            for check in checks:
                _say(check)
    problems = sum(check.status is Status.PROBLEM for check in found)
    if as_json:
        output.emit({"ok": not problems, "checks": [asdict(check) for check in found]})
    else:
        output.text(f"\n{problems} problem{'s' if problems != 1 else ''}." if problems else "\nAll is well.")
    return exits.FAILED if problems else exits.OK


def _say(check: Check) -> None:
    sign = f"{_SIGNS[check.status]:<8}"
    if output.is_terminal():
        sign = click.style(sign, fg={Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "red"}[check.status])
    output.text(f"{sign} {check.name:<11} {output.safe(check.message)}")
    if check.remedy:
        output.text(f"{'':<8} {'':<11} -> {output.safe(check.remedy)}")
