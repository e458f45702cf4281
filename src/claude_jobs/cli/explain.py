"""`explain`: what happened to a call on its way to an answer, step by step; without a call, the latest ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection

View = Mapping[str, Any]

CALLS = {
    "at": "TIME",
    "id": "CALL",
    "outcome": "OUTCOME",
    "cached": "CACHED",
    "tokens": "TOKENS",
    "cost": "COST",
    "took": "TOOK",
    "org": "ORG",
    "route": "ROUTE",
}
STEPS = {
    "at": "AT",
    "what": "STEP",
    "outcome": "OUTCOME",
    "took": "TOOK",
    "route": "ROUTE",
    "cost": "COST",
    "why": "WHY",
}


def call_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: ids of recent calls, if a worker runs."""
    from claude_jobs.errors import ClaudeJobsError

    try:
        with Connection(start=False) as worker:
            calls = worker.call("calls", {"limit": 100}, timeout_s=2.0, again=False)["calls"]
    except ClaudeJobsError:
        return []
    return [call["id"] for call in calls if call["id"].startswith(incomplete)]


@click.command()
@click.argument("call_id", required=False, metavar="[CALL_ID]", shell_complete=call_ids)
@click.option("--org", default="", help="Without CALL_ID: only this organization's calls.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Without CALL_ID: how many.")
@output.json_option
def explain(call_id: str | None, org: str, limit: int, as_json: bool) -> int:
    """Say why a call of `generate` went where it went, and what each step cost.

    Without CALL_ID: the latest calls, newest first.
    """
    with Connection() as worker:
        method, params = ("explain", {"id": call_id}) if call_id else ("calls", {"org": org, "limit": limit})
        found = worker.call(method, params)
    if as_json:
        output.emit(found)
    elif call_id is None:
        empty = "No call is on record. `claude-jobs generate 'a question'` makes one."
        output.table([call_row(call) for call in found["calls"]], CALLS, empty=empty)
    else:
        output.text(head(found))
        output.table([step_row(step) for step in found["explain"]], STEPS, empty="It has no steps.")
    return exits.OK


def lines(call: View) -> list[str]:
    """The explanation of a call as lines: what it came to, then a line for each step."""
    return [head(call), *output.plain([step_row(step) for step in call["explain"]], STEPS)]


def head(call: View) -> str:
    """What a call came to, in one line."""
    usage = call["usage"]
    how = f" ({call['cached']})" if call["cached"] else ""
    counted = "" if usage["provenance"] == "reported" else f" ({usage['provenance']})"
    price = f" ({call['price']})" if call["price"] else ""
    parts = [
        f"{call['id']} {output.moment(call['at_ms'])}",
        f"org {call['org']}",
        f"{call['outcome']}{how}",
        output.route(call["route"]),
        f"{usage['total_tokens']} tokens{counted}",
        f"{output.price(call)}{price}",
        output.duration(call["took_ms"] / 1000),
    ]
    return output.safe(" · ".join(parts))


def call_row(call: View) -> dict[str, Any]:
    """A call as a row of a table."""
    return {
        **call,
        "at": output.moment(call["at_ms"]),
        "route": output.route(call["route"]),
        "tokens": call["usage"]["total_tokens"],
        "cost": output.price(call),
        "took": output.duration(call["took_ms"] / 1000),
    }


def step_row(step: View) -> dict[str, Any]:
    """A step as a row of a table; what says nothing is empty."""
    return {
        "at": f"{step['at_ms'] / 1000:.3f} s",
        "what": step["what"],
        "outcome": step["outcome"],
        "took": f"{step['took_ms'] / 1000:.3f} s" if step.get("took_ms") else "",
        "route": output.route(step["route"]) if "route" in step else "",
        "cost": output.price(step) if "cost_usd" in step else "",
        "why": step.get("why", ""),
    }
