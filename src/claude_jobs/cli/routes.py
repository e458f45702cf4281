"""`routes`: providers' models that are left alone after failures, and keys that wait for a limit or were refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection

_CIRCUITS = {"route": "ROUTE", "state": "CIRCUIT", "opens": "TRIED AGAIN IN", "faults_in_a_row": "FAULTS IN A ROW"}
_KEYS = {
    "route": "ROUTE",
    "state": "KEY",
    "cooling": "WAITS",
    "requests_left": "REQUESTS LEFT",
    "tokens_left": "TOKENS LEFT",
    "why": "WHY",
}


@click.command()
@click.option("--restore", metavar="FINGERPRINT", help="Use a key again that its provider had refused.")
@output.json_option
def routes(restore: str | None, as_json: bool) -> int:
    """Show circuits and keys that are in trouble, or were lately.

    A circuit is closed while calls go through, open while they do not, half_open while one call tries. A route is a
    provider, a model and a key, the key by its fingerprint.
    """
    with Connection() as worker:
        if restore:
            worker.call("restore_key", {"fingerprint": restore})
        found = worker.call("routes")
    if as_json:
        output.emit(found)
        return exits.OK
    circuits = [circuit_row(one) for one in found["circuits"] if one["state"] != "closed" or one["faults_in_a_row"]]
    keys = [key_row(one) for one in found["keys"]]
    output.table(circuits, _CIRCUITS, empty="No circuit has failed lately.")
    if circuits and keys:
        output.text("")
    output.table(keys, _KEYS, empty="No key waits or was refused.")
    return exits.OK


def circuit_row(one: Mapping[str, Any]) -> dict[str, Any]:
    """A circuit as a row of a table."""
    opens = output.duration(one["open_for_s"]) if one["open_for_s"] else ""
    return {**one, "route": output.route(one), "opens": opens}


def key_row(one: Mapping[str, Any]) -> dict[str, Any]:
    """A key as a row of a table."""
    state = "refused" if one["dead"] else "cooling" if one["cooling_for_s"] else "ok"
    cooling = output.duration(one["cooling_for_s"]) if one["cooling_for_s"] else ""
    return {**one, "route": output.route(one), "state": state, "cooling": cooling, "why": one["dead"]}
