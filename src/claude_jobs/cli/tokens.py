"""`tokens`: the credentials the worker knows, by fingerprint, with their use and their limits."""

from __future__ import annotations

from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection

_COLUMNS = {
    "fingerprint": "FINGERPRINT",
    "name": "NAME",
    "kind": "KIND",
    "status": "STATUS",
    "running": "RUNNING",
    "jobs": "JOBS",
    "limits_hit": "LIMITS",
    "used": "USED",
    "cost": "COST",
    "resets_at": "RESETS",
    "why": "WHY",
}


@click.command()
@click.option("--restore", metavar="FINGERPRINT", help="Use a quarantined token again.")
@output.json_option
def tokens(restore: str | None, as_json: bool) -> int:
    """List the tokens, their use and their limits.

    A token is shown by its fingerprint, never itself.
    """
    with Connection() as worker:
        if restore:
            worker.call("restore_token", {"fingerprint": restore})
            output.note(f"Token {restore} is used again.")
        found = worker.call("tokens")["tokens"]
    if as_json:
        output.emit({"tokens": found})
    else:
        empty = "No token is known yet; the first job brings them. `claude-jobs doctor` says what would be used."
        output.table([row(token) for token in found], _COLUMNS, empty=empty)
    return exits.OK


def row(token: dict[str, Any]) -> dict[str, Any]:
    """A token as a row of a table."""
    windows = {"five_hour": "5h", "seven_day": "7d"}
    used = [f"{windows.get(name, name)} {share:.0%}" for name, share in token["utilization"].items()]
    return {**token, "used": " ".join(used), "cost": output.dollars(token["cost_usd"])}
