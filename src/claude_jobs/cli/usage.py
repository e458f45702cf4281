"""`usage`: what was used and what it cost, by organization, provider, model, key and day, from the ledger."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.generate import provider_names

_GROUPS = ("day", "org", "provider", "model", "key")
_FIGURES = {
    "calls": "CALLS",
    "errors": "ERRORS",
    "cached": "CACHED",
    "input": "INPUT",
    "output_tokens": "OUTPUT",
    "cost": "COST",
    "unpriced_calls": "NO PRICE",
}


def _groups(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [name for value in values for name in value.split(",") if name]


def _moment(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if not value:
        return None
    from claude_jobs.errors import InvalidRequest
    from claude_jobs.services.moments import parse_past

    try:
        return parse_past(value, int(time.time() * 1000), str(param.name), zone=os.environ.get("TZ", ""))
    except InvalidRequest as error:
        raise click.BadParameter(error.message) from error


@click.command()
@click.option(
    "--since", "since_ms", callback=_moment, default="", metavar="MOMENT", help="From then on: 7d (ago), 2026-11-01."
)
@click.option("--until", "until_ms", callback=_moment, default="", metavar="MOMENT", help="Before then.")
@click.option("--org", default="", help="Only this organization.")
@click.option("--provider", default="", shell_complete=provider_names, help="Only this provider.")
@click.option("--model", default="", help="Only this model.")
@click.option(
    "--by",
    multiple=True,
    callback=_groups,
    metavar="GROUP",
    help=f"{', '.join(_GROUPS)}; repeat it, or separate by commas. Default: day,org,provider,model.",
)
@click.option(
    "--format", "fmt", type=click.Choice(["table", "csv", "json", "focus"]), default="table", show_default=True
)
@output.json_option
def usage(by: Sequence[str], fmt: str, as_json: bool, **query: object) -> int:
    """Sum up what `generate` used and cost. Days are UTC; keys are shown by their fingerprints.

    Calls whose price nobody knows are counted, and not in the cost. focus: columns of the FinOps FOCUS specification.
    """
    wanted = "json" if as_json else fmt
    asked = {name: value for name, value in query.items() if value not in (None, "")}
    with Connection() as worker:
        said = worker.call("usage", {**asked, "by": list(by), "format": "json" if wanted == "table" else wanted})
    if wanted == "table":
        _table(json.loads(said["text"]), by)
    else:
        output.text(said["text"])
    return exits.OK


def _table(found: Mapping[str, Any], by: Sequence[str]) -> None:
    groups = [name for name in _GROUPS if name in (by or _GROUPS[:4])]
    columns = {**{name: name.upper() for name in groups}, **_FIGURES}
    rows = [_row(one) for one in found["rows"]]
    if len(rows) > 1:
        rows.append({groups[0]: "total", **_row(found["total"])})
    output.table(rows, columns, empty="Nothing was used.")


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    read = one["input_tokens"] + one["cache_read_tokens"] + one["cache_write_tokens"]
    return {**one, "input": read, "cost": f"${float(one['cost_usd']):.6f}"}
