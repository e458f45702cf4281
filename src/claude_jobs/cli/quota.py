"""`quota`: how much each organization, key or model may use within a window, and how much of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection

_COLUMNS = {
    "name": "QUOTA",
    "used_text": "USED",
    "held_text": "HELD",
    "limit_text": "LIMIT",
    "share": "USED %",
    "resets": "RESETS",
    "set_by": "SET BY",
    "id": "ID",
}


def quota_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: ids of quotas that were set, if a worker runs."""
    from claude_jobs.errors import ClaudeJobsError

    try:
        with Connection(start=False) as worker:
            quotas = worker.call("quotas", timeout_s=2.0, again=False)["quotas"]
    except ClaudeJobsError:
        return []
    return [one["id"] for one in quotas if one["is_set"] and one["id"].startswith(incomplete)]


@click.group(invoke_without_command=True)
@click.pass_context
def quota(ctx: click.Context) -> int:
    """Show, set and drop quotas of tokens, requests and dollars.

    Without a command: show. Defaults for every organization are settings (TOKEN_QUOTA, COST_QUOTA_USD, CLI_QUOTA_USD,
    QUOTA_RESET_INTERVAL); what is set here goes before them.
    """
    return exits.OK if ctx.invoked_subcommand else _shown("", as_json=False)


@quota.command()
@click.option("--org", default="", help="Whose quotas. Default: 'default'.")
@output.json_option
def show(org: str, as_json: bool) -> int:
    """Show the quotas of an organization and its jobs, and those of all keys and models."""
    return _shown(org, as_json=as_json)


def _shown(org: str, *, as_json: bool) -> int:
    with Connection() as worker:
        found = worker.call("quotas", {"org": org})
    if as_json:
        output.emit(found)
        return exits.OK
    empty = "No quota applies: everything may be used. `claude-jobs quota set 100000 --window day` sets one."
    output.table([row(one) for one in found["quotas"]], _COLUMNS, empty=empty)
    return exits.OK


@quota.command(name="set")
@click.argument("limit", type=click.FloatRange(min=0))
@click.option("--unit", type=click.Choice(["tokens", "requests", "usd"]), default="tokens", show_default=True)
@click.option(
    "--window", default="3600", show_default=True, help="Seconds, or hour, day, week, month (UTC).", metavar="WINDOW"
)
@click.option(
    "--scope",
    type=click.Choice(["org", "key", "model", "cli"]),
    default="org",
    show_default=True,
    help="Whose: cli is the claude jobs of an organization, in dollars.",
)
@click.option(
    "--subject",
    default="",
    metavar="NAME",
    help="Organization, fingerprint of a key, or PROVIDER/MODEL. Default: each one separately.",
)
@output.json_option
def put(limit: float, as_json: bool, **options: object) -> int:
    """Set a quota, for all processes from now on. What was used stays used.

    LIMIT is a number of tokens, requests or dollars. 0 allows nothing; to have no limit, drop the quota.
    """
    with Connection() as worker:
        made = worker.call("set_quota", {"limit": limit, **options})
    if as_json:
        output.emit(made)
        return exits.OK
    one = row(made)
    output.text(made["id"])
    output.note(f"{made['name']}: {one['used_text']} of {one['limit_text']} used; it resets {one['resets']}.")
    return exits.OK


@quota.command()
@click.argument("quota_id", metavar="ID", shell_complete=quota_ids)
@output.json_option
def drop(quota_id: str, as_json: bool) -> int:
    """Forget a quota that was set. ID is as `claude-jobs quota show` has it."""
    with Connection() as worker:
        worker.call("drop_quota", {"id": quota_id})
    if as_json:
        output.emit({"dropped": quota_id})
    else:
        output.note(f"Dropped {quota_id}. A default of the settings applies again, if there is one.")
    return exits.OK


def row(one: Mapping[str, Any]) -> dict[str, Any]:
    """A quota as a row of a table."""
    taken = one["used"] + one["held"]
    return {
        **one,
        "used_text": _amount(one["used"], one["unit"]),
        "held_text": _amount(one["held"], one["unit"]) if one["held"] else "",
        "limit_text": _amount(one["limit"], one["unit"]),
        "share": f"{100 * taken / one['limit']:.0f} %" if one["limit"] else "none allowed",
        "resets": output.moment(one["resets_ms"]),
        "set_by": "quota set" if one["is_set"] else "settings",
    }


def _amount(value: float, unit: str) -> str:
    return f"${value:,.4f}" if unit == "usd" else f"{value:,}"
